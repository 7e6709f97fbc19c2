"""How a model's calls are shared among its versions. Light: the supervisor decides it, the workers obey."""

import msgspec


class Weight(msgspec.Struct, frozen=True):
    """A version and the share of calls, 0 to 1, that it answers."""

    version: int
    share: float


class Shadow(msgspec.Struct, frozen=True):
    """A version that gets copies of answered calls; its own answers are compared and thrown away.

    `address` is the Unix socket of the model process that holds it; `share`, 0 to 1, of the batches are copied.
    """

    version: int
    address: str
    share: float = 1.0


class Route(msgspec.Struct, frozen=True):
    """Who answers the calls of one model that name neither a version nor a label.

    `weights` are shares that add up to 1, the candidate's first, so that a caller once moved to it stays with it while
    its share grows; none means the highest version that is AVAILABLE. `sticky` is `header:NAME` or `input:NAME`, whose
    value keeps a caller on one version; empty draws for every call.
    """

    weights: tuple[Weight, ...] = ()
    sticky: str = ""
    shadows: tuple[Shadow, ...] = ()

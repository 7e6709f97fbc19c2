"""What a repository holds of a model, as whoever looks at it tells."""

from collections.abc import Mapping

import msgspec


class Found(msgspec.Struct, frozen=True):
    """A complete version in the repository. `mark` changes whenever one of its files does; `error` says why it cannot
    be served, where that is known without loading it."""

    folder: str
    mark: str
    error: str = ""


class Seen(msgspec.Struct, frozen=True):
    """What the repository holds of a model. `problem` says why it cannot be read at all: then nothing is unloaded.

    `arriving` versions are there but may still be written: look again soon. `warnings` are for the log.
    """

    versions: Mapping[int, Found] = {}
    problem: str = ""
    arriving: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()

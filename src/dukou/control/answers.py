"""What the admin API answers, for who answers and for who asks. What is in them is in `dukou.control.operations`."""

import msgspec

from dukou.control.operations import Audited, ModelStatus


class Health(msgspec.Struct, frozen=True):
    """That the control plane answers."""

    version: str
    status: str = "ok"


class Models(msgspec.Struct, frozen=True):
    """Every model."""

    models: list[ModelStatus]


class History(msgspec.Struct, frozen=True):
    """Changes, the latest first."""

    changes: list[Audited]


class Taken(msgspec.Struct, frozen=True):
    """How many answers the outcomes were about."""

    taken: int


class Refusal(msgspec.Struct, frozen=True):
    """Why not: a sentence, and its kind (a name of `dukou.core.errors.Code`)."""

    error: str
    code: str

"""The names of what is asked for and of what is served. Light: the supervisor needs these and no arrays."""

from enum import Enum

import msgspec


class ModelRef(msgspec.Struct, frozen=True):
    """What a caller asks for: a model, perhaps one version of it or one label."""

    name: str
    version: int | None = None
    label: str | None = None


class ModelVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is served: one version of one model."""

    name: str
    version: int


class State(Enum):
    """The life of a version; it only moves forward."""

    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"

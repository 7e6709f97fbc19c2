"""What is said once requests are answered."""

import msgspec

from dukou.core.version import ModelVersion


class Ready(msgspec.Struct, frozen=True):
    """Where the server answers and in which dialect each time, which versions can be called, and what people should
    know beside that."""

    urls: tuple[str, ...]
    dialects: tuple[str, ...]
    models: tuple[ModelVersion, ...]
    warnings: tuple[str, ...] = ()

"""Which configurations of TensorFlow Serving are valid: the checks of its `model_servers/server_core.cc`, in its words.
Pure, and light: the supervisor asks as well."""

import re
from collections.abc import Collection
from typing import Any

from dukou.wire.tf_says import says

PLATFORM = "tensorflow"
"""The platform that this protocol's configurations name; here it stands for every format that is served."""

PLATFORMS = frozenset({PLATFORM, "onnx", "python", "sklearn"})
"""What `model_platform` may say. What a version is, its files say: the names mean the same."""

_TENSORFLOW = 1
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def check(config: Any, served: Collection[str]) -> None:
    """That a ModelServerConfig can be served, where models named `served` are already.

    Raises DukouError MALFORMED_REQUEST.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise says(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported"
        )
    models = config.model_config_list.config
    _check_names([model.name for model in models])
    for model in models:
        _check_platform(model, served)
        if not model.base_path.startswith("/") and not _URI.match(model.base_path):
            raise says(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )
        if "" in model.version_labels:
            raise says(f"Version label of model {model.name} is empty")


def _check_names(names: Collection[str]) -> None:
    seen = set()
    for name in names:
        if not name:
            raise says("A model in the config list has no name")
        if name in seen:
            raise says(f"Illegal to list model {name} multiple times in config list")
        seen.add(name)


def _check_platform(model: Any, served: Collection[str]) -> None:
    platform = model.model_platform
    if model.model_type:
        if platform:
            raise says(
                "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."
            )
        if model.model_type != _TENSORFLOW:
            raise says(f"ModelServerConfig::model_type choice {model.model_type} not supported.")
        platform = PLATFORM
    if not platform:
        raise says(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform."
        )
    if platform not in PLATFORMS and model.name in served:
        raise says(
            f"Illegal to change a model's platform. For model {model.name} platform was {PLATFORM} "
            f"and new platform requested is {platform}"
        )
    if platform not in PLATFORMS:
        raise says(f"Model {model.name} requests unsupported platform {platform}")

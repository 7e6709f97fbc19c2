"""Which configurations of TensorFlow Serving are valid: the checks of its `model_servers/server_core.cc`, in its words.
Pure."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from dukou.core.errors import Reason
from dukou.core.message import Table
from dukou.core.version import State
from dukou.wire.tf_errors import says

PLATFORM = "tensorflow"
"""The only platform that this protocol's configurations name."""

_TENSORFLOW = 1
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def check(config: Any, table: Table) -> None:
    """That a ModelServerConfig is one that could take the place of what `table` serves.

    Raises DukouError MALFORMED_REQUEST for one that never can, PRECONDITION_FAILED for labels of versions that are not
    AVAILABLE.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise says(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported"
        )
    models = config.model_config_list.config
    _check_names([model.name for model in models])
    for model in models:
        _check_platform(model, table.models)
        if not model.base_path.startswith("/") and not _URI.match(model.base_path):
            raise says(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )
    for model in models:
        for label, version in sorted(model.version_labels.items()):
            served = table.models.get(model.name, {}).get(version)
            if not label:
                raise says(f"Version label of model {model.name} is empty")
            if served is None or served.state is not State.AVAILABLE:
                text = (
                    f"Request to assign label to version {version} of model {model.name}, "
                    "which is not currently available for inference"
                )
                raise says(text, Reason.PRECONDITION_FAILED)


def _check_names(names: Collection[str]) -> None:
    seen = set()
    for name in names:
        if not name:
            raise says("A model in the config list has no name")
        if name in seen:
            raise says(f"Illegal to list model {name} multiple times in config list")
        seen.add(name)


def _check_platform(model: Any, served: Mapping[str, Any]) -> None:
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
    if platform != PLATFORM and model.name in served:
        raise says(
            f"Illegal to change a model's platform. For model {model.name} platform was {PLATFORM} "
            f"and new platform requested is {platform}"
        )
    if platform != PLATFORM:
        raise says(f"Model {model.name} requests unsupported platform {platform}")

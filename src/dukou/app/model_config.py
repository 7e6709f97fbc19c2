"""TensorFlow Serving's model config file: what it declares, with that server's semantics.

Facts from tensorflow/serving's `config/model_server_config.proto`, `model_servers/server_core.cc` and its guide to
serving configuration.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from dukou.app.declare import with_settings
from dukou.config import ModelsConfig
from dukou.core.errors import DukouError, Reason
from dukou.lifecycle.labels import check_labels
from dukou.lifecycle.policy import All, Latest, Policy, Specific
from dukou.lifecycle.wanted import Declared
from dukou.protos.text import parse_text
from dukou.wire.tf_reload import check

MESSAGE = "tensorflow.serving.ModelServerConfig"
MAX_FILE_BYTES = 4 * 1024 * 1024


def read(path: str | Path) -> Any:
    """The ModelServerConfig in a file of protobuf's text format.

    Raises DukouError CONFIG_INVALID, which tells the line, for a file that cannot be read or declares nothing.
    """
    message = read_text(path, MESSAGE)
    if message.WhichOneof("config") != "model_config_list":
        # A file that is being written may be empty for a moment; only `model_config_list {}` is to serve nothing.
        raise _invalid(f"{_unreadable(MESSAGE)}: {path}: it has no model_config_list")
    return message


def read_text(path: str | Path, name: str) -> Any:
    """The message of class `name` in a file of protobuf's text format. Raises DukouError CONFIG_INVALID."""
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _invalid(f"{path}: {error.strerror or error}") from None
    if len(content) > MAX_FILE_BYTES:
        raise _invalid(f"{path}: it is larger than {MAX_FILE_BYTES} bytes")
    try:
        return parse_text(content.decode(), name)
    except ValueError as error:  # UnicodeDecodeError is one
        raise _invalid(f"{_unreadable(name)}: {path}: {error}") from None


def declared(message: Any, config: ModelsConfig, served: Collection[str] = ()) -> Mapping[str, Declared]:
    """The models that a ModelServerConfig lists, by name. `served` are those of the configuration before it.

    It is the whole truth: what it does not list is not to be served. Raises DukouError: MALFORMED_REQUEST for what
    TensorFlow Serving refuses, in its words, CONFIG_INVALID for what is served there only.
    """
    check(message, served)
    return {model.name: _declared(model, config) for model in message.model_config_list.config}


def reloaded(
    message: Any,
    config: ModelsConfig,
    available: Mapping[str, Collection[int]],
    labels: Mapping[str, Mapping[str, int]],
) -> Mapping[str, Declared]:
    """The same while `available` versions, by model, are served with these `labels`: a label may name such a version
    only (but see `models.labels_ahead`). Raises PRECONDITION_FAILED as well."""
    found = declared(message, config, available)
    for model in message.model_config_list.config:
        check_labels(
            model.name,
            model.version_labels,
            labels.get(model.name, {}),
            available.get(model.name, ()),
            ahead=config.labels_ahead,
        )
    return found


def warnings(message: Any) -> tuple[str, ...]:
    """What a configuration asks for that has no effect here, one sentence for each kind."""
    logging = [model.name for model in message.model_config_list.config if model.HasField("logging_config")]
    if not logging:
        return ()
    return (f"logging_config of model {', '.join(logging)} has no effect; the settings [capture] record requests",)


def local_folder(base_path: str) -> Path | None:
    """The folder of this machine that a base path means, which may be a `file://` address; None where it is of another
    file system."""
    if "://" not in base_path:
        return Path(base_path)
    address = urlsplit(base_path)
    if address.scheme == "file" and address.netloc in ("", "localhost") and address.path.startswith("/"):
        return Path(unquote(address.path))
    return None


def _declared(model: Any, config: ModelsConfig) -> Declared:
    folder = local_folder(model.base_path)
    if folder is None:
        detail = f"model {model.name}: base_path {model.base_path}"
        raise _invalid(f"{detail}: only folders of this machine can be served (/path, file://)")
    plain = Declared(model.name, str(folder), policy=_policy(model.model_version_policy))
    made = with_settings(plain, config)
    return msgspec.structs.replace(made, labels={**made.labels, **model.version_labels})


def _policy(policy: Any) -> Policy:
    match policy.WhichOneof("policy_choice"):
        case "all":
            return All()
        case "specific":
            return Specific(tuple(sorted(set(policy.specific.versions), reverse=True)))
        case _:
            return Latest(policy.latest.num_versions or 1)


def _unreadable(name: str) -> str:
    return f"Error parsing text-format {name}"


def _invalid(detail: str) -> DukouError:
    return DukouError(Reason.CONFIG_INVALID, detail=detail, text=detail)

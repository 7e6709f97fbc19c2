"""TensorFlow Serving's model config file: what it declares, with that server's semantics.

Facts from tensorflow/serving's `config/model_server_config.proto`, `model_servers/server_core.cc` and its guide to
serving configuration.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from dukou.config import ModelsConfig
from dukou.core.errors import DukouError, Reason
from dukou.lifecycle.labels import check_labels
from dukou.lifecycle.policy import All, Latest, Policy, Specific
from dukou.lifecycle.wanted import Declared
from dukou.protos.text import parse_text
from dukou.wire.tf_reload import check

MESSAGE = "tensorflow.serving.ModelServerConfig"
MAX_FILE_BYTES = 4 * 1024 * 1024

_UNREADABLE = f"Error parsing text-format {MESSAGE}"


def read(path: str | Path) -> Any:
    """The ModelServerConfig in a file of protobuf's text format.

    Raises DukouError CONFIG_INVALID, which tells the line, for a file that cannot be read or declares nothing.
    """
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _invalid(f"{path}: {error.strerror or error}") from None
    if len(content) > MAX_FILE_BYTES:
        raise _invalid(f"{path}: it is larger than {MAX_FILE_BYTES} bytes")
    try:
        message = parse_text(content.decode(), MESSAGE)
    except ValueError as error:  # UnicodeDecodeError is one
        raise _invalid(f"{_UNREADABLE}: {path}: {error}") from None
    if message.WhichOneof("config") != "model_config_list":
        # A file that is being written may be empty for a moment; only `model_config_list {}` is to serve nothing.
        raise _invalid(f"{_UNREADABLE}: {path}: it has no model_config_list")
    return message


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


def _declared(model: Any, config: ModelsConfig) -> Declared:
    own = config.labels.get(model.name, {})
    return Declared(
        model.name,
        str(_folder(model)),
        policy=_policy(model.model_version_policy),
        labels={**own, **model.version_labels},
        options=config.options.get(model.name, {}),
    )


def _folder(model: Any) -> Path:
    base: str = model.base_path
    if base.startswith("/"):
        return Path(base)
    address = urlsplit(base)
    if address.scheme == "file" and address.netloc in ("", "localhost") and address.path.startswith("/"):
        return Path(unquote(address.path))
    raise _invalid(f"model {model.name}: base_path {base}: only folders of this machine can be served (/path, file://)")


def _policy(policy: Any) -> Policy:
    match policy.WhichOneof("policy_choice"):
        case "all":
            return All()
        case "specific":
            return Specific(tuple(sorted(set(policy.specific.versions), reverse=True)))
        case _:
            return Latest(policy.latest.num_versions or 1)


def _invalid(detail: str) -> DukouError:
    return DukouError(Reason.CONFIG_INVALID, detail=detail, text=detail)

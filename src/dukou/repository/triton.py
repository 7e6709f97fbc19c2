"""A Triton model's `config.pbtxt`: found, read, and what it says about versions. Light: the supervisor asks this."""

from pathlib import Path
from typing import Any

from dukou.core.errors import DukouError, Reason

CONFIG = "config.pbtxt"
MAX_BYTES = 4 * 1024 * 1024


def read_config(folder: Path) -> Any | None:
    """The `inference.ModelConfig` of a model's folder, or None where it has none.

    Raises DukouError ARTIFACT_UNREADABLE with the line and column of what is wrong.
    """
    path = folder / CONFIG
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=str(error.strerror)) from error
    if len(content) > MAX_BYTES:
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=f"it is larger than {MAX_BYTES} bytes")
    from dukou.protos.text import parse_text  # protobuf is imported for those who have such files

    try:
        return parse_text(content.decode("utf-8"), "inference.ModelConfig")
    except ValueError as error:
        raise DukouError(Reason.ARTIFACT_UNREADABLE, path=str(path), detail=str(error)) from error


def version_policy(config: Any) -> str:
    """The versions that `config` wants, as `models.version_policy` says it (`latest:2`, `all`, `1,3`); "" where it
    does not say."""
    policy = config.version_policy
    match policy.WhichOneof("policy_choice"):
        case "latest":
            return f"latest:{policy.latest.num_versions or 1}"
        case "all":
            return "all"
        case "specific":
            return ",".join(map(str, policy.specific.versions)) or "latest:1"
    return ""

"""MLServer's error texts; its protocol is the Open Inference Protocol."""

from dukou.core.errors import DukouError, Reason
from dukou.wire import fastapi_errors
from dukou.wire.json_write import error_text
from dukou.wire.oip_errors import describe


def refuse(error: DukouError) -> bytes:
    """`{"error": ...}`; what is no JSON is told as FastAPI tells it."""
    name, version = error.facts.get("model", ""), error.facts.get("version")
    match error.reason:
        case Reason.MALFORMED_JSON:
            return fastapi_errors.malformed(error)
        case Reason.MODEL_NOT_FOUND | Reason.VERSION_NOT_FOUND:
            return error_text(
                f"Model {name} not found" if version is None else f"Model {name} with version {version} not found"
            )
        case _:
            return error_text(describe(error))

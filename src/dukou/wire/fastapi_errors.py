"""How servers made with FastAPI say that a body is no JSON."""

import orjson

from dukou.core.errors import DukouError


def malformed(error: DukouError) -> bytes:
    """`{"detail": [...]}` of a MALFORMED_JSON; its status there is 422."""
    problem = {
        "type": "json_invalid",
        "loc": ["body"],
        "msg": "JSON decode error",
        "ctx": {"error": str(error.facts.get("detail", ""))},
    }
    return orjson.dumps({"detail": [problem]})

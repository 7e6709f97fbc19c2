"""From a body to the version that answers it, and to the request as that version's signature types it."""

from typing import Protocol

from dukou.core.errors import DukouError
from dukou.core.message import Context, DataPlane, Draft, InferenceRequest, Served
from dukou.core.route import Route
from dukou.core.version import ModelRef, ModelVersion
from dukou.wire.codec import Codec, Headers


class Asked(Protocol):
    """Who keeps which `version` was chosen, for the count of what fails from there on."""

    version: ModelVersion | None


def read(  # noqa: PLR0917 - what a codec and a choice need, one by one
    plane: DataPlane, codec: Codec, ref: ModelRef, headers: Headers, body: bytes, context: Context, asked: Asked
) -> tuple[Served, InferenceRequest]:
    """The version, AVAILABLE, that answers `body`, and the request for it. Raises DukouError."""
    draft = codec.parse(ref, headers, body)
    key = ""
    if plane.table.routes:
        model, route = _route(plane, draft.ref)
        if route.sticky.startswith("input:"):
            return _by_input(plane, codec, draft, context, asked, model, route)
        if route.sticky:
            key = headers.get(route.sticky.removeprefix("header:").lower().encode(), b"").decode("latin-1")
    served = plane.choose(draft.ref, key)
    asked.version = served.id
    return served, codec.bind(draft, served, context)


_NO_ROUTE = Route()


def _route(plane: DataPlane, ref: ModelRef) -> tuple[str, Route]:
    """The model asked for, and its route where that decides who answers."""
    table = plane.table
    model = ref.name or next(iter(table.models), "")
    if ref.version is not None or ref.label is not None:
        return model, _NO_ROUTE
    return model, table.routes.get(model, _NO_ROUTE)


def _by_input(  # noqa: PLR0917
    plane: DataPlane, codec: Codec, draft: Draft, context: Context, asked: Asked, model: str, route: Route
) -> tuple[Served, InferenceRequest]:
    """Who answers is decided by the first row of an input, as the primary's signature types it: whatever a candidate
    makes of it, a caller stays where they are."""
    primary = ModelRef(model, route.weights[-1].version)
    try:
        first = plane.choose(primary, "")
    except DukouError:  # it is not AVAILABLE
        first = plane.choose(draft.ref, "")
    try:
        request = codec.bind(draft, first, context)
    except DukouError:
        # Chance decides whose error it is, or all that are nobody's fault would count against the primary.
        asked.version = plane.choose(draft.ref, "").id
        raise
    served = plane.choose(draft.ref, _key(request, route.sticky.removeprefix("input:")))
    asked.version = served.id
    return served, request if served is first else codec.bind(draft, served, context)


def _key(request: InferenceRequest, name: str) -> str:
    """The first row of an input as text; "" where there is no such input."""
    array = request.inputs.get(name)
    if array is None or not array.size:
        return ""
    first = array[:1] if request.signature.batched else array
    return repr(first.tolist()) if array.dtype.hasobject else first.tobytes().hex()

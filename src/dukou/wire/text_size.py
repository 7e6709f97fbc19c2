"""How much text a JSON protocol has to read or write: what decides whether that is done on the event loop."""

from dukou.core.message import InferenceRequest, InferenceResponse
from dukou.wire.codec import Headers

TEXT_PER_BYTE = 3
"""JSON bytes for each byte of an array: `-1.2345678901234567e-300` and a comma are 24 for the 8 of a FP64."""
PUNCTUATION_BYTES = 4


def reading_bytes(headers: Headers, body: bytes) -> int:
    """All of the body."""
    return len(body)


def writing_bytes(request: InferenceRequest, response: InferenceResponse) -> int:
    """The text of all outputs; of texts only the number counts, their bytes cost little."""
    outputs = response.outputs
    size = sum(array.nbytes for array in outputs.values()) * TEXT_PER_BYTE
    if len(outputs) > 1:  # rows may be objects with a name for each value
        size += sum(len(array) * (len(name) + PUNCTUATION_BYTES) for name, array in outputs.items() if array.ndim)
    return size

"""Which status a Code has, in HTTP and in gRPC. Both tables are total; a test keeps them so."""

from collections.abc import Mapping

from dukou.core.errors import Code

HTTP: Mapping[Code, int] = {
    Code.INVALID_ARGUMENT: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.FAILED_PRECONDITION: 409,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 409,
    Code.PAYLOAD_TOO_LARGE: 413,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.CANCELLED: 499,
    Code.INTERNAL: 500,
    Code.DATA_LOSS: 500,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}
"""Code to HTTP status."""

TF_REST: Mapping[Code, int] = {**HTTP, Code.FAILED_PRECONDITION: 400}
"""Code to HTTP status below /v1, as TensorFlow Serving maps it."""

TRITON: Mapping[Code, int] = {
    code: number if number in (401, 403, 404, 499, 500, 501, 503) else 400 for code, number in HTTP.items()
} | {Code.RESOURCE_EXHAUSTED: 503, Code.DEADLINE_EXCEEDED: 503}
"""Code to HTTP status as Triton maps it: a full queue and a timeout are "unavailable" there."""

GRPC: Mapping[Code, int] = {
    Code.CANCELLED: 1,
    Code.INVALID_ARGUMENT: 3,
    Code.DEADLINE_EXCEEDED: 4,
    Code.NOT_FOUND: 5,
    Code.ALREADY_EXISTS: 6,
    Code.PERMISSION_DENIED: 7,
    Code.RESOURCE_EXHAUSTED: 8,
    Code.PAYLOAD_TOO_LARGE: 8,
    Code.FAILED_PRECONDITION: 9,
    Code.ABORTED: 10,
    Code.OUT_OF_RANGE: 11,
    Code.UNIMPLEMENTED: 12,
    Code.INTERNAL: 13,
    Code.UNAVAILABLE: 14,
    Code.DATA_LOSS: 15,
    Code.UNAUTHENTICATED: 16,
}
"""Code to gRPC status number."""

CODES: Mapping[int, Code] = {
    **{status: code for code, status in reversed([*HTTP.items()])},
    405: Code.UNIMPLEMENTED,
    408: Code.DEADLINE_EXCEEDED,
    414: Code.INVALID_ARGUMENT,
    415: Code.INVALID_ARGUMENT,
    417: Code.INVALID_ARGUMENT,
    422: Code.INVALID_ARGUMENT,
    431: Code.PAYLOAD_TOO_LARGE,
    505: Code.UNIMPLEMENTED,
}
"""HTTP status to the Code under which a request is counted that HTTP itself refuses, without a dialect."""

RETRY_AFTER_S: Mapping[Code, int] = {Code.RESOURCE_EXHAUSTED: 1, Code.UNAVAILABLE: 1}
"""For the Codes that pass by themselves: after how many seconds to ask again."""

REASONS: Mapping[int, bytes] = {
    100: b"Continue",
    200: b"OK",
    204: b"No Content",
    307: b"Temporary Redirect",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    409: b"Conflict",
    413: b"Content Too Large",
    414: b"URI Too Long",
    415: b"Unsupported Media Type",
    417: b"Expectation Failed",
    422: b"Unprocessable Content",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    499: b"Client Closed Request",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}
"""HTTP status to reason phrase (RFC 9110 section 15), for every status that dukou answers with."""

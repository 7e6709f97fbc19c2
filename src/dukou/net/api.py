"""What an inference is asked for in: a protocol, and how its clients want success and failure told."""

from collections.abc import Callable, Mapping

import msgspec

from dukou.core.errors import Code, DukouError, Reason
from dukou.core.version import ModelRef, State
from dukou.net import status
from dukou.net.compression import decompress
from dukou.net.exchange import Answer
from dukou.wire.codec import Codec

_COMING = {State.START.value, State.LOADING.value}


class Api(msgspec.Struct, frozen=True):
    """A protocol and the statuses that its clients expect: those of HTTP, or of gRPC, where `ok` is 0.

    Where servers that speak the same protocol differ: `reasons` are the statuses of single reasons, before those of
    their codes; `words` makes the body of an error instead of the codec. `headers` are on every answer. `decompress`
    takes a body's Content-Encoding off (as `dukou.net.compression.decompress` does). `entry` is what its calls are
    counted as (`dukou.core.entry`). `coming`, unless it is 0, is the status for a version that will be AVAILABLE soon.
    """

    codec: Codec
    statuses: Mapping[Code, int]
    ok: int = 200
    reasons: Mapping[Reason, int] = {}
    words: Callable[[DukouError], bytes] | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    decompress: Callable[[bytes, bytes, int], bytes] = decompress
    entry: int = 0
    coming: int = 0

    def refuse(self, error: DukouError) -> Answer:
        """The answer to a call that was refused or failed."""
        code = error.code
        number = self.reasons.get(error.reason) or self.statuses[code]
        if self.coming and error.facts.get("state") in _COMING:
            number = self.coming
        headers = self.headers
        retry_s = status.RETRY_AFTER_S.get(code)
        if retry_s is not None and number not in (400, 404):
            headers = (*headers, (b"retry-after", b"%d" % retry_s))
        return Answer(number, (self.words or self.codec.refuse)(error), headers=headers)


class Call(msgspec.Struct, frozen=True):
    """An inference in `api`, of `ref`; an empty name means the only model, or that the body says which."""

    api: Api
    ref: ModelRef


class Generation(msgspec.Struct, frozen=True):
    """An inference whose responses come one by one: as events where `events`, else there must be exactly one."""

    api: Api
    ref: ModelRef
    events: bool

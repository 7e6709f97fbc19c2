"""What an inference is asked for in: a protocol, and how its clients want success and failure told."""

from collections.abc import Mapping

import msgspec

from dukou.core.errors import Code, DukouError
from dukou.core.version import ModelRef
from dukou.net import status
from dukou.net.exchange import Answer
from dukou.wire.codec import Codec


class Api(msgspec.Struct, frozen=True):
    """A protocol and the statuses that its clients expect: those of HTTP, or of gRPC, where `ok` is 0."""

    codec: Codec
    statuses: Mapping[Code, int]
    ok: int = 200

    def refuse(self, error: DukouError) -> Answer:
        """The answer to a call that was refused or failed."""
        code = error.code
        retry_s = status.RETRY_AFTER_S.get(code)
        headers = ((b"retry-after", b"%d" % retry_s),) if retry_s is not None else ()
        return Answer(self.statuses[code], self.codec.refuse(error), headers=headers)


class Call(msgspec.Struct, frozen=True):
    """An inference in `api`, of `ref`; an empty name means the only model, or that the body says which."""

    api: Api
    ref: ModelRef

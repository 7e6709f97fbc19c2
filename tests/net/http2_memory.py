"""An HTTP/2 server in memory: its sockets, models and clock in the test's hand, h2 as its client."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
from in_memory import HandPlane, MemoryTransport
from pure_session import PureSession

from dukou.config import EngineConfig, Http2Config, HttpConfig
from dukou.core.errors import DukouError
from dukou.core.event import Event
from dukou.core.message import Context, Draft, InferenceRequest, InferenceResponse, Served
from dukou.core.model import ModelRef
from dukou.net import status
from dukou.net.api import Api
from dukou.net.http2 import PREFACE, Session
from dukou.net.listener import HttpServer
from dukou.net.rpc import Method, Unary
from dukou.testing.clock import HandClock
from dukou.testing.models import iris_request
from dukou.wire.codec import Headers, Reply

SESSIONS = [Session, PureSession]
ECHO = b"/test.Service/Echo"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    """A frame, also one that breaks the rules."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream_id.to_bytes(4) + payload


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each whole frame in `data`."""
    found = []
    at = 0
    while len(data) >= at + 9:
        end = at + 9 + int.from_bytes(data[at : at + 3])
        if end > len(data):
            break
        found.append((data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9]), data[at + 9 : end]))
        at = end
    return found


def goaways(data: bytes) -> list[tuple[int, int]]:
    """The last stream and the error of each GOAWAY in `data`."""
    return [
        (int.from_bytes(payload[:4]), int.from_bytes(payload[4:8]))
        for kind, _, _, payload in frames(data)
        if kind == GOAWAY
    ]


def message(data: bytes, flag: int = 0) -> bytes:
    """A gRPC message with its prefix."""
    return bytes([flag]) + len(data).to_bytes(4) + data


class EchoCodec:
    """Answers with the body of the request; `seen` are the headers of the last one."""

    def __init__(self) -> None:
        self.seen: Headers = {}
        self.fail: Exception | None = None

    def parse(self, ref: ModelRef, headers: Headers, body: bytes) -> Draft:
        """Fails if the test wants that."""
        self.seen = headers
        if self.fail is not None:
            raise self.fail
        return Draft(ref, body)

    def bind(self, draft: Draft, served: Served, context: Context) -> InferenceRequest:
        """A row for the model, and the body for the answer."""
        request = iris_request([[5.1, 3.5, 1.4, 0.2]])
        request.reply = draft.payload
        return request

    def encode(self, request: InferenceRequest, response: InferenceResponse) -> Reply:
        """The body of the request."""
        return Reply(request.reply)

    def refuse(self, error: DukouError) -> bytes:
        """The error's own words."""
        return str(error).encode()

    def reading_bytes(self, headers: Headers, body: bytes) -> int:
        """Quickly read."""
        return 0

    def writing_bytes(self, request: InferenceRequest, response: InferenceResponse) -> int:
        """Quickly written."""
        return 0


@dataclass
class Said:
    """An answer as the client has it so far."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int:
        """The HTTP status."""
        return int(self.headers[":status"])

    @property
    def grpc_status(self) -> int:
        """The status of a call, from its trailers, or its headers where there is nothing else."""
        return int((self.trailers or self.headers)["grpc-status"])

    @property
    def grpc_message(self) -> str:
        """What a failed call says, percent-encoded."""
        return (self.trailers or self.headers).get("grpc-message", "")

    @property
    def messages(self) -> list[bytes]:
        """The messages of a call, without their prefixes."""
        found, rest = [], self.body
        while rest:
            length = int.from_bytes(rest[1:5])
            found.append(rest[5 : 5 + length])
            rest = rest[5 + length :]
        return found


class Http2World:
    """A server, its event loop, and everything it was given."""

    def __init__(
        self,
        session: Any = Session,
        *,
        by_hand: bool = False,
        methods: dict[bytes, Method] | None = None,
        http2: dict[str, Any] | None = None,
        access_log: bool = False,
        **limits: Any,
    ) -> None:
        self.plane = HandPlane(by_hand=by_hand)
        self.clock = HandClock(1000.0)
        self.events: list[Event] = []
        self.pool = ThreadPoolExecutor(1)
        self.loop = asyncio.new_event_loop()
        self.codec = EchoCodec()
        self.problems: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.problems.append(context))
        echo: dict[bytes, Method] = {ECHO: Unary(Api(self.codec, status.GRPC, 0))}
        self.server = HttpServer(
            self.plane,
            HttpConfig(**limits),
            EngineConfig(),
            metrics=lambda dialect: b"dukou_up 1\n",
            pool=self.pool,
            clock=self.clock,
            wall=HandClock(1_700_000_000.0),
            observers=[self.events.append],
            access_log=access_log,
            http2=Http2Config(**(http2 or {})),
            methods=lambda facts, dialect: {**echo, **(methods or {})},
            new_session=session,
        )

    def __enter__(self) -> "Http2World":
        return self

    def __exit__(self, *_: object) -> None:
        self.turn(self.server.close)
        self.plane.close()
        self.pool.shutdown()
        self.turn()
        self.loop.close()
        assert not self.problems, self.problems

    def turn(self, action: Callable[[], object] = lambda: None) -> None:
        """Do something within the event loop, and let it turn until what follows at once has happened."""

        async def act() -> None:
            action()
            for _ in range(8):
                await asyncio.sleep(0)

        self.loop.run_until_complete(act())

    def until(self, done: Callable[[], bool]) -> None:
        """Let the loop turn until something has happened elsewhere, in a thread or by a timer."""

        async def wait() -> None:
            async with asyncio.timeout(10.0):
                while not done():
                    await asyncio.sleep(0.001)

        self.loop.run_until_complete(wait())

    def pass_time(self, seconds: float) -> None:
        """Let time pass as it does: with sweeps in between."""
        step = self.server.connections.sweep_s
        while seconds > 0.0:
            self.clock.advance(min(step, seconds))
            self.turn(lambda: list(self.server.connections.sweep()))
            seconds -= step

    def client(self, **settings: int) -> "Http2Client":
        """A client that has said its preface."""
        return Http2Client(self, settings)

    def raw(self, *pieces: bytes) -> "RawClient":
        """A client that sends bytes as they are."""
        return RawClient(self).send(*pieces)


class RawClient:
    """A connection on which the test says every byte."""

    def __init__(self, world: Http2World) -> None:
        self.world = world
        self.transport = MemoryTransport()
        self.transport.protocol = world.server.protocol()
        world.turn(lambda: self.transport.protocol.connection_made(self.transport))

    def send(self, *pieces: bytes) -> "RawClient":
        """Let the server receive these."""
        for piece in pieces:
            if not self.transport.closed:
                self.world.turn(lambda piece=piece: self.transport.protocol.data_received(piece))  # type: ignore[misc]
        return self

    def vanish(self) -> None:
        """The connection is reset."""
        self.transport.gone = True
        self.world.turn(lambda: self.transport.protocol.connection_lost(ConnectionResetError()))

    @property
    def goaways(self) -> list[tuple[int, int]]:
        """The last stream and the error of each GOAWAY."""
        return goaways(self.transport.out)

    @property
    def frames(self) -> list[tuple[int, int, int, bytes]]:
        """All frames of the server."""
        return frames(self.transport.out)

    @property
    def over(self) -> bool:
        """Whether the server has ended the connection."""
        return self.transport.closed or self.transport.half_closed


class Http2Client(RawClient):
    """A connection of the h2 library."""

    def __init__(self, world: Http2World, settings: dict[str, int]) -> None:
        super().__init__(world)
        self.engine = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        codes = {getattr(h2.settings.SettingCodes, name.upper()): value for name, value in settings.items()}
        self.engine.local_settings = h2.settings.Settings(client=True, initial_values=codes)
        self.engine.initiate_connection()
        self.answers: dict[int, Said] = {}
        self.pings = 0
        self._read = 0
        self.flush()

    def flush(self) -> "Http2Client":
        """Send what the library has, and read what the server has."""
        data = self.engine.data_to_send()
        if data:
            self.send(data)
        self.read()
        more = self.engine.data_to_send()
        if more and not self.over:
            self.send(more)
        return self

    def request(
        self,
        method: str = "GET",
        path: str = "/v2/health/live",
        body: bytes | None = None,
        *fields: tuple[str, str],
        end: bool = True,
    ) -> int:
        """Begin a request; it is sent with the next `flush`. Returns its stream."""
        stream_id: int = self.engine.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "test")]
        self.engine.send_headers(stream_id, [*pseudo, *fields], end_stream=body is None and end)
        self.answers[stream_id] = Said()
        if body is not None:
            self.data(stream_id, body, end)
        return stream_id

    def data(self, stream_id: int, body: bytes, end: bool = False) -> None:
        """More of a request, as far as the windows allow."""
        while len(body) > 16_384:
            self.engine.send_data(stream_id, body[:16_384])
            body = body[16_384:]
        self.engine.send_data(stream_id, body, end_stream=end)

    def call(self, body: bytes | None, *fields: tuple[str, str], path: bytes = ECHO, end: bool = True) -> int:
        """Begin a gRPC call with the bytes of its messages."""
        known = (("te", "trailers"), ("content-type", "application/grpc"))
        return self.request("POST", path.decode(), body, *known, *fields, end=end)

    def said(self, stream_id: int) -> Said:
        """What was answered so far."""
        self.read()
        return self.answers[stream_id]

    def get(self, *arguments: Any, **options: Any) -> Said:
        """A request and its answer."""
        stream_id = self.request(*arguments, **options)
        self.flush()
        return self.said(stream_id)

    def echo(self, body: bytes | None, *fields: tuple[str, str], **options: Any) -> Said:
        """A call and its answer."""
        stream_id = self.call(body, *fields, **options)
        self.flush()
        return self.said(stream_id)

    def read(self) -> None:
        """Take what the server has sent."""
        for kind, flags, stream_id, payload in frames(self.transport.out[self._read :]):
            self._read += 9 + len(payload)
            if kind != GOAWAY:  # after which the library refuses to read the answers that still come
                for event in self.engine.receive_data(frame(kind, flags, stream_id, payload)):
                    self._note(event)

    def _note(self, event: Any) -> None:
        match event:
            case h2.events.ResponseReceived():
                self.answers[event.stream_id].headers = dict(event.headers)
            case h2.events.DataReceived():
                self.answers[event.stream_id].body += event.data
                self.acknowledge(event.flow_controlled_length, event.stream_id)
            case h2.events.TrailersReceived():
                self.answers[event.stream_id].trailers = dict(event.headers)
            case h2.events.StreamEnded():
                self.answers[event.stream_id].ended = True
            case h2.events.StreamReset():
                self.answers[event.stream_id].reset = int(event.error_code)
            case h2.events.PingReceived():
                self.pings += 1

    def acknowledge(self, amount: int, stream_id: int) -> None:
        """Give window back."""
        self.engine.acknowledge_received_data(amount, stream_id)


def opening(*pieces: bytes) -> Sequence[bytes]:
    """A client's preface and empty settings, then `pieces`."""
    return (PREFACE + frame(SETTINGS), *pieces)

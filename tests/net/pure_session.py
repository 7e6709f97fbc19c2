"""The session of `dukou.net.http2` on the pure-Python library h2: what both pass is not one library's habit."""

from collections import deque
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from dukou.net.http2 import Client, ErrorCode, Fields, SessionLimits, goaway, settings

DEFAULT_WINDOW = 65_535


class _Answer:
    """What is still to be sent on a stream."""

    def __init__(self) -> None:
        self.parts: deque[bytes] = deque()
        self.trailers: Fields | None = None
        self.ending = False


class PureSession:
    """As `Session`, slowly."""

    def __init__(self, limits: SessionLimits, client: Client) -> None:
        self.ended = False
        self._client = client
        self._settled = False
        self._raw = b""
        self._answers: dict[int, _Answer] = {}
        self._open: dict[int, int] = {}  # streams, and how much of their data was not given back
        self._remote_ended: set[int] = set()
        self._local_ended: set[int] = set()
        self._last_stream_id = 0
        self._final_stream_id = 2**31 - 1
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self._engine = h2.connection.H2Connection(config)
        self._engine.local_settings = h2.settings.Settings(client=False, initial_values=dict(settings(limits)))
        self._engine.initiate_connection()
        self._engine.decoder.max_header_list_size = limits.header_list_bytes
        self._engine.max_inbound_frame_size = limits.frame_bytes
        self._engine.increment_flow_control_window(limits.connection_window_bytes - DEFAULT_WINDOW)

    def receive(self, data: bytes) -> None:
        """Read on."""
        if self.ended:
            return
        try:
            events = self._engine.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self.ended = True
            said = self._engine.data_to_send()
            # Of a bad preface the library only tells us.
            self._raw += said if self._settled else said + goaway(0, ErrorCode(int(error.error_code)))
            return
        for event in events:
            if self.ended:
                return
            self._tell(event)

    def data_to_send(self, most: int) -> bytes:
        """What may go out now."""
        if not self.ended:
            self._pump()
        self._raw += self._engine.data_to_send()
        data, self._raw = self._raw[:most], self._raw[most:]
        return data

    def respond(self, stream_id: int, fields: Fields, end: bool = False) -> None:
        """Begin the answer."""
        if stream_id in self._open and stream_id not in self._answers and stream_id not in self._local_ended:
            self._engine.send_headers(stream_id, list(fields), end_stream=end)
            self._answers[stream_id] = _Answer()
            if end:
                self._local_end(stream_id)

    def send(self, stream_id: int, data: bytes, end: bool = False) -> None:
        """Go on with the answer."""
        answer = self._answers.get(stream_id)
        if answer is not None:
            answer.parts.append(data)
            answer.ending = answer.ending or end

    def finish(self, stream_id: int, trailers: Fields) -> None:
        """End the answer with trailers."""
        answer = self._answers.get(stream_id)
        if answer is not None:
            answer.trailers = trailers
            answer.ending = True

    def answer(self, stream_id: int, fields: Fields, body: bytes, trailers: Fields) -> None:
        """A whole answer at once."""
        self.respond(stream_id, fields)
        self.send(stream_id, body)
        self.finish(stream_id, trailers)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """End a stream at once."""
        if stream_id in self._open and not self.ended:
            self._engine.reset_stream(stream_id, code)
            self._close(stream_id, code)

    def give_back(self, stream_id: int, amount: int) -> None:
        """The data was taken."""
        if amount and self._open.get(stream_id, 0) >= amount and not self.ended:
            self._open[stream_id] -= amount
            self._engine.acknowledge_received_data(amount, stream_id)

    def queued(self, stream_id: int) -> int:
        """What waits for windows."""
        answer = self._answers.get(stream_id)
        return sum(len(part) for part in answer.parts) if answer is not None else 0

    def ping(self) -> None:
        """Ask for a sign of life."""
        if not self.ended:
            self._engine.ping(bytes(8))

    def announce_end(self) -> None:
        """The first GOAWAY."""
        if not self.ended:
            self._say(goaway(2**31 - 1, ErrorCode.NO_ERROR))

    def take_no_more(self) -> None:
        """The second GOAWAY."""
        if not self.ended:
            self._final_stream_id = self._last_stream_id
            self._say(goaway(self._last_stream_id, ErrorCode.NO_ERROR))

    def end(self, code: ErrorCode) -> None:
        """End the session."""
        if not self.ended:
            self.ended = True
            self._say(goaway(self._last_stream_id, code))

    def close(self) -> None:
        """The connection is lost."""
        self.ended = True
        del self._client

    def _say(self, frame: bytes) -> None:
        """Send a frame that the library would not, or not without closing."""
        self._raw += self._engine.data_to_send() + frame

    def _tell(self, event: Any) -> None:
        client = self._client
        match event:
            case h2.events.RequestReceived():
                self._begin(event)
            case h2.events.DataReceived():
                if event.stream_id in self._open:
                    self._open[event.stream_id] += event.flow_controlled_length
                self._note_end(event)
                client.on_data(event.stream_id, event.data, event.stream_ended is not None)
                self.give_back(event.stream_id, event.flow_controlled_length - len(event.data))
                self._settle(event.stream_id)
            case h2.events.TrailersReceived():
                self._note_end(event)
                client.on_trailers(event.stream_id)
                self._settle(event.stream_id)
            case h2.events.StreamReset():
                if event.remote_reset:
                    client.on_reset(event.stream_id)
                self._close(event.stream_id, int(event.error_code))
            case h2.events.WindowUpdated():
                client.on_window(event.delta or 0)
            case h2.events.RemoteSettingsChanged():
                self._settled = True
                client.on_settings()
            case h2.events.PingReceived():
                client.on_ping()
            case h2.events.PingAckReceived():
                client.on_pong()

    def _begin(self, event: Any) -> None:
        stream_id = event.stream_id
        if stream_id > self._final_stream_id:
            self._engine.reset_stream(stream_id, ErrorCode.REFUSED_STREAM)
            return
        self._open[stream_id] = 0
        self._last_stream_id = stream_id
        self._note_end(event)
        fields = tuple((bytes(name), bytes(value)) for name, value in event.headers)
        self._client.on_request(stream_id, fields, event.stream_ended is not None)
        self._settle(stream_id)

    def _note_end(self, event: Any) -> None:
        if event.stream_ended is not None:
            self._remote_ended.add(event.stream_id)

    def _pump(self) -> None:
        """Send what the windows allow."""
        for stream_id in list(self._local_ended):
            self._settle(stream_id)
        for stream_id, answer in list(self._answers.items()):
            while answer.parts:
                room = min(self._engine.local_flow_control_window(stream_id), self._engine.max_outbound_frame_size)
                part = answer.parts.popleft()
                if len(part) > room:
                    answer.parts.appendleft(part[room:])
                if room > 0 and part:
                    self._engine.send_data(stream_id, part[:room])
                elif part:
                    break
            if answer.ending and not answer.parts:
                if answer.trailers is None:
                    self._engine.end_stream(stream_id)
                else:
                    self._engine.send_headers(stream_id, list(answer.trailers), end_stream=True)
                self._local_end(stream_id)
                self._settle(stream_id)

    def _local_end(self, stream_id: int) -> None:
        """All of an answer is out."""
        del self._answers[stream_id]
        self._local_ended.add(stream_id)

    def _settle(self, stream_id: int) -> None:
        """The stream is over when both sides have said all."""
        if stream_id in self._local_ended and stream_id in self._remote_ended:
            self._close(stream_id, 0)

    def _close(self, stream_id: int, code: int) -> None:
        owed = self._open.pop(stream_id, None)
        if owed is None:
            return
        self._answers.pop(stream_id, None)
        self._remote_ended.discard(stream_id)
        self._local_ended.discard(stream_id)
        if owed:
            self._engine.acknowledge_received_data(owed, stream_id)
        self._client.on_closed(stream_id, code)

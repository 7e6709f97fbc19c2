"""One connection: answers in order, timeouts, backpressure, the ways it ends."""

import gc
import json
import logging
import weakref
from collections.abc import Iterator

import pytest
from in_memory import PREDICT, HandPlane, World, predict, request

from dukou.core.errors import Code, DukouError, Reason
from dukou.core.event import RequestLogged, RequestRefused
from dukou.net.connections import SWEPT_TOGETHER


@pytest.fixture
def world() -> Iterator[World]:
    """A server whose models answer at once."""
    with World() as world:
        yield world


@pytest.fixture
def slow() -> Iterator[World]:
    """A server whose models answer when the test says so."""
    with World(plane=HandPlane(by_hand=True), max_pipelined=4) as world:
        yield world


def test_a_request_is_answered_with_one_write(world: World) -> None:
    """Head and body go out together, and the connection stays open."""
    client = world.client().send(predict())

    (said,) = client.answers()
    assert (said.status, said.body) == (200, b'{"y_pred":[0]}')
    assert said.headers["content-type"] == "application/json"
    assert (client.transport.writes, client.transport.closed) == (1, False)


def test_answers_that_are_ready_together_go_out_together(world: World) -> None:
    """Five pipelined requests of one read need one write."""
    client = world.client().send(predict() * 5)

    assert client.statuses == [200] * 5
    assert client.transport.writes == 1


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_answers_keep_the_order_of_requests(slow: World, order: list[int]) -> None:
    """Whichever model is done first."""
    client = slow.client().send(*(predict(f"X-Request-Id: {i}") for i in range(3)))
    assert len(slow.plane.runs) == 3

    for index in order:
        slow.plane.runs[index].finish()

    assert [said.headers["x-request-id"] for said in client.answers()] == ["0", "1", "2"]


def test_pipelined_requests_beyond_the_limit_wait_and_reading_pauses(slow: World) -> None:
    """Four run, the others start as these are answered, and reading goes on when none waits."""
    client = slow.client().send(predict() * 6)
    assert (len(slow.plane.runs), client.transport.reading) == (4, False)

    slow.plane.runs[0].finish()
    assert (len(slow.plane.runs), client.transport.reading) == (5, False)
    slow.plane.runs[1].finish()

    assert (len(slow.plane.runs), client.transport.reading) == (6, True)


def test_thousands_of_pipelined_requests_are_answered_without_recursion(world: World) -> None:
    """More than Python's stack is deep, in one read, which is taken slice by slice."""
    client = world.client().send(request("GET", "/v2/health/live") * 5000)

    assert client.statuses == [200] * 5000


def test_bytes_behind_a_pause_are_kept(slow: World) -> None:
    """What was read in one go, and what comes although reading is paused."""
    client = slow.client().send(request("GET", "/v2/health/live") * 3000 + predict() * 400, predict())

    while slow.plane.runs[-1].coroutine.cr_frame is not None:
        for run in slow.plane.runs:
            if run.coroutine.cr_frame is not None:
                run.finish()

    assert client.statuses == [200] * 3401
    assert client.transport.reading


def test_a_slow_reader_is_not_read_from(world: World) -> None:
    """Its requests wait until it has taken its answers."""
    client = world.client()
    client.transport.stuck = True
    client.transport.high_water = 100

    client.send(predict(), predict())
    assert (client.statuses, client.transport.reading) == ([200], False)
    client.transport.take(client.transport.stuck_bytes)

    assert (client.statuses, client.transport.reading) == ([200, 200], True)


def test_a_client_that_takes_nothing_is_cut_off(world: World) -> None:
    """After write_timeout_s without any progress, also below the transport's high water mark."""
    client = world.client()
    client.transport.stuck = True
    client.send(predict())

    world.pass_time(59.0)
    client.transport.take(10)
    world.pass_time(59.0)
    assert not client.transport.aborted
    world.pass_time(3.0)

    assert client.transport.aborted


def test_a_head_that_does_not_arrive_is_answered_408(world: World) -> None:
    """However regularly its bytes drip."""
    client = world.client().send(b"POST /predict HTTP/1.1\r\n")

    for _ in range(30):
        client.send(b"X-A: b\r\n")
        world.pass_time(1.0)

    assert client.statuses == [408]
    assert client.transport.half_closed


def test_the_time_of_a_head_starts_with_its_first_byte(world: World) -> None:
    """A connection may rest before, and requests before it do not count."""
    client = world.client().send(predict())
    world.pass_time(100.0)

    client.send(b"POST ")
    world.pass_time(19.0)

    assert client.statuses == [200]


def test_a_body_that_stands_still_is_answered_408(world: World) -> None:
    """After body_timeout_s without a byte; bytes start the time anew, and earn some at 1000 a second."""
    client = world.client().send(request(body=bytes(1_000_000))[:-500_000])
    world.pass_time(59.0)
    client.send(bytes(2))

    world.pass_time(59.0)
    assert client.statuses == []
    world.pass_time(3.0)

    assert client.statuses == [408]


@pytest.mark.parametrize("known", [False, True])
def test_a_body_that_drips_is_answered_408(world: World, known: bool) -> None:
    """One byte now and then holds no connection: body_timeout_s, and a second for each 1000 bytes, is all there is."""
    client = world.client().send(*[predict()] * known)
    before = len(client.statuses)
    client.send(predict()[:-10])

    for _ in range(4):
        world.pass_time(19.0)
        client.send(b" ")

    assert client.statuses[before:] == [408]


def test_an_idle_connection_is_closed_without_a_word(world: World) -> None:
    """After idle_timeout_s; a request starts the time anew."""
    client = world.client()
    world.pass_time(110.0)
    client.send(predict())
    world.pass_time(110.0)
    assert not client.transport.closed

    world.pass_time(11.0)

    assert client.transport.closed
    assert client.statuses == [200]


def test_a_sweep_over_many_connections_lets_the_loop_turn(world: World) -> None:
    """Thousands in one go would make everybody wait."""
    clients = [world.client() for _ in range(SWEPT_TOGETHER * 2 + 10)]

    world.clock.advance(200.0)
    turns = world.sweep()

    assert turns == 2
    assert all(client.transport.closed for client in clients)


def test_a_connection_that_waits_for_its_model_is_not_idle(slow: World) -> None:
    """The engine's deadline bounds that, not the connection's."""
    client = slow.client().send(predict())

    slow.pass_time(500.0)
    assert not client.transport.closed
    slow.plane.runs[0].finish()

    assert client.statuses == [200]


@pytest.mark.parametrize(
    ("data", "closed"),
    [
        (predict(), False),
        (predict("Connection: close"), True),
        (predict(version="1.0"), True),
        (predict("Connection: keep-alive", version="1.0"), False),
    ],
)
def test_a_connection_is_kept_or_closed_as_asked(world: World, data: bytes, closed: bool) -> None:
    """And the answer says which where that is not the default."""
    client = world.client().send(data)

    (said,) = client.answers()
    assert client.transport.closed is closed
    if closed:
        assert said.headers["connection"] == "close"
    elif b"HTTP/1.0" in data:
        assert said.headers["connection"] == "keep-alive"


def test_bytes_that_are_no_request_are_answered_after_the_requests_before(slow: World) -> None:
    """In order, and the connection ends with the refusal."""
    client = slow.client().send(predict() + b"nonsense\r\n\r\n", predict())
    assert client.statuses == []

    slow.plane.runs[0].finish()

    assert client.statuses == [200, 400]
    assert len(slow.plane.runs) == 1
    assert client.transport.half_closed


def test_a_refused_client_may_finish_sending(world: World) -> None:
    """Closing at once would reset the connection, and the client would not see why. It has two seconds."""
    client = world.client().send(request("POST", "/predict", b"", "Content-Length: 999999999"))
    assert client.transport.half_closed
    assert client.statuses == [413]

    client.send(b"x" * 100_000)
    world.pass_time(1.5)
    assert not client.transport.closed
    world.pass_time(1.0)

    assert client.transport.aborted
    assert client.statuses == [413]


def test_a_refused_client_over_tls_may_finish_too(world: World) -> None:
    """TLS has no half-close, but the answer says that the connection ends."""
    client = world.client(can_half_close=False).send(b"nonsense\r\n\r\n", b"more")
    (said,) = client.answers()
    assert (said.status, said.headers["connection"]) == (400, "close")
    assert not client.transport.closed

    world.pass_time(2.5)

    assert client.transport.aborted


def test_a_half_closed_client_gets_its_answers(slow: World) -> None:
    """`printf ... | nc` ends its side before the model is done."""
    client = slow.client().send(predict() * 2).end()
    assert not client.transport.closed

    for run in slow.plane.runs:
        run.finish()

    assert client.statuses == [200, 200]
    assert client.answers()[1].headers["connection"] == "close"
    assert client.transport.closed


@pytest.mark.parametrize("data", [b"", b"POST /pre", predict()[:-3], predict()])
def test_a_client_that_ends_without_waiting_is_closed(world: World, data: bytes) -> None:
    """At rest, in half a head, in half a body, after its answer."""
    client = world.client().send(data).end()

    assert client.transport.closed


def test_the_calls_of_a_client_that_has_gone_are_cancelled(slow: World) -> None:
    """Nobody is answered; the observers hear of it."""
    client = slow.client().send(predict() * 6)
    slow.plane.runs[1].finish()

    client.vanish()

    assert [run.cancelled for run in slow.plane.runs] == [True, False, True, True]
    assert client.statuses == []
    assert [event.code for event in slow.events if isinstance(event, RequestRefused)] == [Code.CANCELLED] * 3


def test_a_connection_is_freed_as_soon_as_it_is_lost(slow: World) -> None:
    """It leaves no cycle for the collector, whose runs make everybody wait."""
    client = slow.client().send(predict(), predict("Traceparent: 1"))
    slow.plane.runs[0].finish()
    connection = weakref.ref(client.connection)

    gc.disable()
    client.vanish()
    slow.plane.runs.clear()
    del client
    gone = connection() is None
    gc.enable()

    assert gone


def test_a_write_that_raises_hurts_nobody_else(slow: World) -> None:
    """uvloop's transport raises once the peer has gone; the batch's other callers get their answers."""
    dead, alive = slow.client().send(predict()), slow.client().send(predict())
    dead.transport.gone = True

    for run in slow.plane.runs:
        run.finish()

    assert dead.transport.aborted
    assert alive.statuses == [200]


def test_a_client_that_waits_for_100_gets_it_when_its_turn_comes(slow: World) -> None:
    """Not between the answers to requests before."""
    client = slow.client().send(predict() + predict("Expect: 100-continue")[: -len(PREDICT)])
    assert client.statuses == []

    slow.plane.runs[0].finish()
    assert client.statuses == [200, 100]
    client.send(PREDICT)
    slow.plane.runs[1].finish()

    assert client.statuses == [200, 100, 200]


def test_a_client_that_does_not_wait_for_100_does_not_get_it(world: World) -> None:
    """Its body came with the head."""
    client = world.client().send(predict("Expect: 100-continue"))

    assert client.statuses == [200]


def test_head_is_answered_without_the_body(world: World) -> None:
    """With the length that GET would have."""
    client = world.client().send(request("HEAD", "/v2/health/live"))

    (said,) = client.answers(of_head=True)
    assert (said.status, said.headers["content-length"]) == (200, "13")


def test_connections_beyond_the_limit_are_closed_at_once() -> None:
    """And room is made when one ends."""
    with World(max_connections=1) as world:
        first, second = world.client(), world.client()
        assert (first.transport.aborted, second.transport.aborted) == (False, True)

        second.connection.connection_lost(None)
        first.connection.connection_lost(None)

        assert world.client().send(predict()).statuses == [200]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("abc-123", True), ("with space", True), ("a" * 128, True), ("a" * 129, False), ("na\xefve", False), ("", False)],
)
def test_a_request_id_is_kept_when_it_is_fit_to_be_shown(world: World, sent: str, kept: bool) -> None:
    """Printable ASCII of at most 128; otherwise one is made."""
    (said,) = world.client().send(predict(f"X-Request-Id: {sent}")).answers()

    assert (said.headers["x-request-id"] == sent) is kept


def test_request_ids_differ(world: World) -> None:
    """From request to request and from server to server."""
    mine = world.client().send(predict() * 2).answers()
    with World() as another:
        other = another.client().send(predict()).answers()

    assert len({said.headers["x-request-id"] for said in mine + other}) == 3


def test_half_a_head_does_not_hold_a_drain(slow: World) -> None:
    """It may never be finished; a request before it is answered first."""
    alone = slow.client().send(b"POST /predict HT")
    behind = slow.client().send(predict(), b"POST /predict HT")

    slow.server.connections.drain(lambda: None)
    slow.plane.runs[0].finish()

    assert alone.transport.closed
    assert [said.headers.get("connection") for said in behind.answers()] == ["close"]
    assert behind.transport.closed


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (request(body=b"x" * 2_000_000)[:200], 413, Code.PAYLOAD_TOO_LARGE),
        (b"nonsense\r\n\r\n", 400, Code.INVALID_ARGUMENT),
        (request("GET", "/nothing"), 404, Code.NOT_FOUND),
        (request("DELETE", "/predict"), 405, Code.UNIMPLEMENTED),
        (request("GET", "/v2/logging"), 501, Code.UNIMPLEMENTED),
        (request("GET", "/" + "a" * 9000), 414, Code.INVALID_ARGUMENT),
    ],
)
def test_what_http_refuses_is_told_to_the_observers(data: bytes, status: int, code: Code) -> None:
    """Once, without a version."""
    with World(max_body_bytes=1_000_000) as world:
        client = world.client().send(data)

    assert client.statuses == [status]
    assert world.events == [RequestRefused(None, code, 1000.0, 1000.0)]


def test_a_client_that_is_too_slow_is_told_to_the_observers(world: World) -> None:
    """As a deadline, with the time it took."""
    world.client().send(b"POST /predict HT")

    world.pass_time(25.0)

    (event,) = world.events
    assert isinstance(event, RequestRefused)
    assert (event.version, event.code) == (None, Code.DEADLINE_EXCEEDED)


def test_draining_closes_what_is_idle_and_answers_what_was_taken(slow: World) -> None:
    """The last answer says that the connection ends; a request that has begun to arrive may finish."""
    emptied = []
    idle, busy, arriving = slow.client(), slow.client().send(predict() * 2), slow.client().send(predict()[:-3])

    slow.server.connections.drain(lambda: emptied.append(True))
    assert (idle.transport.closed, busy.transport.closed, arriving.transport.closed) == (True, False, False)
    arriving.send(PREDICT[-3:])
    for run in slow.plane.runs:
        run.finish()

    assert [said.headers.get("connection") for said in busy.answers()] == [None, "close"]
    assert [said.headers.get("connection") for said in arriving.answers()] == ["close"]
    assert emptied == []
    for client in (idle, busy, arriving):
        assert client.transport.closed
        client.connection.connection_lost(None)
    assert emptied == [True]


def test_a_draining_server_takes_no_connections(world: World) -> None:
    """One that was accepted in the last moment is closed."""
    world.server.connections.drain(lambda: None)

    assert world.client().transport.aborted


def test_with_the_access_log_every_exchange_is_told() -> None:
    """Refused bytes too."""
    with World(access_log=True) as world:
        world.client().send(predict("X-Request-Id: a"), b"nonsense\r\n\r\n")

    (good, bad) = [event for event in world.events if isinstance(event, RequestLogged)]
    assert good == RequestLogged("a", "192.0.2.1:5000", "POST", "/predict", 200, len(PREDICT), 14, 0.0)
    assert (bad.method, bad.path, bad.status) == ("-", "-", 400)


def test_without_the_access_log_no_exchange_is_told(world: World) -> None:
    """It would cost time for nothing."""
    world.client().send(predict())

    assert world.events == []


def test_an_unknown_error_is_answered_500_and_logged(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the request id in the log, the text kept from the caller, and the connection open."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret")

    world.server.front("").known_routes[b"GET", b"/v2"] = None  # type: ignore[assignment]
    monkeypatch.setattr("dukou.net.routes.Routes.find", fail)
    with caplog.at_level(logging.ERROR, "dukou.net"):
        client = world.client().send(request("GET", "/v2", b"", "X-Request-Id: find-me"), predict())

    (said, _) = client.answers()
    assert (said.status, json.loads(said.body)) == (500, {"error": "the server failed; its log says why"})
    assert "find-me" in caplog.text
    assert "secret" in caplog.text
    assert not client.transport.closed


@pytest.mark.parametrize(
    ("reason", "status", "retry"),
    [
        (Reason.QUEUE_FULL, 429, "1"),
        (Reason.DRAINING, 503, "1"),
        (Reason.DEADLINE_EXCEEDED, 504, None),
        (Reason.MODEL_FAILED, 500, None),
    ],
)
def test_a_failed_call_has_the_status_of_its_code(
    slow: World, reason: Reason, status: int, retry: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """429 and 503 say when to try again."""
    client = slow.client().send(predict())

    slow.plane.runs[0].fail(DukouError(reason, got=1, wanted=0))

    (said,) = client.answers()
    assert (said.status, said.headers.get("retry-after")) == (status, retry)
    assert not client.transport.closed

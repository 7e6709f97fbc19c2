"""The client's flows and decisions, without a network: outcomes are handed in, steps are looked at."""

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, strategies

from dukou.client import errors
from dukou.client.core import (
    Answer,
    Calls,
    Failure,
    Flow,
    ListedModel,
    Patience,
    Pause,
    Request,
    Trouble,
    pause_before_retry,
    retry_after_s,
)
from dukou.client.errors import (
    BadAnswer,
    ClientError,
    ConnectionFailed,
    DeadlineMissed,
    Forbidden,
    InvalidInput,
    NotFound,
    Overloaded,
    Refused,
    ServerFailed,
    TimedOut,
    Unavailable,
)
from dukou.client.oip_http import HttpWire
from dukou.testing.clock import HandClock

METADATA = Answer(
    200,
    b'{"name":"iris","inputs":[{"name":"X","datatype":"FP32","shape":[-1,2]}],'
    b'"outputs":[{"name":"label","datatype":"INT64","shape":[-1]}]}',
)
NONE = Answer(200, b'{"name":"test","version":"1","extensions":[]}')
"""A server that has no extensions."""
LABELS = Answer(200, b'{"model_name":"iris","outputs":[{"name":"label","datatype":"INT64","shape":[2],"data":[1,0]}]}')
HUNG_UP = Failure(Trouble.HUNG_UP)
LOST = ConnectionFailed("lost")
Outcome = Answer | Failure


def calls(clock: HandClock, model: str = "iris", version: int | str | None = None, **patience: Any) -> Calls:
    return Calls(HttpWire(model, version), Patience(**patience), clock, lambda: 0.5)


def play(
    flow: Flow[Any], clock: HandClock, *outcomes: Outcome, each_s: float = 0.0, steps: list[Any] | None = None
) -> tuple[Any, list[Any]]:
    """Run a flow with these outcomes, each taking `each_s`; what it returned and the steps it asked for."""
    steps = [] if steps is None else steps
    coming = iter(outcomes)
    outcome: Outcome | None = None
    while True:
        try:
            step = flow.send(outcome)
        except StopIteration as done:
            return done.value, steps
        steps.append(step)
        if isinstance(step, Pause):
            clock.advance(step.seconds)
            outcome = None
        else:
            clock.advance(min(each_s, step.timeout_s))
            outcome = next(coming)


def error_of(flow: Flow[Any], clock: HandClock, *outcomes: Outcome, each_s: float = 0.0) -> ClientError:
    with pytest.raises(ClientError) as caught:
        play(flow, clock, *outcomes, each_s=each_s)
    return caught.value


def test_infer_asks_for_the_signature_once() -> None:
    """The first call learns the signature, the second only sends its rows."""
    clock = HandClock()
    client = calls(clock)

    first, steps = play(client.infer([[1, 2], [3, 4]]), clock, METADATA, NONE, LABELS)
    second, later = play(client.infer([[1, 2], [3, 4]]), clock, LABELS)

    assert first["label"].tolist() == second["label"].tolist() == [1, 0]
    assert [step.path for step in steps] == ["/v2/models/iris", "/v2", "/v2/models/iris/infer"]
    assert [step.path for step in later] == ["/v2/models/iris/infer"]


def test_inputs_are_sent_in_the_datatype_of_the_signature() -> None:
    """Python floats for an FP32 input travel as FP32, flat, with their shape."""
    clock = HandClock()

    _, steps = play(calls(clock).infer(np.array([[1.5, 2.0]])), clock, METADATA, NONE, LABELS)

    assert msgspec.json.decode(steps[2].body) == {
        "inputs": [{"name": "X", "shape": [1, 2], "datatype": "FP32", "data": [1.5, 2.0]}]
    }


@pytest.mark.parametrize("outputs", ["label", ("label",), ["label"]])
def test_only_the_outputs_asked_for_are_named(outputs: str | Sequence[str]) -> None:
    """`outputs` goes into the body; one name may stand alone."""
    clock = HandClock()

    _, steps = play(calls(clock).infer([[1, 2]], outputs), clock, METADATA, NONE, LABELS)

    assert msgspec.json.decode(steps[2].body)["outputs"] == [{"name": "label"}]


def test_a_version_and_odd_names_are_in_the_path() -> None:
    """Names are quoted, so that no name changes the path."""
    clock = HandClock()

    _, steps = play(calls(clock, "a/b c", 3).metadata(), clock, METADATA)

    assert steps[0].path == "/v2/models/a%2Fb%20c/versions/3"


def test_predict_is_the_first_output_and_asks_for_no_other() -> None:
    """predict leaves out the names, and what nobody wants is not sent."""
    clock = HandClock()

    labels, steps = play(calls(clock).predict([[1, 2], [3, 4]]), clock, METADATA, NONE, LABELS)

    assert labels.tolist() == [1, 0]
    assert labels.dtype == np.int64
    assert msgspec.json.decode(steps[2].body)["outputs"] == [{"name": "label"}]


def test_an_answer_without_the_output_is_a_bad_answer() -> None:
    """predict has nothing to return then."""
    clock = HandClock()

    error = error_of(calls(clock).predict([[1, 2]]), clock, METADATA, NONE, Answer(200, b'{"outputs":[]}'))

    assert isinstance(error, BadAnswer)


def test_a_model_without_outputs_cannot_predict() -> None:
    """That is known before anything is sent."""
    clock = HandClock()

    error = error_of(calls(clock).predict([[1, 2]]), clock, Answer(200, b'{"inputs":[],"outputs":[]}'))

    assert isinstance(error, BadAnswer)


def test_inputs_that_do_not_fit_are_refused_before_they_are_sent() -> None:
    """A wrong width costs no request beyond what is asked once."""
    clock = HandClock()

    error = error_of(calls(clock).infer([[1, 2, 3]]), clock, METADATA, NONE)

    assert isinstance(error, InvalidInput)
    assert error.status == 0
    assert str(error) == "input 'X': shape [1, 3] came, [-1, 2] is wanted"


def test_after_a_refusal_of_the_inputs_the_signature_is_asked_again() -> None:
    """Another version with another signature may answer by now."""
    clock = HandClock()
    client = calls(clock)
    error_of(client.infer([[1, 2]]), clock, METADATA, NONE, Answer(400, b'{"error":"no"}'))

    _, steps = play(client.infer([[1, 2]]), clock, METADATA, LABELS)

    assert [step.path for step in steps] == ["/v2/models/iris", "/v2/models/iris/infer"]


def test_without_a_model_nothing_can_be_inferred() -> None:
    """A client of a server says so before it sends anything."""
    clock = HandClock()

    assert "model=" in str(error_of(calls(clock, "").infer([[1, 2]]), clock))


@pytest.mark.parametrize(("model", "path"), [("iris", "/v2/models/iris/ready"), ("", "/v2/health/ready")])
@pytest.mark.parametrize(("status", "ready"), [(200, True), (503, False), (404, False), (400, False)])
def test_ready_is_what_the_server_says_once(model: str, path: str, status: int, ready: bool) -> None:
    """No retries: whoever asks repeatedly has a loop already."""
    clock = HandClock()

    answer, steps = play(calls(clock, model).ready(), clock, Answer(status, b""))

    assert answer is ready
    assert [step.path for step in steps] == [path]


def test_ready_raises_when_nobody_is_there() -> None:
    """Not reached is not the same as not ready."""
    clock = HandClock()

    error = error_of(calls(clock).ready(), clock, Failure(Trouble.NOT_CONNECTED, "nobody"))

    assert isinstance(error, ConnectionFailed)
    assert str(error) == "nobody"


def test_models_is_the_list_of_the_server() -> None:
    """The repository extension's index; what it leaves out is empty."""
    clock = HandClock()
    index = Answer(200, b'[{"name":"iris","version":"1","state":"READY","reason":""},{"name":"new"}]')

    models, steps = play(calls(clock, "").models(), clock, index)

    assert models == [ListedModel("iris", "1", "READY"), ListedModel("new")]
    assert (steps[0].method, steps[0].path) == ("POST", "/v2/repository/index")


def test_models_is_the_first_page_where_there_is_no_index() -> None:
    """dukou lists its models there."""
    clock = HandClock()
    page = Answer(200, b'{"name":"dukou","models":[{"name":"iris","versions":[{"version":1,"state":"AVAILABLE"}]}]}')

    models, _ = play(calls(clock, "").models(), clock, Answer(404, b""), page)

    assert models == [ListedModel("iris", "1", "AVAILABLE")]


def test_a_server_without_a_list_is_not_found() -> None:
    """Its first page says something else."""
    clock = HandClock()

    error = error_of(calls(clock, "").models(), clock, Answer(404, b"no"), Answer(200, b"<html>"))

    assert isinstance(error, NotFound)


@pytest.mark.parametrize("body", [b"", b"{}", b'[{"name":1}]', b"\xff"])
def test_a_list_of_models_that_is_none_is_a_bad_answer(body: bytes) -> None:
    """Anything else than a list of names is refused."""
    clock = HandClock()

    assert isinstance(error_of(calls(clock, "").models(), clock, Answer(200, body)), BadAnswer)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"inputs":1,"outputs":[]}'])
def test_metadata_that_is_none_is_a_bad_answer(body: bytes) -> None:
    """A proxy's page does not become a signature."""
    clock = HandClock()

    assert isinstance(error_of(calls(clock).metadata(), clock, Answer(200, body)), BadAnswer)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidInput),
        (401, Forbidden),
        (403, Forbidden),
        (404, NotFound),
        (413, InvalidInput),
        (422, InvalidInput),
        (429, Overloaded),
        (500, ServerFailed),
        (501, ServerFailed),
        (502, Unavailable),
        (503, Unavailable),
        (504, DeadlineMissed),
        (418, Refused),
        (302, Refused),
    ],
)
def test_each_status_has_its_error(status: int, kind: type[Refused]) -> None:
    """The error's class, status and message come from the answer."""
    clock = HandClock()

    error = error_of(calls(clock, retries=0).metadata(), clock, Answer(status, b'{"error":"because"}'))

    assert type(error) is kind
    assert isinstance(error, Refused)
    assert (error.status, error.message) == (status, "because")
    assert str(error) == f"because (HTTP {status})"


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (Trouble.NOT_CONNECTED, ConnectionFailed),
        (Trouble.HUNG_UP, ConnectionFailed),
        (Trouble.TIMED_OUT, TimedOut),
        (Trouble.TOO_LARGE, BadAnswer),
    ],
)
def test_each_trouble_has_its_error(trouble: Trouble, kind: type[ClientError]) -> None:
    """Where there is no answer, the error says why."""
    clock = HandClock()

    assert type(error_of(calls(clock, retries=0).metadata(), clock, Failure(trouble))) is kind


@pytest.mark.parametrize(
    ("outcome", "again"),
    [
        (Failure(Trouble.NOT_CONNECTED), True),
        (HUNG_UP, True),
        (Failure(Trouble.TIMED_OUT), False),
        (Failure(Trouble.TOO_LARGE), False),
        (Answer(429, b""), True),
        (Answer(502, b""), True),
        (Answer(503, b""), True),
        (Answer(504, b""), True),
        (Answer(500, b""), False),
        (Answer(400, b""), False),
        (Answer(404, b""), False),
        (Answer(302, b""), False),
    ],
)
def test_only_what_may_pass_is_tried_again(outcome: Outcome, again: bool) -> None:
    """Overload, restarts and broken connections pass; a wrong request and a failed model do not."""
    clock = HandClock()
    steps: list[Any] = []

    with suppress(ClientError):
        play(calls(clock, retries=1).metadata(), clock, outcome, METADATA, steps=steps)

    assert [type(step) for step in steps] == ([Request, Pause, Request] if again else [Request])


def test_a_timeout_is_tried_again_only_where_each_try_has_its_own() -> None:
    """The model may still be at it, so that another try may double the load: it must be asked for."""
    clock = HandClock()
    slow = Failure(Trouble.TIMED_OUT)

    signature, steps = play(calls(clock, timeout_s=10.0, try_timeout_s=2.0).metadata(), clock, slow, METADATA, each_s=9)

    assert signature.inputs[0].name == "X"
    assert [step.timeout_s for step in steps if isinstance(step, Request)] == [2.0, 2.0]


@pytest.mark.parametrize("wrong", [{"timeout_s": 0.0}, {"try_timeout_s": -1.0}, {"retries": -1}])
def test_spans_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    """A client is not made with them."""
    with pytest.raises(ValueError, match="above 0 s"):
        Patience(**wrong)


def test_a_refusal_without_words_says_so() -> None:
    """A proxy's empty 503 still makes a sentence."""
    clock = HandClock()

    error = error_of(calls(clock, retries=0).metadata(), clock, Answer(503, b""))

    assert str(error) == "the server gave no reason (HTTP 503)"


def test_the_tries_are_counted() -> None:
    """After `retries` retries the outcome stands."""
    patience = Patience(retries=2)

    assert pause_before_retry(patience, 1, LOST, {}, 0.0) is not None
    assert pause_before_retry(patience, 2, LOST, {}, 0.0) is None


@given(strategies.integers(0, 60), strategies.floats(0.0, 1.0, exclude_max=True))
def test_pauses_are_random_and_bounded(attempt: int, jitter: float) -> None:
    """Full jitter: from nothing up to the doubled pause, never above the longest."""
    patience = Patience(retries=100, first_pause_s=0.1, longest_pause_s=5.0)

    pause = pause_before_retry(patience, attempt, LOST, {}, jitter)

    assert pause is not None
    assert 0.0 <= pause <= min(5.0, 0.1 * 2**attempt)


def test_retry_after_is_a_lower_bound() -> None:
    """The server's word comes first, the random part spreads those it sent away together."""
    pause = pause_before_retry(Patience(first_pause_s=0.1), 0, Overloaded("full", 429), {"retry-after": "2"}, 0.5)

    assert pause == pytest.approx(2.05)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"retry-after": " 3 "}, 3.0),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after": "-1"}, 0.0),
        ({"retry-after": "1.5"}, 0.0),
        ({"retry-after": "9" * 50}, 999_999_999.0),
        ({"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT", "date": "Fri, 31 Dec 1999 23:59:50 GMT"}, 9.0),
        ({"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT", "date": "Sat, 01 Jan 2000 00:00:00 GMT"}, 0.0),
        ({"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}, 0.0),
    ],
)
def test_retry_after_is_read_in_both_forms(headers: dict[str, str], seconds: float) -> None:
    """Seconds, or a date against the answer's own date; nonsense counts as nothing."""
    assert retry_after_s(headers) == seconds


def test_a_call_is_sent_again_until_it_is_answered() -> None:
    """Two refusals and an answer are three requests with two pauses between."""
    clock = HandClock()
    busy = Answer(503, b"", {"retry-after": "1"})

    signature, steps = play(calls(clock).metadata(), clock, busy, HUNG_UP, METADATA)

    assert signature.inputs[0].name == "X"
    assert [type(step) for step in steps] == [Request, Pause, Request, Pause, Request]


def test_the_deadline_holds_for_all_tries_together() -> None:
    """Each try is told how much time is left, and none begins that could not end."""
    clock = HandClock()
    flow = calls(clock, timeout_s=10.0, retries=99, first_pause_s=2.0, longest_pause_s=2.0).metadata()

    start = clock()
    with pytest.raises(ConnectionFailed):
        play(flow, clock, *[HUNG_UP] * 99, each_s=2.0)

    assert clock() - start <= 10.0


def test_the_time_left_goes_down_from_try_to_try() -> None:
    """What the signature took is not there for the answer."""
    clock = HandClock()

    _, steps = play(calls(clock, timeout_s=10.0).infer([[1, 2]]), clock, METADATA, NONE, LABELS, each_s=3.0)

    assert [step.timeout_s for step in steps] == [10.0, 7.0, 4.0]


def test_a_pause_beyond_the_deadline_is_not_waited_for() -> None:
    """The refusal is raised at once when Retry-After leaves no time for another try."""
    clock = HandClock()
    busy = Answer(429, b'{"error":"full"}', {"retry-after": "60"})

    start = clock()
    error = error_of(calls(clock, timeout_s=10.0).metadata(), clock, busy)

    assert isinstance(error, Overloaded)
    assert clock() == start


def test_the_tree_of_errors_is_drawn_whole() -> None:
    """Every error that a client raises is in the drawing of `dukou.client.errors`, and no other."""
    drawn = set(re.findall(r"── (\w+)", errors.__doc__ or ""))

    assert drawn == {kind.__name__ for kind in (*ClientError.__subclasses__(), *Refused.__subclasses__())}

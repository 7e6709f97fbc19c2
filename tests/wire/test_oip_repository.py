"""The index of the model repository."""

import pytest

from dukou.core.errors import Code, DukouError, Reason
from dukou.core.message import Table
from dukou.core.version import State
from dukou.testing.models import iris_like, manifest, served, table
from dukou.wire.oip_errors import describe
from dukou.wire.oip_repository import index, parse_index, refuse_control

BROKEN = DukouError(Reason.MODEL_FAILED, model="b", version=2)
TABLE = table(
    iris_like("b", 10, State.LOADING),
    served(manifest("b", 2), state=State.END, error=BROKEN),
    iris_like("b", 1),
    iris_like("a", 3, State.START),
    iris_like("a", 2, State.UNLOADING),
    iris_like("a", 1, State.END),
)


def test_every_version_is_told_with_its_state() -> None:
    """By name and version, with the reason where one is wanted."""
    assert index(TABLE, only_ready=False) == [
        {"name": "a", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"},
        {"name": "a", "version": "2", "state": "UNLOADING"},
        {"name": "a", "version": "3", "state": "LOADING"},
        {"name": "b", "version": "1", "state": "READY"},
        {"name": "b", "version": "2", "state": "UNAVAILABLE", "reason": describe(BROKEN)},
        {"name": "b", "version": "10", "state": "LOADING"},
    ]
    assert index(Table(), only_ready=False) == []


def test_only_those_that_answer_may_be_asked_for() -> None:
    """The rest are left out."""
    assert index(TABLE, only_ready=True) == [{"name": "b", "version": "1", "state": "READY"}]


@pytest.mark.parametrize(
    ("body", "ready"),
    [(b"", False), (b" \n", False), (b"{}", False), (b'{"ready": true}', True), (b'{"ready": false, "x": 1}', False)],
)
def test_an_empty_body_asks_for_all(body: bytes, ready: bool) -> None:
    """Clients send none."""
    assert parse_index(body) is ready


@pytest.mark.parametrize("body", [b"[]", b'{"ready": 1}', b'{"ready": null}', b"{", b"\xff", b"[" * 1000])
def test_other_bodies_are_refused(body: bytes) -> None:
    """With INVALID_ARGUMENT, whatever they are."""
    with pytest.raises(DukouError) as caught:
        parse_index(body)

    assert caught.value.code is Code.INVALID_ARGUMENT


def test_load_and_unload_are_refused_as_by_a_server_that_polls() -> None:
    """UNAVAILABLE, in the words that clients know."""
    assert refuse_control().code is Code.UNAVAILABLE
    assert describe(refuse_control()) == "explicit model load / unload is not allowed if polling is enabled"

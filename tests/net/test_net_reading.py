"""Which version a body is read for: by chance, by a header, by an input; and whom an error counts for."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from in_memory import HandPlane

from dukou.core.errors import DukouError
from dukou.core.message import Context
from dukou.core.model import ModelRef, ModelVersion, Signature, State, TensorSpec
from dukou.core.route import Route, Weight
from dukou.net.reading import read
from dukou.testing.models import iris_like, manifest, served, table
from dukou.wire import tf_rest

IRIS = ModelRef("iris")
USERS = [f"user-{number}" for number in range(400)]
BODY = b'{"inputs": {"X": [[1, 2, 3, 4]]}}'
WIDE = Signature(
    "serving_default",
    (TensorSpec("X", "FP64", (-1, 4)), TensorSpec("user", "BYTES", (-1,))),
    (TensorSpec("label", "INT64", (-1,)),),
)
NARROW = msgspec.structs.replace(WIDE, inputs=(TensorSpec("X", "FP32", (-1, 4)), WIDE.inputs[1]))


class Asked:
    """Who keeps which version was chosen."""

    version: ModelVersion | None = None


def plane(sticky: str, share: float = 0.3, states: Mapping[int, State] = {}) -> HandPlane:
    """Version 2 is the candidate and has another signature than version 1."""
    of = table(
        *(
            served(manifest("iris", number, (signature,)), state=states.get(number, State.AVAILABLE))
            for number, signature in ((1, WIDE), (2, NARROW))
        )
    )
    route = Route((Weight(2, share), Weight(1, 1.0 - share)), sticky)
    return HandPlane(msgspec.structs.replace(of, routes={"iris": route}))


def body(user: str) -> bytes:
    """One row of a user."""
    return columns({"X": [[1, 2, 3, 4]], "user": [user]})


def columns(inputs: Mapping[str, Any]) -> bytes:
    """Inputs by name."""
    return json.dumps({"inputs": inputs}).encode()


def chosen(on: HandPlane, ref: ModelRef = IRIS, headers: Mapping[bytes, bytes] = {}, said: bytes = BODY) -> int:
    """The version that is asked, which the request and the count agree upon."""
    asked = Asked()
    version, request = read(on, tf_rest, ref, headers, said, Context(), asked)
    assert asked.version == version.id == request.version
    assert request.signature is version.manifest.signature("")
    return version.id.version


def test_without_routes_the_highest_version_answers() -> None:
    """As it always did."""
    assert chosen(HandPlane(table(iris_like("iris", 1), iris_like("iris", 2)))) == 2


@pytest.mark.parametrize("ref", [IRIS, ModelRef("")])
def test_a_header_keeps_its_caller_on_one_version(ref: ModelRef) -> None:
    """Whatever is drawn; a larger share takes more callers and gives none back. The only model need not be named."""
    small = {user for user in USERS if chosen(plane("header:X-User"), ref, {b"x-user": user.encode()}, body("")) == 2}
    large = {
        user for user in USERS if chosen(plane("header:X-User", 0.6), ref, {b"x-user": user.encode()}, body("")) == 2
    }

    assert small < large
    assert 80 < len(small) < 160
    assert 200 < len(large) < 280


def test_an_input_keeps_its_caller_on_one_version_whatever_else_is_in_the_request() -> None:
    """The first row decides, typed by the primary's signature; the answering version types the request anew."""
    users = {user for user in USERS if chosen(plane("input:user"), said=body(user)) == 2}
    again = {
        user
        for user in USERS
        if chosen(plane("input:user"), said=columns({"X": [[5, 6, 7, 8]] * 2, "user": [user, "b"]})) == 2
    }

    assert users == again
    assert 80 < len(users) < 160


def test_numbers_are_keys_as_well() -> None:
    """A float column can tell callers apart."""
    at = [chosen(plane("input:X"), said=columns({"X": [[n, 2, 3, 4]], "user": ["a"]})) for n in range(200)]

    assert 30 < at.count(2) < 90


@pytest.mark.parametrize("sticky", ["header:x-user", "input:age"])
def test_who_has_no_key_is_left_to_chance(sticky: str) -> None:
    """No header, or no such input: the draw decides, which here is always the candidate."""
    assert chosen(plane(sticky), said=body("a")) == 2


def test_a_key_does_not_matter_to_who_names_a_version() -> None:
    """They get what they name."""
    assert chosen(plane("input:user", 1.0), ModelRef("iris", 1), said=body("a")) == 1


def test_without_its_primary_a_route_reads_the_key_by_who_is_there() -> None:
    """The candidate answers alone."""
    assert chosen(plane("input:user", states={1: State.LOADING}), said=body("a")) == 2


@pytest.mark.parametrize("sticky", ["", "header:x-user", "input:user"])
def test_an_error_of_reading_counts_for_the_version_chosen(sticky: str) -> None:
    """Where no key can be read, chance says whose it is, as for all who have none: here the candidate's."""
    asked = Asked()

    with pytest.raises(DukouError):
        read(plane(sticky), tf_rest, IRIS, {}, columns({"X": [["a", 2, 3, 4]], "user": ["b"]}), Context(), asked)

    assert asked.version == ModelVersion("iris", 2)


def test_what_is_no_request_counts_for_no_version() -> None:
    """Nothing was chosen yet."""
    asked = Asked()

    with pytest.raises(DukouError):
        read(plane(""), tf_rest, IRIS, {}, b"{", Context(), asked)

    assert asked.version is None

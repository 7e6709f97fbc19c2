"""JSON bytes to values: what is accepted, what is refused, and that three parsers agree."""

import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.core.errors import DukouError, Reason
from dukou.wire import json_text
from dukou.wire.json_text import FEW, MAX_DEPTH, SMALL, decode, read

PADDING = b" " * SMALL


def plain(value: Any) -> Any:
    """The value with its arrays as lists."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(child) for key, child in value.items()}
    if isinstance(value, list):
        return [plain(child) for child in value]
    return value


def same(one: Any, other: Any) -> bool:
    """Equal in value and type, NaN equal to NaN, -0.0 unlike 0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or (
            one == other and math.copysign(1, one) == math.copysign(1, other)
        )
    return bool(one == other)


def reason(body: bytes, trailing: bool = False) -> Reason:
    with pytest.raises(DukouError) as caught:
        read(body, trailing)
    return caught.value.reason


@pytest.mark.parametrize("padding", [b"", PADDING], ids=["small", "large"])
@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"null", None),
        (b'"a"', "a"),
        (b"[]", []),
        (b"{}", {}),
        (b" [1, 2.5, -3]\n", [1, 2.5, -3]),
        (b"[NaN, Infinity, -Infinity]", [math.nan, math.inf, -math.inf]),
        (b"[1e999, -1e999, 1e-999]", [math.inf, -math.inf, 0.0]),
        (b"[-0.0, -0, 0]", [-0.0, 0, 0]),
        (b"[9007199254740993]", [9007199254740993]),
        (b"[18446744073709551615, 1]", [18446744073709551615, 1]),
        (b"[-1, 18446744073709551616]", [-1, 18446744073709551616]),
        (b'{"a": 1, "a": [2]}', {"a": [2]}),
        (b'{"a": [1], "a": 2}', {"a": 2}),
        (b'{"a\\u0000b": 1, "a": 2}', {"a\0b": 1, "a": 2}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b'["\\ud83d\\ude00 \\u00e9", "\xc3\xa9"]', ["\U0001f600 é", "é"]),
        (b'["[", "]", "[[["]', ["[", "]", "[[["]),
        (b"[true, false, null]", [True, False, None]),
        (b"[[1, 2], [3]]", [[1, 2], [3]]),
        (b"[1, [2]]", [1, [2]]),
        (b"[[1], 2]", [[1], 2]),
        (b"[[1, 2], [3, [4]]]", [[1, 2], [3, [4]]]),
        (b"[[], []]", [[], []]),
    ],
)
def test_a_document_has_its_value_whatever_its_size(body: bytes, value: Any, padding: bytes) -> None:
    """The parser is chosen by size; the value does not depend on it."""
    result = read(body + padding)

    assert same(plain(result), value)


@pytest.mark.parametrize("padding", [b"", PADDING], ids=["small", "large"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", Reason.MALFORMED_JSON),
        (b"  \n", Reason.MALFORMED_JSON),
        (b"{bad", Reason.MALFORMED_JSON),
        (b"[1,]", Reason.MALFORMED_JSON),
        (b"[01]", Reason.MALFORMED_JSON),
        (b"[1] 2", Reason.MALFORMED_JSON),
        (b'["\xff"]', Reason.MALFORMED_JSON),
        (b'["\\ud800"]', Reason.MALFORMED_JSON),
        (b'["\\ude00\\ud83d", NaN]', Reason.MALFORMED_JSON),
        (b'["a\nb"]', Reason.MALFORMED_JSON),
        (b"[" + b"9" * 5000 + b"]", Reason.MALFORMED_JSON),
        (b"[nan]", Reason.MALFORMED_JSON),
        (b"[" * 500_000, Reason.TOO_DEEP),
        (b'{"a":' * 500_000, Reason.TOO_DEEP),
        (b"[" * 500_000 + b"]" * 500_000, Reason.TOO_DEEP),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), Reason.TOO_DEEP),
        (b'["a",' + b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH + b"]", Reason.TOO_DEEP),
        (b"[NaN," * (MAX_DEPTH + 1) + b"1" + b"]" * (MAX_DEPTH + 1), Reason.TOO_DEEP),
    ],
)
def test_what_is_no_document_is_refused(body: bytes, expected: Reason, padding: bytes) -> None:
    """Every refusal is a DukouError, however deep the nesting."""
    assert reason(body + padding) is expected


@pytest.mark.parametrize("padding", [b"", PADDING], ids=["small", "large"])
def test_the_deepest_allowed_nesting_is_read(padding: bytes) -> None:
    """The limit itself is allowed."""
    value = read(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + padding)

    assert json.dumps(value) == "[" * MAX_DEPTH + "]" * MAX_DEPTH


@pytest.mark.parametrize("padding", [b"", PADDING], ids=["small", "large"])
@pytest.mark.parametrize("rest", [b"]", b" garbage", b"\x00", b'{"b": 2}'])
def test_what_follows_the_first_value_may_be_ignored(rest: bytes, padding: bytes) -> None:
    """TensorFlow Serving stops after the first complete value."""
    value = read(b'{"a": 1}' + padding + rest, trailing=True)

    assert value == {"a": 1}


def test_the_document_is_empty_in_the_words_of_tensorflow_serving() -> None:
    """Clients look for this text."""
    with pytest.raises(DukouError, match="The document is empty"):
        read(b"")


@pytest.mark.parametrize(
    ("numbers", "dtype"),
    [
        ([[0.5] * 50] * 4, np.float64),
        ([[1] * 50] * 4, np.int64),
        ([[2**64 - 1] * 50] * 4, np.uint64),
        ([[1] * 49 + [0.5]] * 4, np.float64),
        ([[[1, 2, 3]] * 10] * 10, np.int64),
    ],
)
def test_many_numbers_come_as_an_array(numbers: list[Any], dtype: type) -> None:
    """Large rectangular lists of numbers make no Python list; integers stay integers."""
    value = read(json.dumps({"X": numbers}).encode() + PADDING)

    assert value["X"].dtype == dtype
    assert value["X"].tolist() == numbers


@pytest.mark.parametrize(
    "rows",
    [
        [[1.0, 2.0]] * 5000 + [[1.0, 2.0, 3.0]],
        [[1.0, 2.0]] * 5000 + [[1.0], [1.0, 2.0, 3.0]],
        [[1.0, 2.0]] * 5000 + [[1.0, [2.0]]],
        [[1.0, 2.0]] * 5000 + [[1.0, []]],
        [[1.0, 2.0]] * 5000 + [1.0, 2.0],
        [[[1.0], [2.0]]] * 5000 + [[[1.0, 2.0], []]],
        [[1.0, 2.0]] * 5000 + [[1.0, None]],
        [[1, 2]] * 5000 + [[1, True]],
        [[1, 2]] * 5000 + [[1, "2"]],
        [[1, 2]] * 5000 + [[1, {}]],
        [1.0] * 5000 + [[1.0]],
    ],
)
def test_rows_that_differ_are_never_flattened_into_an_array(rows: list[Any]) -> None:
    """simdjson would flatten them without a word."""
    value = read(json.dumps({"X": rows, "name": "a"}).encode())

    assert type(value["X"]) is list
    assert same(plain(value["X"]), rows)


def test_brackets_in_strings_do_not_hide_a_ragged_row() -> None:
    """A string with brackets cannot make up for a list that is missing elsewhere."""
    rows = [[1.0, 2.0]] * 5000 + [[1.0, [2.0]]]

    value = read(json.dumps({"X": rows, "name": "[]]][[["}).encode())

    assert plain(value) == {"X": rows, "name": "[]]][[["}


def test_numbers_inside_of_many_objects_are_read_too() -> None:
    """Few objects are searched for arrays, many are taken as records; the value is the same."""
    few = [{"a": [1.0] * (FEW + 1), "b": "x"}] * 3
    many = [{"a": [1.0, 2.0], "b": "x"}] * (10 * FEW)

    value = read(json.dumps({"few": few, "many": many}).encode())

    assert plain(value) == {"few": few, "many": many}


def test_an_object_of_many_names_is_read_in_linear_time() -> None:
    """Each name is not searched for among all others: this takes a minute if it is."""
    wide = {f"n{number}": [number] for number in range(100_000)}

    assert read(json.dumps(wide).encode()) == wide


def test_a_small_body_of_another_form_is_left_to_read() -> None:
    """`decode` answers for its own form and size only."""
    decoder = msgspec.json.Decoder(list[int])

    assert decode(b"[1, 2]", decoder) == [1, 2]
    assert decode(b'[1, "2"]', decoder) is None
    assert decode(b"[1, NaN]", decoder) is None
    assert decode(b'["\xff"]', decoder) is None
    assert decode(b"[" * 4000, msgspec.json.Decoder()) is None
    assert decode(b"[1, 2]" + PADDING, decoder) is None


def documents(allow_nan: bool) -> st.SearchStrategy[Any]:
    numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=allow_nan, allow_infinity=allow_nan)
    rectangles = st.tuples(st.integers(0, 4), st.integers(0, 4)).flatmap(
        lambda shape: st.lists(
            st.lists(numbers, min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
        )
    )
    leaves = st.none() | st.booleans() | numbers | st.text(st.characters(codec="utf-8"), max_size=5) | rectangles
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=3), inner, max_size=4)
        ),
        max_leaves=12,
    )


@given(documents(allow_nan=False), st.booleans())
def test_three_parsers_agree(document: Any, ascii_only: bool) -> None:
    """Whatever JSON holds, msgspec, simdjson and the tolerant parser read the same values of the same types."""
    body = json.dumps(document, ensure_ascii=ascii_only).encode()

    small = json_text._any.decode(body)
    large = plain(json_text._Large(body).value)
    tolerant = json_text._read_tolerant(body, False)

    assert same(small, document)
    assert same(large, document)
    assert same(tolerant, document)


@given(documents(allow_nan=True))
def test_numbers_that_are_not_finite_survive(document: Any) -> None:
    """The tokens NaN, Infinity and -Infinity may be anywhere, in bodies of any size."""
    body = json.dumps(document).encode()

    assert same(plain(read(body)), document)
    assert same(plain(read(body + PADDING)), document)


@given(st.binary(max_size=200) | st.text('[]{}",:0123456789.eE+-nulltruefalsNI \\u', max_size=60).map(str.encode))
def test_any_bytes_are_a_value_or_a_refusal(body: bytes) -> None:
    """No input makes another exception than DukouError, and size does not decide what is accepted."""
    results = []
    for one in (body, body + PADDING):
        try:
            results.append(plain(read(one)))
        except DukouError as error:
            results.append([error.reason])

    assert same(*results)

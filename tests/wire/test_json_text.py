"""JSON bytes to values: what is accepted, what is refused, and that three parsers agree."""

import json
import math
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.core.errors import DukouError, Reason
from dukou.wire import json_text
from dukou.wire.json_cut import Cut, cut
from dukou.wire.json_text import MAX_DEPTH, MOST_VALUES, SMALL, decode, read

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
        ([[0.5] * 50] * 40, np.float64),
        ([[1] * 50] * 40, np.int64),
        ([[2**64 - 1] * 50] * 10, np.uint64),
        ([[1] * 49 + [0.5]] * 40, np.float64),
        ([[[1, 2, 3]] * 10] * 100, np.int64),
        ([1.5] * 2000, np.float64),
    ],
)
def test_many_numbers_come_as_an_array(numbers: list[Any], dtype: type) -> None:
    """Large rectangular lists of numbers make no Python list; integers stay integers."""
    value = read(json.dumps({"X": numbers}).encode())

    assert value["X"].dtype == dtype
    assert value["X"].tolist() == numbers


@pytest.mark.parametrize("nan", [math.nan, math.inf, -math.inf])
def test_missing_values_among_many_numbers_stay_where_they_are(nan: float) -> None:
    """NaN among numbers is data, and read as fast as numbers are."""
    rows = np.arange(6000.0).reshape(-1, 3)
    rows[7, 1] = rows[0, 0] = rows[-1, -1] = nan

    value = read(json.dumps({"name": "NaN", "X": rows.tolist()}).encode())

    assert value["name"] == "NaN"
    np.testing.assert_array_equal(value["X"], rows, strict=True)


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


def test_arrays_are_found_inside_of_objects_and_lists() -> None:
    """Wherever strings and braces stand around them."""
    long = [1.5] * 2000
    document = {"few": [{"a": long, "b": "x"}] * 3, "many": [{"a": [1.0, 2.0]}] * 640, "mixed": ["s", long, "[", {}]}

    value = read(json.dumps(document).encode())

    assert type(value["few"][2]["a"]) is np.ndarray
    assert type(value["mixed"][1]) is np.ndarray
    assert plain(value) == document


@pytest.mark.parametrize(
    "body",
    [
        b'{"X": [%b], "Y": [1 2]}',
        b"[[%b], [1 2]]",
        b'{[%b]: 1, "Y": 1}',
        b'{"Y": 1 [%b]}',
        b'{"Y": "a" [%b]}',
        b'{"X": [%b 1]}',
        b'{"X": [%b, 1NaN]}',
        b'{"X": [%b, -NaN]}',
        b'{"X": [%b, NaN0]}',
        b'{"X": [%b, NaNNaN]}',
        b'{"X": [%b, --Infinity]}',
        b'{"X": [%b, 1-Infinity]}',
        b'{"X": [%b, Infinity1]}',
        b'{"X": [%b, \x00]}',
        b'{"X": [%b, NaN, \x01]}',
        b'{"X": [%b, NaN, N]}',
        b'{"X": [%b, NaN, 01]}',
        b'{"X": [%b], [NaN]}',
    ],
)
def test_mistakes_beside_many_numbers_are_found(body: bytes) -> None:
    """What is cut out of a document hides no mistake."""
    assert reason(body % b",".join([b"1.5"] * 2000)) is Reason.MALFORMED_JSON


def test_the_place_of_a_mistake_is_that_in_the_body() -> None:
    """Arrays cut out before it count."""
    numbers = json.dumps([1.5] * 2000).encode()
    body = b'{"a": %b, "\xc3\xa9": %b, "c": x, "d": %b}' % (numbers, numbers, numbers)

    with pytest.raises(DukouError, match=f"Expecting value at offset {body.index(b'x')}"):
        read(body)


def test_an_open_string_is_told_with_its_place() -> None:
    """Once."""
    with pytest.raises(DukouError, match=r"Unterminated string starting at offset 1$"):
        read(b'{"a')


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"[]," * MOST_VALUES + b"[1]]",
        b"[" + b"[]," * MOST_VALUES + b"NaN]",
        b'{"X":[' + b"[1]," * MOST_VALUES + b"[1,2]]}",
        b"[" + b"{}," * MOST_VALUES + b"{}]",
        b"[" + b'"",' * MOST_VALUES + b"1]",
        b"[" + b'{"a":1},' * MOST_VALUES + b"1]",
        b'["\\"",' + b"[]," * MOST_VALUES + b'"]"]',
        b"[" + b"null," * MOST_VALUES + b"1]",
        b"[" + b"9" * 30 + b"," + b"1," * MOST_VALUES + b"1]",
    ],
    ids=["lists", "lists and NaN", "ragged", "objects", "strings", "records", "escapes", "nulls", "huge"],
)
def test_more_values_than_python_should_hold_are_refused(body: bytes) -> None:
    """Before they are made: one body neither holds up all others nor takes 50 times its size."""
    with pytest.raises(DukouError, match="plain rectangular numbers, 500000 is the most") as caught:
        read(body)

    assert caught.value.reason is Reason.TOO_MANY_VALUES
    assert caught.value.facts["got"] > MOST_VALUES


@pytest.mark.parametrize("inside", ["1, 2", "[[[{{{,,,", '\\", [', "\\\\"])
def test_commas_in_strings_are_no_values(inside: str) -> None:
    """Text is text, however long."""
    text = inside * MOST_VALUES

    assert read(json.dumps({"X": [text, 1]}).encode()) == {"X": [text, 1]}


def test_any_number_of_plain_numbers_is_read() -> None:
    """The bound is on what becomes Python objects."""
    rows = np.ones((MOST_VALUES, 2))

    value = read(b'{"X":' + orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY) + b"}")

    np.testing.assert_array_equal(value["X"], rows, strict=True)


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
def test_parsers_agree(document: Any, ascii_only: bool) -> None:
    """Whatever JSON holds, msgspec and the tolerant parser read the same values of the same types."""
    body = json.dumps(document, ensure_ascii=ascii_only).encode()

    small = json_text._any.decode(body)
    tolerant = json_text._read_tolerant(Cut(body), False)

    assert same(small, document)
    assert same(tolerant, document)


@given(documents(allow_nan=True))
def test_numbers_that_are_not_finite_survive(document: Any) -> None:
    """The tokens NaN, Infinity and -Infinity may be anywhere, in bodies of any size."""
    body = json.dumps(document).encode()

    assert same(plain(read(body)), document)
    assert same(plain(read(body + PADDING)), document)


def alike(one: Any, other: Any) -> bool:
    """As `same`, but that an array of integers and floats holds all of them as floats."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if type(one) is float and type(other) is int:
        return one == float(other)
    return same(one, other)


def read_cut(body: bytes) -> Any:
    """As `read` reads, with every array cut out that can be."""
    document = cut(body, least_bytes=1, few=0)
    return plain(json_text._put_back(json_text._read_tolerant(document, False), document))


@given(documents(allow_nan=True), st.booleans(), st.sampled_from([None, 1]))
def test_cutting_arrays_out_changes_no_value(document: Any, ascii_only: bool, indent: int | None) -> None:
    """Of whatever shape, beside whatever strings, with and without spaces."""
    body = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode()

    assert alike(read_cut(body), document)


@given(documents(allow_nan=True), st.data())
def test_cutting_arrays_out_hides_no_damage(document: Any, data: st.DataObject) -> None:
    """A damaged body is refused as it is without the cut, or has the same value."""
    body = bytearray(json.dumps(document).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(body)))
        body[place : place + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from(
                [b"", b"[", b"]", b",", b'"', b"\\", b"NaN", b"Infinity", b"-", b"1", b" ", b"{", b"}", b":"]
            )
        )

    results = []
    for parse in (lambda one: json_text._read_tolerant(Cut(one), False), read_cut):
        try:
            results.append(parse(bytes(body)))
        except DukouError as error:
            results.append(str(error))

    assert alike(results[1], results[0])


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

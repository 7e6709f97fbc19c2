"""The text format: what people write, and where it is wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.protos.text import parse_text
from dukou.protos.tree import to_tree

CONFIG = "inference.ModelConfig"


def test_the_looser_spellings_of_the_format_are_read() -> None:
    """Colons before messages, commas between entries, either quotes, comments, lists."""
    text = """
    name: 'm'  # a comment
    max_batch_size: 8,
    input: [{ name: "x" data_type: TYPE_FP32, dims: [ -1, 4 ] }]
    output { name: "y" data_type: TYPE_INT64 dims: 1 dims: 2 }
    parameters: { key: "k" value: { string_value: "v" } }
    version_policy: { specific { versions: 1, versions: 3 } };
    """

    config = parse_text(text, CONFIG)

    assert to_tree(config) == {
        "name": "m",
        "max_batch_size": 8,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["-1", "4"]}],
        "output": [{"name": "y", "data_type": "TYPE_INT64", "dims": ["1", "2"]}],
        "parameters": {"k": {"string_value": "v"}},
        "version_policy": {"specific": {"versions": ["1", "3"]}},
    }


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("nam: 'm'", "line 1, column 1: ", "no field named"),
        ("name: 'm'\n  max_batch_size: x", "line 2, column 19: ", "integer: x"),
        ("name: 'm'\nname: 'n'", "line 2, column 7: ", "multiple"),
        ("input { data_type: FP32 }", "line 1, column 20: ", "no value named FP32"),
        ("input {\n dims: 99999999999999999999 }", "line 2, column 8: ", "out of range"),
        ("input {", "line 1, column 7: ", "Expected"),
        ("name: '\\377'", "line 1, column 13: ", "utf-8"),
        ("name: '" + "x" * 5000, "line 1, column 7: ", "quote"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, place: str, what: str) -> None:
    """With line and column, and without the line itself, however long that is."""
    with pytest.raises(ValueError) as caught:
        parse_text(text, CONFIG)

    assert str(caught.value).startswith(place)
    assert what in str(caught.value)
    assert len(str(caught.value)) < 300


WORDS = st.sampled_from(
    [
        "name",
        "input",
        "dims",
        ":",
        "{",
        "}",
        "[",
        "]",
        "<",
        ">",
        ",",
        ";",
        "'x'",
        '"',
        "-1",
        "1e9",
        "TYPE_FP32",
        "\\x",
        "#",
    ]
)


@given(st.lists(WORDS, max_size=30).map(" ".join) | st.text(max_size=60))
def test_no_text_raises_anything_but_value_error(text: str) -> None:
    """A configuration, or a ValueError."""
    try:
        config = parse_text(text, CONFIG)
    except ValueError:
        return

    assert config.DESCRIPTOR.full_name == CONFIG


def test_deep_nesting_is_refused() -> None:
    """Whatever is opened a hundred thousand times."""
    for opening in ("input [", "input {", "input { reshape {", "[type.googleapis.com/x] {"):
        with pytest.raises(ValueError):
            parse_text(opening * 100_000, CONFIG)

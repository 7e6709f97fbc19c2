"""The reference page is the tree, written out."""

import tomllib
from pathlib import Path

import pytest

from dukou.config.fields import settings
from dukou.config.reference import reference, written

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "config.md"


def test_the_page_is_up_to_date() -> None:
    """`dukou config --reference > docs/reference/config.md` was run after the tree changed."""
    assert PAGE.read_text(encoding="utf-8") == reference()


def test_every_setting_is_documented() -> None:
    """Each setting has a text of its own and a row in the page."""
    page = reference()

    for setting in settings().values():
        assert setting.doc.endswith(".")
        assert setting.doc in page


@pytest.mark.parametrize("value", [True, 3, 0.5, 'a "b" \\', ("a", "b"), {"a": {"b": [1, "c"]}}])
def test_values_are_written_as_toml(value: object) -> None:
    """What the page and `dukou config` show can be put into a file."""
    read_again = tomllib.loads(f"value = {written(value)}")["value"]

    assert read_again == (list(value) if isinstance(value, tuple) else value)

"""The reference page of the command line is what the commands say."""

from pathlib import Path

from dukou.cli.reference import reference

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "cli.md"


def test_the_page_is_not_stale() -> None:
    """`scripts/docs` writes it again."""
    assert PAGE.read_text(encoding="utf-8") == reference()

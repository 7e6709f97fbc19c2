"""The reference page is the table of metrics, written out."""

from pathlib import Path

from dukou.telemetry.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


def test_the_page_is_up_to_date() -> None:
    """The page was written again after the table changed."""
    assert PAGE.read_text(encoding="utf-8") == reference()

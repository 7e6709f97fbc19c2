"""The reference page of the command line is what the commands say."""

from pathlib import Path

from dukou.cli.main import app
from dukou.cli.reference import reference

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "cli.md"


def test_the_page_is_not_stale() -> None:
    """`scripts/docs` writes it again."""
    assert PAGE.read_text(encoding="utf-8") == reference()


def test_paths_are_completed_by_the_shell() -> None:
    """Tab after `dukou serve` offers files."""
    script = app.generate_completion(shell="bash")

    assert script.count("compgen -f") >= len(("serve", "pack", "inspect"))

"""scripts/bench-changes: what changing models costs and how surely it is judged; writes its part of bench/RESULTS.md.

Each measurement is a program of its own beside this one, which prints a table; they run one after the other.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from report import OF_CHANGES

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent

PARTS = (
    ("Swaps of versions under load", "swaps.py", (), False),
    ("What a shadow costs its primary, in memory", "shadow.py", (), True),
    ("What a shadow costs its primary, over sockets", "shadow.py", ("--sockets",), True),
    ("Rollback", "rollback.py", (), False),
    ("What recording costs", "capture.py", (), True),
    ("Rollouts, simulated", "rollouts.py", (), False),
)
"""Title, program, words, and whether it needs a packed version."""

AIMS = """\
What we aim at: 200 swaps without a failed request, the loop's lag at most 10 ms in windows with a swap, memory after
the last swap within 5 % of that after the fifth; a 100 % shadow for at most 3 µs of its primary's CPU a request, one
that hangs or crashes for no more; at most 1 s from `dukou rollback` to the last answer of the version rolled back; at
most 5 % of equal candidates rolled back and at most 1 % of bad ones promoted."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=(), help="programs by their names, such as swaps.py")
    parser.add_argument("--output", type=Path, default=HERE / "RESULTS.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dukou-bench-") as folder:
        version = pack_iris(Path(folder))
        tables = [
            f"### {title}\n\n{measure(program, [*words, *([str(version)] if needs else [])])}"
            for title, program, words, needs in PARTS
            if not options.only or program in options.only
        ]
    text = "\n\n".join((OF_CHANGES, "## Changes of models", AIMS, *tables))
    print(text)
    if not options.only:
        before = options.output.read_text(encoding="utf-8").partition(OF_CHANGES)[0].rstrip()
        options.output.write_text(f"{before}\n\n{text}\n", encoding="utf-8")


def measure(program: str, words: list[str]) -> str:
    """What a program prints."""
    command = [sys.executable, str(HERE / program), *words]
    print(f"{program} {' '.join(words)}", file=sys.stderr, flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout.strip()


def pack_iris(folder: Path) -> Path:
    """A packed version of the iris model."""
    subprocess.run([sys.executable, str(HERE / "models.py"), str(folder)], check=True, stdout=subprocess.DEVNULL)
    command = [BIN / "dukou", "pack", folder / "model.joblib", "--name", "iris", "--version", "1", "--to", folder]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder / "iris" / "1"


if __name__ == "__main__":
    main()

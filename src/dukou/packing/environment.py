"""Where a version was packed: what one needs to know when it answers differently elsewhere."""

import platform
from importlib import metadata
from pathlib import Path

from dukou.core.model import Environment

LIBRARIES = ("dukou", "numpy", "scikit-learn", "skl2onnx", "onnx", "onnxruntime", "joblib", "skops", "scipy", "pandas")
"""Distributions whose versions decide what a fitted model or its compiled form answers."""


def library_versions() -> dict[str, str]:
    """The installed versions of LIBRARIES, read without importing any of them."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment() -> Environment:
    """This machine and its libraries."""
    return Environment(
        python=platform.python_version(), platform=platform.platform(), cpu=_cpu(), libraries=library_versions()
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())

"""The manifest file: what is written is read back, and what cannot be trusted is refused with a sentence."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from dukou.core.errors import DukouError, Reason
from dukou.core.model import Environment, Evidence, ModelManifest, ModelVersion, Signature, TensorSpec
from dukou.core.tensor import DTYPES
from dukou.repository.manifest import MANIFEST, MAX_BYTES, read_manifest, write_manifest
from dukou.testing import models

DIGEST = "0" * 64

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
names = st.from_regex(r"[a-zA-Z][a-zA-Z0-9_ .-]{0,20}", fullmatch=True)
files = st.from_regex(r"[a-z][a-z0-9_]{0,9}(\.[a-z]{1,5})?", fullmatch=True)
specs = st.builds(
    TensorSpec,
    name=text,
    datatype=st.sampled_from(sorted(DTYPES)),
    shape=st.none() | st.lists(st.integers(-1, 2**40), max_size=4).map(tuple),
    columns=st.lists(text, max_size=3).map(tuple),
)
values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def manifests(draw: st.DrawFn) -> ModelManifest:
    """A manifest of any content that is consistent."""
    serving, original = draw(files), draw(files | st.just(""))
    made = draw(
        st.dictionaries(text, st.builds(Signature, name=text, inputs=st.tuples(specs), outputs=st.tuples(specs)))
    )
    signatures = {name: msgspec.structs.replace(made[name], name=name) for name in made} or {
        models.IRIS_SIGNATURE.name: models.IRIS_SIGNATURE
    }
    return ModelManifest(
        format=1,
        id=ModelVersion(draw(names), draw(st.integers(0, 2**63 - 1))),
        runtime=draw(text),
        serving=serving,
        original=original,
        signatures=signatures,
        digests={name: DIGEST for name in (serving, original) if name},
        evidence=Evidence(form="compiled", reason=draw(text), max_abs_difference=draw(st.floats(allow_nan=False))),
        options=draw(st.dictionaries(text, values, max_size=3)),
        environment=Environment(python=draw(text), libraries=draw(st.dictionaries(text, text, max_size=3))),
        metrics=draw(st.dictionaries(text, st.floats(allow_nan=False), max_size=3)),
        lineage=draw(st.dictionaries(text, text, max_size=3)),
    )


def tree(**changes: Any) -> dict[str, Any]:
    """The TOML tree of a good manifest with keys changed; None takes one away."""
    good: dict[str, Any] = msgspec.to_builtins(models.manifest())
    return {key: value for key, value in (good | changes).items() if value is not None}


def refusal(folder: Path, content: bytes | dict[str, Any]) -> str:
    """The sentence with which `content` is refused as a manifest."""
    (folder / MANIFEST).write_bytes(content if isinstance(content, bytes) else tomli_w.dumps(content).encode())

    with pytest.raises(DukouError) as caught:
        read_manifest(folder)

    assert caught.value.reason is Reason.MANIFEST_INVALID
    assert caught.value.facts["path"] == str(folder / MANIFEST)
    return str(caught.value)


@given(manifests())
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, manifest: ModelManifest) -> None:
    """Every field survives the file."""
    folder = tmp_path_factory.mktemp("version")

    write_manifest(folder, manifest)

    assert read_manifest(folder) == manifest


def test_the_file_is_made_for_people(tmp_path: Path) -> None:
    """It begins with a comment, says first what serves and why, and keeps a shape on one line."""
    write_manifest(tmp_path, models.manifest())

    written = (tmp_path / MANIFEST).read_text()
    assert written.startswith("# ")
    assert "shape = [-1, 4]\n" in written
    assert list(tomllib.loads(written))[:6] == ["format", "runtime", "serving", "id", "evidence", "signatures"]


def test_a_folder_without_a_manifest_is_told_so(tmp_path: Path) -> None:
    """The sentence says what would write one."""
    with pytest.raises(DukouError, match="there is no such file; `dukou pack` writes it"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": 2}, "format 2, this dukou reads format 1"),
        ({"format": None}, "no format number"),
        ({"format": True}, "format True"),
        ({"colour": "red"}, "colour"),
        ({"evidence": {"form": "original", "reason": "r", "colour": 1}}, "evidence"),
        ({"runtime": 5}, "runtime"),
        ({"serving": None}, "serving"),
        ({"signatures": {}}, "no signatures"),
        ({"serving": "other.onnx"}, "'other.onnx', which has no digest"),
        ({"original": "model.joblib"}, "original is 'model.joblib', which has no digest"),
        ({"digests": {"model.py": "abc"}}, "is not a SHA-256"),
        ({"digests": {"model.py": DIGEST, MANIFEST: DIGEST}}, "cannot list itself"),
        ({"id": {"name": "a/b", "version": 1}}, "cannot name a model"),
        ({"id": {"name": ".hidden", "version": 1}}, "cannot name a model"),
        ({"id": {"name": "a", "version": -1}}, "cannot number a version"),
        ({"id": {"name": "a", "version": 1, "extra": 1}}, "extra"),
    ],
)
def test_a_manifest_that_says_something_wrong_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    """The sentence names what is wrong."""
    assert says in refusal(tmp_path, tree(**changes))


@pytest.mark.parametrize(
    "name", ["../model.py", "/etc/passwd", "a/../../b", "", ".", "a//b", "./a", "a\\b", "a/", "nul\0"]
)
def test_file_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    """A manifest from somewhere else cannot make us open other files of this machine."""
    says = refusal(tmp_path, tree(serving=name, digests={name: DIGEST}))

    assert "is not the name of a file inside the version's folder" in says


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    """The name is innocent, the file behind it is not."""
    outside = tmp_path / "secret"
    outside.write_text("x")
    folder = tmp_path / "version"
    folder.mkdir()
    (folder / "model.py").symlink_to(outside)

    assert "a link that leads out" in refusal(folder, tree())


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    """Links are fine as long as they stay inside."""
    (tmp_path / "blob").write_text("x")
    (tmp_path / "model.py").symlink_to("blob")
    write_manifest(tmp_path, models.manifest())

    assert read_manifest(tmp_path).serving == "model.py"


@pytest.mark.parametrize("content", [b"", b"format = ", b"\xff\xfe", b"format = 1\nformat = 1", b"a = " + b"[" * 5000])
def test_what_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    """Cut, binary and absurdly nested files get the same kind of sentence."""
    assert "manifest" in refusal(tmp_path, content)


def test_a_huge_manifest_is_not_read(tmp_path: Path) -> None:
    """Reading stops at the limit."""
    assert f"larger than {MAX_BYTES} bytes" in refusal(tmp_path, b"#" * (MAX_BYTES + 1))


def test_writing_refuses_what_reading_would(tmp_path: Path) -> None:
    """A mistake shows when packing, not when serving; and nothing is written."""
    wrong = msgspec.structs.replace(models.manifest(), serving="../model.py")

    with pytest.raises(DukouError, match="inside the version's folder"):
        write_manifest(tmp_path, wrong)

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [None, {1, 2}, object(), {"a": None}])
def test_options_that_toml_cannot_keep_are_refused(tmp_path: Path, value: object) -> None:
    """None, sets and objects have no form in the file."""
    with pytest.raises(DukouError) as caught:
        write_manifest(tmp_path, models.manifest(options={"key": value}))

    assert caught.value.reason is Reason.MANIFEST_INVALID


def test_reading_manifests_needs_no_framework() -> None:
    """The supervisor reads manifests; it must stay light."""
    code = (
        "import sys, dukou.repository.local; "
        "print([m for m in ('onnxruntime', 'sklearn', 'pandas', 'asyncio') if m in sys.modules])"
    )

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)

    assert loaded.stdout.strip() == "[]"

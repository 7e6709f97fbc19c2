"""From paths and settings to declared models: layouts, policies, deployments, and what cannot be."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dukou.app.declare import Declaration, choose, declare, places
from dukou.config import ModelsConfig
from dukou.core.errors import DukouError, Reason
from dukou.core.version import ModelVersion
from dukou.lifecycle.policy import All, Latest, Specific
from dukou.lifecycle.wanted import Declared, Strategy
from dukou.repository.manifest import write_manifest
from dukou.testing import models


def never(path: Path, name: str) -> Path:
    raise AssertionError(f"{path} was packed")


def declared(*paths: Path, **settings: Any) -> Declaration:
    config = ModelsConfig(paths=tuple(map(str, paths)), **settings)
    return declare(config, places(config, never))


def touch(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def pack(folder: Path) -> None:
    touch(folder / "model.py")
    write_manifest(folder, models.manifest(folder.parent.name, int(folder.name)))


def refused(*paths: Path, **settings: Any) -> str:
    with pytest.raises(DukouError) as caught:
        declared(*paths, **settings)
    assert caught.value.reason is Reason.CONFIG_INVALID
    return str(caught.value)


def test_layouts_may_be_mixed(tmp_path: Path) -> None:
    """Packed, ONNX under TensorFlow Serving's numbers, Triton's, and Python with and without a number."""
    pack(tmp_path / "packed" / "4")
    touch(tmp_path / "numbers" / "00000123" / "net.onnx")
    touch(tmp_path / "triton" / "config.pbtxt", "max_batch_size: 8")
    touch(tmp_path / "triton" / "2" / "model.onnx")
    touch(tmp_path / "bare" / "model.py")

    found = declared(tmp_path)

    assert list(found.models) == ["bare", "numbers", "packed", "triton"]
    assert found.models["packed"] == Declared("packed", str(tmp_path / "packed"), root=str(tmp_path))
    assert found.roots == (tmp_path,)


@pytest.mark.parametrize(
    ("path", "name", "version"),
    [("triton/2", "triton", 2), ("numbers/0012", "numbers", 12), ("python/1", "python", 1)],
)
def test_one_version_is_fixed(tmp_path: Path, path: str, name: str, version: int) -> None:
    """Its place names it; nothing comes to it."""
    touch(tmp_path / "triton" / "config.pbtxt", "")
    touch(tmp_path / "triton" / "2" / "model.onnx")
    touch(tmp_path / "numbers" / "0012" / "any.onnx")
    touch(tmp_path / "python" / "1" / "model.py")

    found = declared(tmp_path / path)

    assert found.models == {name: Declared(name, fixed={version: str(tmp_path / path)}, policy=All())}
    assert found.roots == ()


def test_a_models_folder_may_be_called_otherwise(tmp_path: Path) -> None:
    """By --name."""
    touch(tmp_path / "m" / "1" / "model.onnx")

    found = declared(tmp_path / "m", name="other")

    assert found.models == {"other": Declared("other", str(tmp_path / "m"))}
    assert found.roots == (tmp_path / "m",)


def test_a_bare_file_is_packed_once_and_fixed(tmp_path: Path) -> None:
    """However often is asked what it declares."""
    file = touch(tmp_path / "iris.v2.joblib")
    packed: list[str] = []

    def pack_file(path: Path, name: str) -> Path:
        packed.append(name)
        return tmp_path / "cache"

    config = ModelsConfig(paths=(str(file),))
    found = places(config, pack_file)

    assert declare(config, found) == declare(config, found)
    assert declare(config, found).models["iris"].fixed == {1: str(tmp_path / "cache")}
    assert packed == ["iris"]


def test_single_versions_of_one_model_join(tmp_path: Path) -> None:
    """Where they are different ones."""
    for number in (1, 2):
        touch(tmp_path / "m" / str(number) / "model.onnx")

    found = declared(tmp_path / "m" / "1", tmp_path / "m" / "2")

    assert sorted(found.models["m"].fixed) == [1, 2]


def test_two_things_that_name_one_model_are_refused(tmp_path: Path) -> None:
    """The same version twice, and two folders."""
    touch(tmp_path / "a" / "m" / "1" / "model.onnx")
    touch(tmp_path / "b" / "m" / "1" / "model.onnx")

    assert "would both be version 1 of 'm'" in refused(tmp_path / "a" / "m" / "1", tmp_path / "b" / "m" / "1")
    said = refused(tmp_path / "a", tmp_path / "b")
    assert f"{tmp_path}/a/m and {tmp_path}/b/m are both model 'm'" in said
    assert "are both model 'm'" in refused(tmp_path / "a" / "m", tmp_path / "b" / "m" / "1")


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("version_policy { latest { num_versions: 2 } }", Latest(2)),
        ("version_policy: { latest { } }", Latest(1)),
        ("version_policy { all { } }", All()),
        ("version_policy { specific { versions: [ 1, 3 ] } }", Specific((3, 1))),
        ("", Latest(3)),
        ("version_policy { all { ", Latest(3)),
    ],
)
def test_a_models_own_policy_goes_before_the_setting(tmp_path: Path, text: str, policy: Any) -> None:
    """Triton's; what cannot be read is told when the model is loaded."""
    touch(tmp_path / "m" / "config.pbtxt", text)
    touch(tmp_path / "m" / "1" / "model.onnx")
    touch(tmp_path / "other" / "1" / "model.onnx")

    found = declared(tmp_path, version_policy="latest:3").models

    assert found["m"].policy == policy
    assert found["other"].policy == Latest(3)


def test_models_come_to_a_repository_and_go(tmp_path: Path) -> None:
    """When asked again; all of them may go."""
    touch(tmp_path / "a" / "1" / "model.onnx")
    config = ModelsConfig(paths=(str(tmp_path),))
    found = places(config, never)
    touch(tmp_path / "b" / "7" / "model.onnx")

    assert list(declare(config, found).models) == ["a", "b"]

    (tmp_path / "a").rename(tmp_path / ".gone")
    assert list(declare(config, found).models) == ["b"]

    (tmp_path / "b").rename(tmp_path / ".gone_too")
    assert declare(config, found).models == {}


def test_a_repository_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """So that what was declared before may stay."""
    touch(tmp_path / "root" / "a" / "1" / "model.onnx")
    config = ModelsConfig(paths=(str(tmp_path / "root"),))
    found = places(config, never)
    (tmp_path / "root").rename(tmp_path / "away")

    with pytest.raises(DukouError) as caught:
        declare(config, found)

    assert caught.value.reason is Reason.ARTIFACT_UNREADABLE


def test_settings_of_a_model_are_declared_with_it(tmp_path: Path) -> None:
    """Options, labels, and how its versions change."""
    touch(tmp_path / "m" / "1" / "model.onnx")
    plan = {"steps": "incremental", "manual": True}
    deployment = {"strategy": "resource_preserving", "plan": plan, "sticky": "header: x-user", "keep_previous": True}

    found = declared(
        tmp_path, options={"m": {"threads": 2}}, labels={"m": {"stable": 1}}, deployment={"m": deployment}
    ).models["m"]

    assert (found.options, found.labels) == ({"threads": 2}, {"stable": 1})
    assert found.strategy is Strategy.RESOURCE_PRESERVING
    assert (found.plan, found.sticky, found.keep_previous) == ("incremental manual=true", "header:x-user", True)


def test_a_plan_may_be_text(tmp_path: Path) -> None:
    """As the command line has it."""
    touch(tmp_path / "m" / "1" / "model.onnx")

    assert declared(tmp_path, deployment={"m": {"plan": "shadow,incremental"}}).models["m"].plan == "shadow,incremental"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"deployment": {"m": {"planing": "full"}}},
            "deployment.m.planing: there is no such setting; did you mean plan",
        ),
        ({"deployment": {"m": {"x": 1}}}, "deployment.m.x: there is no such setting; there are strategy, plan"),
        ({"deployment": {"m": 1}}, "deployment.m is 1, not a table"),
        ({"deployment": {"m": {"strategy": "fast"}}}, "deployment.m.strategy: 'fast' is not one of availability_pres"),
        ({"deployment": {"m": {"sticky": "x-user"}}}, "deployment.m.sticky: 'x-user' is neither `header:NAME`"),
        ({"deployment": {"m": {"sticky": "input:"}}}, "deployment.m.sticky: 'input:' is neither"),
        ({"deployment": {"m": {"sticky": 1}}}, "deployment.m.sticky: 1 is neither"),
        ({"deployment": {"m": {"keep_previous": 1}}}, "deployment.m.keep_previous: 1 is neither true nor false"),
        ({"deployment": {"m": {"plan": 3}}}, "deployment.m.plan: 3 is neither the text of a plan"),
        ({"deployment": {"m": {"plan": "incremental:5,50"}}}, "deployment.m.plan: "),
        ({"deployment": {"m": {"plan": {"steps": [5, 50]}}}}, "the last step has to be 100 %, it is 50 %"),
        ({"labels": {"m": {"stable": "1"}}}, "models.labels.m.stable is '1', not the number of a version"),
        ({"labels": {"m": {"stable": True}}}, "models.labels.m.stable is True, not the number of a version"),
        ({"labels": {"m": 1}}, "models.labels.m is 1, not a table"),
        ({"options": {"m": 1}}, "models.options.m is 1, not a table"),
        ({"deployment": {"n": {}}}, "deployment.n: no such model is served; served are: m"),
        ({"labels": {"mm": {}}}, "models.labels.mm: no such model is served"),
        ({"version_policy": "latest:0"}, "version policy 'latest:0'"),
    ],
)
def test_mistakes_in_settings_are_told_with_their_path(tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    """And what was perhaps meant."""
    touch(tmp_path / "m" / "1" / "model.onnx")

    assert says in refused(tmp_path / "m", **settings)


def test_a_repository_may_get_the_model_later_that_a_setting_is_about(tmp_path: Path) -> None:
    """That is warned of, as it may be a slip."""
    touch(tmp_path / "iris" / "1" / "model.onnx")

    found = declared(tmp_path, deployment={"irsi": {"plan": "shadow,incremental"}})

    assert found.warnings == ("deployment.irsi: no such model is served; did you mean iris?",)


def test_a_name_for_several_models_is_refused(tmp_path: Path) -> None:
    """A repository has names of its own."""
    touch(tmp_path / "m" / "1" / "model.onnx")

    assert "--name x is for one model" in refused(tmp_path, name="x")


@pytest.mark.parametrize(("configured", "loaded"), [(False, ""), (True, "google.protobuf")])
def test_declaring_imports_protobuf_only_where_a_configuration_is(
    tmp_path: Path, configured: bool, loaded: str
) -> None:
    """And never what computes: the supervisor declares and looks."""
    touch(tmp_path / "m" / "1" / "model.onnx")
    if configured:
        touch(tmp_path / "m" / "config.pbtxt", "max_batch_size: 2")
    heavy = ("numpy", "onnxruntime", "google.protobuf", "watchfiles")
    program = (
        "import sys; from pathlib import Path; from dukou.app.declare import declare, places; "
        "from dukou.config import ModelsConfig; from dukou.repository.look import Look; import dukou.repository.watch; "
        f"config = ModelsConfig(paths=({str(tmp_path)!r},)); declare(config, places(config, None)); "
        f"assert Look(quiet_s=0).see('m', Path({str(tmp_path / 'm')!r})).versions; "
        f"print(*set({heavy}) & set(sys.modules), end='')"
    )

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert said.stdout == loaded


def test_the_version_to_open_is_the_one_that_a_server_would_serve(tmp_path: Path) -> None:
    """The highest that the policy wants of the good ones; a broken one where there is no other, so that it tells."""
    for number in ("1", "2"):
        touch(tmp_path / "m" / number / "model.onnx")
    (tmp_path / "m" / "3").mkdir()
    (tmp_path / "broken" / "4").mkdir(parents=True)

    found = declared(tmp_path).models

    assert choose(found["m"]).id == ModelVersion("m", 2)
    assert choose(found["broken"]).id == ModelVersion("broken", 4)
    assert choose(found["m"]).folder == str(tmp_path / "m" / "2")


def test_nothing_to_open_says_what_was_wanted(tmp_path: Path) -> None:
    """By the model's own policy, not by the setting that it goes before; or what is wrong with its folder."""
    touch(tmp_path / "m" / "1" / "model.onnx")
    touch(tmp_path / "m" / "config.pbtxt", "version_policy { specific { versions: [ 3 ] } }")
    touch(tmp_path / "lonely" / "config.pbtxt", "")
    found = declared(tmp_path).models

    with pytest.raises(DukouError, match="nothing to serve: no version of model 'm' fits the policy 3"):
        choose(found["m"])
    with pytest.raises(DukouError, match="has no version"):
        choose(found["lonely"])

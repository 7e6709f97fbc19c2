"""Model config files: which text is one, and what it declares."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from dukou.app import model_config
from dukou.config import ModelsConfig
from dukou.core.errors import Code, DukouError, Reason
from dukou.lifecycle.policy import All, Latest, Policy, Specific
from dukou.lifecycle.wanted import Declared

DOCUMENT = """model_config_list {
  config {
    name: 'mnist'
    base_path: '/models/mnist'
    model_platform: 'tensorflow'
    model_version_policy {
      specific {
        versions: 1
        versions: 2
      }
    }
  }
}
"""

LOOSE = """# every liberty that the format leaves
model_config_list: {
  config: {
    name: "half", base_path: "/models/half",
    model_platform: "tensorflow"
  },
  config: <
    name: 'three' ; base_path: '/models/' 'three'
    model_platform: 'tensorflow'
    model_version_policy: { specific: { versions: [3, 1] } }
    version_labels { key: 'stable' value: 3 },
    version_labels: { key: "canary", value: 1 }
  >,
}
"""


def one(**fields: str) -> str:
    """A file with one model, some of its fields otherwise."""
    said = {"name": "'m'", "base_path": "'/models/m'", "model_platform": "'tensorflow'", **fields}
    return "model_config_list { config {" + " ".join(f"{key}: {value}" for key, value in said.items()) + "}}"


def read(tmp_path: Path, text: str | bytes) -> object:
    path = tmp_path / "models.config"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return model_config.read(path)


def declared(tmp_path: Path, text: str, config: ModelsConfig | None = None) -> Mapping[str, Declared]:
    return model_config.declared(read(tmp_path, text), config or ModelsConfig())


def refusal(tmp_path: Path, text: str) -> DukouError:
    with pytest.raises(DukouError) as caught:
        declared(tmp_path, text)
    return caught.value


def test_the_file_of_the_documentation_declares_its_model(tmp_path: Path) -> None:
    """Single quotes, no colons before braces, two specific versions."""
    assert declared(tmp_path, DOCUMENT) == {"mnist": Declared("mnist", "/models/mnist", policy=Specific((2, 1)))}


def test_colons_commas_and_both_quotes_are_fine(tmp_path: Path) -> None:
    """As people write them; comments, lists and strings in pieces, too."""
    assert declared(tmp_path, LOOSE) == {
        "half": Declared("half", "/models/half"),
        "three": Declared("three", "/models/three", policy=Specific((3, 1)), labels={"stable": 3, "canary": 1}),
    }


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("{}", Latest(1)),
        ("{ latest {} }", Latest(1)),
        ("{ latest { num_versions: 0 } }", Latest(1)),
        ("{ latest { num_versions: 3 } }", Latest(3)),
        ("{ all {} }", All()),
        ("{ specific { versions: 2 versions: 7 versions: 2 } }", Specific((7, 2))),
        ("{ specific {} }", Specific(())),
    ],
)
def test_policies(tmp_path: Path, policy: str, wanted: Policy) -> None:
    """No number of latest versions is one."""
    assert declared(tmp_path, one(model_version_policy=policy))["m"].policy == wanted


@pytest.mark.parametrize(
    ("base_path", "folder"),
    [
        ("'/models/m/'", "/models/m"),
        ("'file:///models/my%20model'", "/models/my model"),
        ("'file://localhost/models/m'", "/models/m"),
    ],
)
def test_a_folder_is_a_path_or_a_file_address(tmp_path: Path, base_path: str, folder: str) -> None:
    """Both mean the same."""
    assert declared(tmp_path, one(base_path=base_path))["m"].folder == folder


@pytest.mark.parametrize("base_path", ["s3://bucket/m", "gs://bucket/m", "file://elsewhere/m", "file://m"])
def test_other_addresses_are_refused_with_what_there_is(tmp_path: Path, base_path: str) -> None:
    """They are valid for TensorFlow Serving, which has their file systems."""
    error = refusal(tmp_path, one(base_path=f"'{base_path}'"))

    assert error.reason is Reason.CONFIG_INVALID
    assert f"model m: base_path {base_path}: only folders of this machine" in str(error)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("improperly formatted file\n", "line 1, column 1"),
        ("model_config_list {\n  config {\n    name: 'm'\n    base-path: '/m'\n  }\n}", "line 4"),
        ("model_config_list {\n  config {\n    nam: 'm'\n  }\n}", 'line 3, column 5: Message type "tensorflow'),
        ("model_config_list {\n  config { name: 7 }\n}", "line 2, column 18"),
        ("model_config_list {\n  config { name: 'm'\n", "line"),
        ("", "has no model_config_list"),
        ("# nothing yet\n", "has no model_config_list"),
        (b"model_config_list { config { name: '\xff' } }", "codec can't decode"),
    ],
)
def test_a_bad_file_tells_the_line_in_known_words(tmp_path: Path, text: str | bytes, said: str) -> None:
    """Scripts look for TensorFlow Serving's sentence; people need the place."""
    with pytest.raises(DukouError) as caught:
        read(tmp_path, text)

    assert caught.value.reason is Reason.CONFIG_INVALID
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig" in str(caught.value)
    assert str(tmp_path / "models.config") in str(caught.value)
    assert said in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With what the system says."""
    with pytest.raises(DukouError, match=r"nowhere\.config: No such file or directory"):
        model_config.read(tmp_path / "nowhere.config")


def test_a_file_beyond_all_measure_is_not_read(tmp_path: Path) -> None:
    """The text becomes objects many times its size."""
    with pytest.raises(DukouError, match="larger than"):
        read(tmp_path, "#" * (model_config.MAX_FILE_BYTES + 1))


def test_an_empty_list_declares_nothing(tmp_path: Path) -> None:
    """Said in so many words, it is meant: every model is to be unloaded."""
    assert declared(tmp_path, "model_config_list {}") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            one().replace("}}", "} config { name: 'm' base_path: '/n' model_platform: 'tensorflow' }}"),
            "Illegal to list model m multiple times in config list",
        ),
        (one(base_path="'models/m'"), "absolute path or URI"),
        (one(model_platform="''"), "Illegal setting neither"),
        (one(model_platform="'caffe'"), "requests unsupported platform caffe"),
        ("model_config_list { config { base_path: '/m' model_platform: 'tensorflow' } }", "no name"),
    ],
)
def test_what_tensorflow_serving_refuses_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """In its words."""
    error = refusal(tmp_path, text)

    assert error.code is Code.INVALID_ARGUMENT
    assert said in str(error)


def test_settings_of_single_models_hold_for_theirs(tmp_path: Path) -> None:
    """The file's labels stand over the settings'."""
    config = ModelsConfig(labels={"m": {"stable": 1, "own": 4}, "other": {"x": 1}}, options={"m": {"batched": False}})

    found = declared(tmp_path, one(version_labels="{ key: 'stable' value: 2 }"), config)

    assert found["m"].labels == {"stable": 2, "own": 4}
    assert found["m"].options == {"batched": False}


def test_a_deployment_of_the_settings_holds_for_its_model(tmp_path: Path) -> None:
    """The file's format has no word for it."""
    config = ModelsConfig(deployment={"m": {"plan": "shadow,incremental"}})

    assert declared(tmp_path, one(), config)["m"].plan == "shadow,incremental"


def test_a_label_of_a_reloaded_config_needs_a_version_that_answers(tmp_path: Path) -> None:
    """Unless labels may be ahead and this one is new."""
    message = read(tmp_path, one(version_labels="{ key: 'next' value: 2 }"))

    with pytest.raises(DukouError) as caught:
        model_config.reloaded(message, ModelsConfig(), {"m": (1,)}, {})

    assert caught.value.code is Code.FAILED_PRECONDITION
    assert model_config.reloaded(message, ModelsConfig(), {"m": (2, 1)}, {})["m"].labels == {"next": 2}
    assert model_config.reloaded(message, ModelsConfig(labels_ahead=True), {}, {})["m"].labels == {"next": 2}


def test_a_reloaded_config_does_not_change_what_a_model_is(tmp_path: Path) -> None:
    """The words are those for a model that is served."""
    message = read(tmp_path, one(model_platform="'caffe'"))

    with pytest.raises(DukouError, match="Illegal to change a model's platform"):
        model_config.reloaded(message, ModelsConfig(), {"m": ()}, {})


def test_what_has_no_effect_is_told(tmp_path: Path) -> None:
    """Requests are recorded another way here."""
    logged = one(logging_config="{ log_collector_config { type: 'x' } }")

    assert "logging_config of model m has no effect" in model_config.warnings(read(tmp_path, logged))[0]
    assert model_config.warnings(read(tmp_path, one())) == ()


def test_reading_a_config_needs_no_arrays() -> None:
    """The supervisor does it."""
    code = "import sys, dukou.app.model_config; print('numpy' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)

    assert done.stdout == "False\n"

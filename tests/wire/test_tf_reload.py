"""Which configurations are valid, in which order they are judged and with which words."""

from typing import Any

import pytest

from dukou.core.errors import Code, DukouError
from dukou.protos.tree import to_message
from dukou.runtimes.registry import BUILT_IN
from dukou.wire import tf_errors, tf_reload

SERVED = ("iris",)


def config(*models: dict[str, Any]) -> Any:
    return to_message({"model_config_list": {"config": list(models)}}, "tensorflow.serving.ModelServerConfig")


def model(name: str = "iris", **more: Any) -> dict[str, Any]:
    return {"name": name, "base_path": "/models/iris", "model_platform": "tensorflow", **more}


@pytest.mark.parametrize(
    "models",
    [
        (),
        (model(),),
        (model(), model("new", base_path="s3://bucket/new")),
        (model(model_platform="", model_type="TENSORFLOW"),),
        (model(version_labels={"stable": 1}, model_version_policy={"specific": {"versions": [1, 2]}}),),
        (model(model_version_policy={"latest": {"num_versions": 0}}),),
        (model(model_platform="onnx"), model("new", model_platform="sklearn")),
    ],
)
def test_valid_configurations_pass(models: tuple[dict[str, Any], ...]) -> None:
    """An empty list, paths and addresses, the old field for the platform, policies and labels."""
    tf_reload.check(config(*models), SERVED)


NEITHER = "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform."
BOTH = "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."


@pytest.mark.parametrize(
    ("models", "text"),
    [
        ((model(), model()), "Illegal to list model iris multiple times in config list"),
        ((model(""),), "A model in the config list has no name"),
        ((model(model_platform=""),), NEITHER),
        ((model(model_type="TENSORFLOW"),), BOTH),
        ((model(model_platform="", model_type="OTHER"),), "ModelServerConfig::model_type choice 2 not supported."),
        (
            (model(model_platform="caffe"),),
            "Illegal to change a model's platform. For model iris platform was tensorflow "
            "and new platform requested is caffe",
        ),
        ((model("new", model_platform="caffe"),), "Model new requests unsupported platform caffe"),
        (
            (model(base_path="models"),),
            "Expected model iris to have an absolute path or URI; got base_path()=models",
        ),
        ((model(base_path=""),), "Expected model iris to have an absolute path or URI; got base_path()="),
        ((model(version_labels={"": 1}),), "Version label of model iris is empty"),
    ],
)
def test_invalid_configurations_are_refused(models: tuple[dict[str, Any], ...], text: str) -> None:
    """In TensorFlow Serving's words."""
    with pytest.raises(DukouError) as caught:
        tf_reload.check(config(*models), SERVED)

    assert caught.value.code is Code.INVALID_ARGUMENT
    assert tf_errors.describe(caught.value) == text


def test_every_runtime_may_be_named_as_a_platform() -> None:
    """Whoever writes a new file names what is in the folder."""
    assert set(BUILT_IN) < tf_reload.PLATFORMS


@pytest.mark.parametrize("tree", [{}, {"custom_model_config": {"@type": "type.googleapis.com/tensorflow.Example"}}])
def test_only_lists_of_models_are_configurations(tree: dict[str, Any]) -> None:
    """No config at all, and one that somebody else would have to read."""
    said = to_message(tree, "tensorflow.serving.ModelServerConfig")

    with pytest.raises(DukouError) as caught:
        tf_reload.check(said, SERVED)

    assert tf_errors.describe(caught.value) == (
        "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported"
    )

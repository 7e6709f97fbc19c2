"""What TensorFlow Serving tells of a model, as JSON and as messages."""

import json
from typing import Any

import pytest

from dukou.core.errors import Code, DukouError, Reason
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.core.version import State
from dukou.protos.pool import pool
from dukou.protos.tree import to_message, to_tree
from dukou.testing.models import iris_like, manifest, served
from dukou.wire import tf_metadata, tf_rest
from dukou.wire.tf_kinds import KINDS


def metadata(*signatures: Signature) -> Any:
    return json.loads(tf_rest.model_metadata(served(manifest("m", 123, signatures))))


def test_metadata_has_every_field() -> None:
    """Also those with default values; sizes are texts, the signatures lie two deep."""
    x, y = TensorSpec("x", "FP32", None, stated=(-1, 1)), TensorSpec("y", "FP32", (-1, 1), tensor="half:0")

    told = metadata(Signature(DEFAULT_SIGNATURE, (x,), (y,)))

    dims = [{"size": "-1", "name": ""}, {"size": "1", "name": ""}]
    assert told == {
        "model_spec": {"name": "m", "signature_name": "", "version": "123"},
        "metadata": {
            "signature_def": {
                "signature_def": {
                    "serving_default": {
                        "inputs": {
                            "x": {
                                "dtype": "DT_FLOAT",
                                "tensor_shape": {"dim": dims, "unknown_rank": False},
                                "name": "x:0",
                            }
                        },
                        "outputs": {
                            "y": {
                                "dtype": "DT_FLOAT",
                                "tensor_shape": {"dim": dims, "unknown_rank": False},
                                "name": "half:0",
                            }
                        },
                        "method_name": "tensorflow/serving/predict",
                        "defaults": {},
                    }
                }
            }
        },
    }


def test_an_unknown_rank_is_said() -> None:
    """A shape of no axes is a scalar, and another thing."""
    told = metadata(
        Signature("s", (TensorSpec("open", "BYTES", None), TensorSpec("one", "INT64", ())), (), "classify", False)
    )

    signature = told["metadata"]["signature_def"]["signature_def"]["s"]
    assert signature["inputs"]["open"]["tensor_shape"] == {"dim": [], "unknown_rank": True}
    assert signature["inputs"]["one"]["tensor_shape"] == {"dim": [], "unknown_rank": False}
    assert signature["method_name"] == "tensorflow/serving/classify"


def test_the_message_says_what_the_json_says() -> None:
    """One tree makes both; of every datatype."""
    specs = tuple(TensorSpec(name, name, (-1, 3)) for name in KINDS)
    tree = tf_metadata.signature_def_map(served(manifest("m", 1, (Signature("s", specs, specs),))))

    message = to_message(tree, "tensorflow.serving.SignatureDefMap")

    assert to_tree(message, defaults=True) == tree


def test_the_numbers_of_datatypes_are_those_of_their_names() -> None:
    """The table agrees with the enumeration, and the lists with TensorProto's fields."""
    names = pool().FindEnumTypeByName("tensorflow.DataType").values_by_name
    fields = pool().FindMessageTypeByName("tensorflow.TensorProto").fields_by_name

    assert {kind.proto_name: kind.number for kind in KINDS.values()} == {
        kind.proto_name: names[kind.proto_name].number for kind in KINDS.values()
    }
    assert {kind.field: kind.field_number for kind in KINDS.values()} == {
        kind.field: fields[kind.field].number for kind in KINDS.values()
    }


@pytest.mark.parametrize("code", sorted({reason.code for reason in Reason}, key=str))
def test_every_code_of_a_failure_has_its_message(code: Code) -> None:
    """The status of a version that failed to load, whatever with."""
    reason = next(reason for reason in Reason if reason.code is code)
    failed = served(iris_like().manifest, state=State.END, error=DukouError(reason, path="p", detail="d"))

    tree = tf_metadata.model_status("iris", {1: failed}, None)

    said = to_message(tree, "tensorflow.serving.GetModelStatusResponse").model_version_status[0]
    assert said.status.error_code > 0
    assert said.status.error_message == str(failed.error)


@pytest.mark.parametrize(
    ("state", "number"),
    [(State.START, 10), (State.LOADING, 20), (State.AVAILABLE, 30), (State.UNLOADING, 40), (State.END, 50)],
)
def test_states_have_that_servers_numbers(state: State, number: int) -> None:
    """By their names."""
    tree = tf_metadata.model_status("iris", {1: iris_like("iris", 1, state)}, 1)

    (said,) = to_message(tree, "tensorflow.serving.GetModelStatusResponse").model_version_status

    assert said.state == number

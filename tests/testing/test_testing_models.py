"""The models and builders that other tests stand on."""

import asyncio

import numpy as np

from dukou.core.model import State
from dukou.core.tensor import DTYPES
from dukou.testing.models import IRIS_SIGNATURE, FunctionModel, iris_like, iris_model, iris_request, manifest, table

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.0, 2.9, 4.5, 1.5], [6.9, 3.1, 5.4, 2.1]], dtype=np.float32)


def test_the_iris_model_fits_its_signature() -> None:
    """Every output has the datatype and shape that the signature says."""
    answer = iris_model().infer("serving_default", {"X": ROWS}, ("label", "probabilities"), {})

    for spec in IRIS_SIGNATURE.outputs:
        assert answer[spec.name].dtype == DTYPES[spec.datatype]
        assert spec.fits(answer[spec.name].shape)


def test_the_iris_model_tells_its_rows_apart() -> None:
    """Three typical flowers get three labels, so that answers given to the wrong caller would show."""
    answer = iris_model().infer("serving_default", {"X": ROWS}, ("label",), {})

    assert answer["label"].tolist() == [0, 1, 2]


def test_a_function_model_passes_on_only_what_was_asked() -> None:
    """Outputs nobody asked for stay behind."""
    model = FunctionModel(lambda inputs: {"a": inputs["X"], "b": inputs["X"]})

    assert list(model.infer("s", {"X": ROWS}, ("b",), {})) == ["b"]


def test_a_direct_stage_answers_as_the_version_asked() -> None:
    """The stage behind `iris_like` runs without an engine."""
    one = iris_like()
    assert one.stage is not None

    response = asyncio.run(one.stage.infer(iris_request(ROWS)))

    assert response.version == one.id
    assert response.outputs["label"].tolist() == [0, 1, 2]


def test_a_table_has_the_highest_version_first() -> None:
    """The order that `choose` relies on, whatever order the versions came in."""
    made = table(iris_like(version=1), iris_like(version=3, state=State.LOADING), iris_like(version=2))

    assert list(made.models["iris"]) == [3, 2, 1]


def test_a_version_that_is_not_available_has_no_stage() -> None:
    """As in the tables that a worker makes."""
    assert iris_like(state=State.LOADING).stage is None


def test_a_manifest_finds_its_default_signature() -> None:
    """An empty name means the default one."""
    assert manifest().signature("") is IRIS_SIGNATURE

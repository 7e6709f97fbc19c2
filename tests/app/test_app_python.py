"""Python models and others that stand as they are, inside a program: answers, streams, batches, the end."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import dukou
from dukou.app.embed import InProcess
from dukou.core.errors import DukouError, Reason
from dukou.testing.conformance import build_models

MODEL = """
class Model:
    inputs = {"x": ("FP32", [-1, 2])}
    outputs = {"y": ("FP32", [-1])}
    independent_rows = True

    def load(self, context):
        self.folder = context.folder

    def predict(self, inputs):
        if inputs["x"].max() > 99:
            raise ValueError("a secret")
        return inputs["x"].sum(axis=1)

    def unload(self):
        (self.folder / "unloaded").touch()
"""

COUNT = """
class Model:
    inputs = {"n": ("INT64", [1])}
    outputs = {"i": ("INT64", [1])}

    def load(self, context):
        self.folder = context.folder

    def predict(self, inputs):
        try:
            for i in range(inputs["n"][0]):
                yield {"i": [i]}
        finally:
            (self.folder / "ended").touch()
"""

Open = Callable[[str], InProcess]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens `tmp_path / "model"` with that code, and closes it in the end."""
    models: list[InProcess] = []

    def load(code: str) -> InProcess:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "model.py").write_text(code)
        models.append(dukou.load(tmp_path / "model", trust_python=True))
        return models[-1]

    yield load
    for model in models:
        model.close()


def test_a_folder_with_python_code_answers(opened: Open) -> None:
    """Once it is trusted."""
    model = opened(MODEL)

    assert model.predict([[1, 2], [3, 4]]).tolist() == [3.0, 7.0]
    assert (model.version.name, model.version.version) == ("model", 1)


def test_python_code_is_not_trusted_by_itself(tmp_path: Path) -> None:
    """It says so by a Reason of its own."""
    (tmp_path / "model.py").write_text(MODEL)

    with pytest.raises(DukouError) as caught:
        dukou.load(tmp_path)

    assert caught.value.reason is Reason.CODE_REFUSED


def test_a_models_exception_stays_in_the_log(opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    """With its traceback; the caller is told MODEL_FAILED."""
    model = opened(MODEL)

    with pytest.raises(DukouError) as caught:
        model.predict([[100, 0]])

    assert caught.value.reason is Reason.MODEL_FAILED
    assert "secret" not in str(caught.value)
    assert "ValueError: a secret" in caplog.text


def test_an_answer_with_too_few_rows_is_nobodys(opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    """Cutting it would give one caller another's rows; the log says to the model's author what is wanted."""
    model = opened(MODEL.replace(".sum(axis=1)", ".sum(axis=1)[:1]"))

    with pytest.raises(DukouError) as caught:
        model.predict([[1, 2], [3, 4]])

    assert caught.value.reason is Reason.OUTPUT_NOT_ROWS
    assert "axis 0 of each output has to be these rows" in caplog.text


def test_a_model_is_unloaded_when_it_is_closed(opened: Open, tmp_path: Path) -> None:
    """Its `unload` has run."""
    model = opened(MODEL)
    assert not (tmp_path / "model" / "unloaded").exists()

    model.close()
    gc.collect()

    assert (tmp_path / "model" / "unloaded").exists()


def test_a_generator_streams_into_the_program(opened: Open) -> None:
    """Response by response."""
    model = opened(COUNT)

    assert [part["i"].tolist() for part in model.stream([3])] == [[0], [1], [2]]
    with pytest.raises(DukouError, match="decoupled transaction policy") as caught:
        model.predict([3])
    assert caught.value.reason is Reason.NOT_SUPPORTED


def test_leaving_a_stream_ends_it(opened: Open, tmp_path: Path) -> None:
    """The generator's `finally` has run when the model is closed."""
    model = opened(COUNT)
    stream = model.stream([10**9])
    next(stream)

    stream.close()  # type: ignore[attr-defined]
    model.close()

    assert (tmp_path / "model" / "ended").exists()


def test_closing_a_model_ends_its_streams(opened: Open) -> None:
    """Whoever asks for the next response is told."""
    model = opened(COUNT)
    stream = model.stream([10**9])
    next(stream)

    model.close()

    with pytest.raises(DukouError) as caught:
        next(stream)
    assert caught.value.reason is Reason.NOT_SERVING


def test_other_models_stream_one_response(opened: Open) -> None:
    """So that a program need not ask which kind it has."""
    assert [part["y"].tolist() for part in opened(MODEL).stream([[1, 2]])] == [[3.0]]


@pytest.mark.parametrize("path", ["addsub", "addsub/1"])
def test_a_triton_model_answers(tmp_path: Path, path: str) -> None:
    """Its folder, or one version's; rows beyond max_batch_size are refused."""
    build_models(tmp_path)
    four = np.arange(4, dtype=np.int32).reshape(1, 4)

    with dukou.load(tmp_path / path) as model:
        assert model.infer({"INPUT0": four, "INPUT1": four})["OUTPUT0"].tolist() == [[0, 2, 4, 6]]
        nine = np.repeat(four, 9, axis=0)
        with pytest.raises(DukouError) as caught:
            model.infer({"INPUT0": nine, "INPUT1": nine})

    assert caught.value.reason is Reason.BATCH_TOO_LARGE

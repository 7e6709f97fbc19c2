"""Models written in Python: what their class says, what they are given, what is checked of their answers."""

import gc
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import msgspec
import numpy as np
import pytest

from dukou.core.errors import DukouError, Reason
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.core.runtime import Runtime, StreamingModel
from dukou.core.tensor import DTYPES, narrow
from dukou.runtimes.python import PythonModel, PythonRuntime, open_source
from dukou.testing import models

ECHO = """
class Model:
    inputs = {"x": ("FP32", [-1, 2])}
    outputs = {"y": ("FP32", [-1, 2])}

    def predict(self, inputs):
        return inputs["x"] + 1
"""


def write(folder: Path, code: str, **helpers: str) -> Path:
    """`model.py` and modules beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in helpers.items():
        (folder / f"{name}.py").write_text(dedent(text))
    path = folder / "model.py"
    path.write_text(dedent(code))
    return path


def load(path: Path, signature: Signature | None = None, **options: Any) -> PythonModel:
    """The model as a host loads it."""
    runtime: Runtime = PythonRuntime()
    said = signature or open_source(path, trust=True).signature()
    of = models.manifest("m", 7, (said,), options=options)
    loaded = runtime.load(path.parent, msgspec.structs.replace(of, serving=path.name), trust=True)
    assert isinstance(loaded, PythonModel)
    return loaded


def ask(model: PythonModel, parameters: Mapping[str, Any] | None = None, **inputs: Any) -> Any:
    """The first output."""
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    outputs = next(iter(model._signatures.values())).output_names()
    return model.infer(DEFAULT_SIGNATURE, arrays, outputs, parameters or {})[outputs[0]]


def refused(do: Callable[[], Any]) -> DukouError:
    with pytest.raises(DukouError) as caught:
        do()
    return caught.value


def test_code_is_run_only_where_it_is_trusted(tmp_path: Path) -> None:
    """The refusal says which flag; nothing of the file has run."""
    path = write(tmp_path, "open('ran', 'w')")
    of = models.manifest("m", 1)

    error = refused(lambda: PythonRuntime().load(tmp_path, of))

    assert error.reason is Reason.CODE_REFUSED
    assert "--trust-python" in str(error)
    assert refused(lambda: open_source(path)).reason is Reason.CODE_REFUSED


def test_an_array_in_an_array_out(tmp_path: Path) -> None:
    """One output needs no dict."""
    model = load(write(tmp_path, ECHO))

    assert ask(model, x=np.float32([[1, 2]])).tolist() == [[2.0, 3.0]]
    assert (model.concurrency, model.holds_gil) == (1, True)


def test_only_the_outputs_asked_for_are_given(tmp_path: Path) -> None:
    """In the order in which they are asked for."""
    model = load(
        write(
            tmp_path,
            """
            class Model:
                inputs = {"x": ("INT64", [-1])}
                outputs = {"a": ("INT64", [-1]), "b": ("BYTES", [-1]), "c": ("FP64", [-1])}

                def predict(self, inputs):
                    return {"c": inputs["x"] / 2, "b": ["word"] * len(inputs["x"]), "a": inputs["x"]}
            """,
        )
    )

    answer = model.infer(DEFAULT_SIGNATURE, {"x": np.array([4])}, ("c", "b"), {})

    assert {name: array.tolist() for name, array in answer.items()} == {"c": [2.0], "b": ["word"]}
    assert list(answer) == ["c", "b"]


SPECS: list[tuple[str, dict[str, Any]]] = [
    ("", {"batched": True, "streaming": False}),
    ("batched = False", {"batched": False, "streaming": False}),
    ("inputs = {'x': ('FP32', (2,))}", {"batched": False, "streaming": False}),
    ("def predict(self, inputs): yield inputs", {"batched": True, "streaming": True}),
]


@pytest.mark.parametrize(("more", "said"), SPECS)
def test_the_class_says_its_signature(tmp_path: Path, more: str, said: dict[str, Any]) -> None:
    """Rows are axis 0 where every shape begins with -1, unless it says otherwise; a generator streams."""
    signature = open_source(write(tmp_path, ECHO + f"\n    {more}\n"), trust=True).signature()

    assert {"batched": signature.batched, "streaming": signature.streaming} == said
    assert signature.outputs == (TensorSpec("y", "FP32", (-1, 2)),)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("inputs = None", "Model.inputs should say"),
        ("outputs = {}", "Model.outputs should say"),
        ("inputs = ['x']", "Model.inputs should say"),
        ("inputs = {'x': 'FP32'}", "Model.inputs['x'] is 'FP32'"),
        ("inputs = {'x': ('FLOAT', [-1])}", "one of BOOL"),
        ("inputs = {'x': ('FP32', [-2])}", "-1 for any size"),
        ("inputs = {'x': ('FP32', [True])}", "-1 for any size"),
        ("inputs = {3: ('FP32', [-1])}", "Model.inputs[3]"),
        ("inputs = {'x': ('FP32', [2])}; batched = True", "every shape begins with -1"),
    ],
)
def test_a_class_that_says_nonsense_is_told_what_is_wanted(tmp_path: Path, line: str, says: str) -> None:
    """ARTIFACT_UNSUPPORTED names the attribute and shows how it should look."""
    path = write(tmp_path, ECHO + f"\n    {line}\n")

    error = refused(open_source(path, trust=True).signature)

    assert error.reason is Reason.ARTIFACT_UNSUPPORTED
    assert says in str(error)


@pytest.mark.parametrize(
    ("code", "reason", "says"),
    [
        ("x = 1", Reason.ARTIFACT_UNSUPPORTED, "no class Model"),
        ("Model = 3", Reason.ARTIFACT_UNSUPPORTED, "no class Model"),
        ("class Model: pass", Reason.ARTIFACT_UNSUPPORTED, "no method predict"),
        ("class TritonPythonModel: pass", Reason.ARTIFACT_UNSUPPORTED, "dicts of arrays"),
        ("import triton_python_backend_utils", Reason.ARTIFACT_UNSUPPORTED, "becomes a class Model"),
        ("class Model:\n  async def predict(self, inputs): ...", Reason.ARTIFACT_UNSUPPORTED, "async"),
        ("class Model:\n  async def predict(self, inputs): yield 1", Reason.ARTIFACT_UNSUPPORTED, "async"),
        ("import no_such_thing", Reason.ARTIFACT_UNREADABLE, "ModuleNotFoundError"),
        ("def (", Reason.ARTIFACT_UNREADABLE, "SyntaxError"),
        ("raise SystemExit(3)", Reason.ARTIFACT_UNREADABLE, "SystemExit"),
    ],
)
def test_a_file_that_is_no_model_is_refused(
    tmp_path: Path, code: str, reason: Reason, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With what is missing; what its code raises is told in a line, and the log has the place."""
    error = refused(lambda: open_source(write(tmp_path, code), trust=True))

    assert error.reason is reason
    assert says in str(error)
    assert ('model.py", line 1' in caplog.text) == (reason is Reason.ARTIFACT_UNREADABLE)


@pytest.mark.parametrize("relative", [False, True])
def test_the_log_shows_the_models_own_code(
    tmp_path: Path, relative: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its first line that was running, with what that called; not how the server came to run it."""
    path = write(tmp_path, "from .helper import give", helper="def give(): raise ValueError('empty')\ngive()")
    monkeypatch.chdir(tmp_path.parent)

    refused(lambda: open_source(path.relative_to(tmp_path.parent) if relative else path, trust=True))

    traced = caplog.text.partition("Traceback")[2]
    places = [line.split('"')[1] for line in traced.splitlines() if line.startswith("  File")]
    assert (places[0], places[-1]) == (str(path), str(tmp_path / "helper.py"))


def test_load_is_told_where_it_is(tmp_path: Path) -> None:
    """Folder, name, version, options, and Triton's configuration where there is one."""
    model = load(
        write(
            tmp_path,
            """
            class Model:
                inputs = {"x": ("INT64", [-1])}
                outputs = {"y": ("BYTES", [-1])}

                def load(self, context):
                    self.said = [context.folder, context.name, context.version, context.options["k"], context.config]

                def predict(self, inputs):
                    return [str(one) for one in self.said]
            """,
        ),
        k=5,
        triton={"max_batch_size": 8},
    )

    assert ask(model, x=[0]).tolist() == [str(tmp_path), "m", "7", "5", "{'max_batch_size': 8}"]


def test_a_load_that_fails_says_what_it_raised(tmp_path: Path) -> None:
    """The version is not served."""
    path = write(tmp_path, ECHO + "\n    def load(self, context): raise OSError('no weights')\n")

    error = refused(lambda: load(path))

    assert error.reason is Reason.ARTIFACT_UNREADABLE
    assert "OSError: no weights" in str(error)


def test_modules_beside_it_are_its_own(tmp_path: Path) -> None:
    """Two models may each have a `helper`; both ways of importing it work, and neither is left in sys.modules."""
    code = """
        from .helper import NUMBER
        import helper

        class Model:
            inputs = {"x": ("INT64", [-1])}
            outputs = {"y": ("INT64", [-1])}

            def predict(self, inputs):
                from .late import MORE
                return inputs["x"] + NUMBER + helper.NUMBER + MORE
    """
    first = load(write(tmp_path / "a", code, helper="NUMBER = 1", late="MORE = 100"))
    second = load(write(tmp_path / "b", code, helper="NUMBER = 10", late="MORE = 1000"))

    assert ask(first, x=[0]).tolist() == [102]
    assert ask(second, x=[0]).tolist() == [1020]
    with pytest.raises(ModuleNotFoundError):
        __import__("helper")


BYTES = """
class Model:
    inputs = {"x": ("BYTES", [-1])}
    outputs = {"y": ("BYTES", [-1])}
    text = TEXT

    def predict(self, inputs):
        self.seen = [type(one).__name__ for one in inputs["x"]]
        return [f"{one!r}" for one in inputs["x"]]
"""


@pytest.mark.parametrize(("text", "seen"), [("True", ["'a'", "'渡'"]), ("False", ["b'a'", repr("渡".encode())])])
def test_text_comes_one_way_whatever_the_protocol(tmp_path: Path, text: str, seen: list[str]) -> None:
    """JSON brings str, binary data bytes; the model says which it wants."""
    model = load(write(tmp_path, BYTES.replace("TEXT", text)))

    for sent in (["a", "渡"], [b"a", "渡".encode()]):
        assert ask(model, x=np.array(sent, object)).tolist() == seen


def test_bytes_that_are_no_text_are_the_callers_mistake(tmp_path: Path) -> None:
    """Named by their row, unless the model takes bytes."""
    sent = np.array([b"a", b"\xff"], object)

    error = refused(lambda: ask(load(write(tmp_path, BYTES.replace("TEXT", "True"))), x=sent))

    assert error.reason is Reason.MODEL_REFUSED_INPUT
    assert error.facts["row"] == 1
    assert ask(load(write(tmp_path, BYTES.replace("TEXT", "False"))), x=sent).tolist() == ["b'a'", "b'\\xff'"]


def test_bfloat16_is_float32_inside(tmp_path: Path) -> None:
    """NumPy cannot compute with it."""
    model = load(write(tmp_path, ECHO.replace("FP32", "BF16")))

    answer = ask(model, x=narrow(np.float32([[1.5, -2.0]])))

    assert answer.dtype == DTYPES["BF16"]
    assert answer.tobytes() == narrow(np.float32([[2.5, -1.0]])).tobytes()


def test_parameters_are_given_to_who_asks_for_them(tmp_path: Path) -> None:
    """By an argument of that name."""
    code = ECHO.replace("self, inputs", "self, inputs, parameters").replace("+ 1", "+ parameters['add']")

    assert ask(load(write(tmp_path, code)), {"add": 5}, x=np.float32([[0, 0]])).tolist() == [[5.0, 5.0]]


ANSWERS: list[tuple[str, str, str, Any]] = [
    ("FP32", "[-1]", "[1, 2]", [1.0, 2.0]),
    ("FP32", "[-1]", "np.float64([1.5])", [1.5]),
    ("INT32", "[-1]", "np.int64([1])", [1]),
    ("BYTES", "[-1]", "np.array(['a', 'b'])", ["a", "b"]),
    ("BYTES", "[-1]", "['a', b'b\\x00']", ["a", b"b\x00"]),
    ("BYTES", "[-1, 2]", "[['a', 'b']]", [["a", "b"]]),
    ("BYTES", "[]", "'word'", "word"),
    ("BOOL", "[-1]", "[True]", [True]),
    ("FP64", "[-1]", "{'y': [0.5]}", [0.5]),
]


@pytest.mark.parametrize(("datatype", "shape", "value", "wanted"), ANSWERS)
def test_answers_become_the_datatype_that_was_promised(
    tmp_path: Path, datatype: str, shape: str, value: str, wanted: Any
) -> None:
    """Lists and arrays; numbers may narrow within their kind."""
    model = load(write(tmp_path, answering(datatype, shape, value)))

    answer = ask(model, x=np.float32([[0, 0]]))

    assert answer.dtype == DTYPES[datatype]
    assert answer.tolist() == wanted


def answering(datatype: str, shape: str, value: str) -> str:
    """A model that always gives `value`."""
    return (
        "import numpy as np\n"
        "class Model:\n"
        "    inputs = {'x': ('FP32', [-1, 2])}\n"
        f"    outputs = {{'y': ('{datatype}', {shape})}}\n"
        "    def predict(self, inputs):\n"
        f"        return {value}\n"
    )


@pytest.mark.parametrize(
    ("datatype", "shape", "value", "says"),
    [
        ("INT32", "[-1]", "[0.5]", "dtype float64, INT32 is wanted"),
        ("FP32", "[-1]", "['a']", "FP32 is wanted"),
        ("BYTES", "[-1]", "[1]", "str or bytes are wanted"),
        ("BYTES", "[-1]", "np.array([1])", "str or bytes are wanted"),
        ("FP32", "[-1, 2]", "[[1.0]]", "shape"),
        ("FP32", "[-1]", "1.0", "shape"),
        ("FP32", "[-1]", "{'z': [1.0]}", "outputs z; wanted are y"),
        ("FP32", "[-1]", "{}", "wanted are y"),
        ("FP32", "[-1]", "None", "predict gave NoneType, a dict of y is wanted"),
        ("FP32", "[-1]", "[[1.0], [1.0, 2.0]]", "inhomogeneous"),
    ],
)
def test_answers_that_were_not_promised_are_the_models_failure(
    tmp_path: Path, datatype: str, shape: str, value: str, says: str
) -> None:
    """A ValueError, which the engine tells as MODEL_FAILED and writes to the log."""
    model = load(write(tmp_path, answering(datatype, shape, value)))

    with pytest.raises(ValueError, match=says.replace("[", r"\[")):
        ask(model, x=np.float32([[0, 0]]))


def test_two_outputs_need_names(tmp_path: Path) -> None:
    """A lone array could be either."""
    code = ECHO.replace('{"y": ("FP32", [-1, 2])}', '{"y": ("FP32", [-1, 2]), "z": ("FP32", [-1])}')

    with pytest.raises(ValueError, match="a dict of y, z is wanted"):
        ask(load(write(tmp_path, code)), x=np.float32([[0, 0]]))


STREAM = """
class Model:
    inputs = {"n": ("INT64", [1])}
    outputs = {"i": ("INT64", [1]), "done": ("BOOL", [1])}
    closed = []

    def predict(self, inputs):
        try:
            for number in range(inputs["n"][0]):
                yield {"i": [number]}
            yield {"done": [True]}
        finally:
            self.closed.append(True)
"""


def test_a_generator_streams(tmp_path: Path) -> None:
    """A response need not have every output."""
    model: StreamingModel = load(write(tmp_path, STREAM))

    parts = list(model.stream(DEFAULT_SIGNATURE, {"n": np.array([2])}, ("i", "done"), {}))

    assert [{name: array.tolist() for name, array in part.items()} for part in parts] == [
        {"i": [0]},
        {"i": [1]},
        {"done": [True]},
    ]


def test_closing_a_stream_closes_the_generator(tmp_path: Path) -> None:
    """Its `finally` runs."""
    model = load(write(tmp_path, STREAM))
    stream: Any = model.stream(DEFAULT_SIGNATURE, {"n": np.array([9])}, ("i",), {})
    next(stream)

    stream.close()

    assert model._instances[0]._predict.__self__.closed == [True]


@pytest.mark.parametrize(("value", "parts"), [("iter([[1.0], [2.0]])", [[1.0], [2.0]]), ("[3.0]", [[3.0]])])
def test_a_streaming_signature_takes_any_iterator_or_one_answer(tmp_path: Path, value: str, parts: Any) -> None:
    """A configuration may say that a model streams whose predict is no generator."""
    path = write(tmp_path, answering("FP32", "[1]", value))
    signature = msgspec.structs.replace(open_source(path, trust=True).signature(), streaming=True, batched=False)

    stream = load(path, signature).stream(DEFAULT_SIGNATURE, {"x": np.float32([[0, 0]])}, ("y",), {})

    assert [part["y"].tolist() for part in stream] == parts


def test_each_object_is_asked_by_one_thread_at_a_time(tmp_path: Path) -> None:
    """Option `concurrency` makes as many objects, and no answer is another's."""
    model = load(
        write(
            tmp_path,
            """
            import threading

            class Model:
                inputs = {"x": ("INT64", [-1])}
                outputs = {"y": ("INT64", [-1])}

                def load(self, context):
                    self.lock = threading.Lock()

                def predict(self, inputs):
                    assert self.lock.acquire(blocking=False), "asked by two threads"
                    try:
                        self.kept = inputs["x"]
                        for _ in range(50):
                            pass
                        return self.kept
                    finally:
                        self.lock.release()
            """,
        ),
        concurrency=3,
    )
    wrong: list[Any] = []

    def work(number: int) -> None:
        answers = [ask(model, x=[number]).tolist() for _ in range(200)]
        wrong.extend(answer for answer in answers if answer != [number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert model.concurrency == 3
    assert wrong == []


def test_unload_is_called_when_nobody_needs_it_any_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And what it raises is logged."""
    path = write(
        tmp_path,
        ECHO
        + """
    def load(self, context): self.folder = context.folder
    def unload(self):
        (self.folder / "unloaded").touch()
        raise ValueError("too late")
""",
    )
    model = load(path)
    assert not (tmp_path / "unloaded").exists()

    with caplog.at_level(logging.ERROR):
        del model
        gc.collect()

    assert (tmp_path / "unloaded").exists()
    assert "too late" in caplog.text

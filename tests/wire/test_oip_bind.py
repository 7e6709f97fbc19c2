"""What every form of the Open Inference Protocol shares: parameters, classes, inputs in any order."""

from typing import Any

import numpy as np
import pytest
from oip_rig import GOOD, ONE, REF, answer, body_of, bound, of, refusal, tensor

from dukou.core.errors import Code, DukouError
from dukou.core.message import Context, InferenceResponse
from dukou.core.model import DEFAULT_SIGNATURE, Signature, TensorSpec
from dukou.testing.models import Direct, FunctionModel, manifest, served
from dukou.wire import oip_http
from dukou.wire.oip_bind import settings


def test_free_parameters_are_the_models() -> None:
    """Texts, numbers and booleans, as they came; what is null was not said."""
    free = {"temperature": 0.5, "top": 3, "text": "é", "on": True}

    assert settings({**free, "off": None, "headers": None}, Context())[0] == free
    assert bound(body_of(GOOD, parameters={**free, "binary_data_output": False})).parameters == free


@pytest.mark.parametrize(
    ("parameters", "priority", "deadline_s"),
    [
        ({}, 0, 50.0),
        ({"priority": 3}, 3, 50.0),
        ({"timeout": 0}, 0, 50.0),
        ({"timeout": 250_000}, 0, 10.25),
        ({"timeout": 60_000_000}, 0, 50.0),
        ({"timeout": 2**64 - 1, "priority": 2**64 - 1}, 2**64 - 1, 50.0),
    ],
)
def test_priority_and_timeout_are_the_contexts(parameters: Any, priority: int, deadline_s: float) -> None:
    """The timeout counts microseconds from the arrival and never gives more time."""
    came = Context("id", arrived_s=10.0, deadline_s=50.0)

    free, context = settings(parameters, came)

    assert free == {}
    assert (context.id, context.priority, context.deadline_s) == ("id", priority, deadline_s)
    assert came == Context("id", arrived_s=10.0, deadline_s=50.0)


@pytest.mark.parametrize(
    "parameters", [{"sequence_id": 0}, {"sequence_id": ""}, {"sequence_start": False, "sequence_end": False}]
)
def test_a_call_that_belongs_to_no_sequence_may_say_so(parameters: Any) -> None:
    """As clients do by default."""
    assert settings(parameters, Context())[0] == {}


@pytest.mark.parametrize(
    ("parameters", "code", "text"),
    [
        ({"sequence_id": 7}, Code.UNIMPLEMENTED, "sequences of requests are not supported ('sequence_id' was sent)"),
        ({"sequence_id": "a"}, Code.UNIMPLEMENTED, "sequences of requests are not supported ('sequence_id' was sent)"),
        (
            {"sequence_start": True},
            Code.UNIMPLEMENTED,
            "sequences of requests are not supported ('sequence_start' was sent)",
        ),
        (
            {"triton_enable_empty_final_response": True},
            Code.INVALID_ARGUMENT,
            "the parameter 'triton_enable_empty_final_response' is reserved for Triton usage, use another",
        ),
        (
            {"headers": "x"},
            Code.INVALID_ARGUMENT,
            "the parameter 'headers' is reserved for Triton usage, use another",
        ),
        (
            {"p": [1]},
            Code.INVALID_ARGUMENT,
            "the parameter 'p' must be a string, a number or a boolean, not [1]",
        ),
        (
            {"p": np.arange(5000)},
            Code.INVALID_ARGUMENT,
            "the parameter 'p' must be a string, a number or a boolean, not "
            "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 1...",
        ),
        (
            {"priority": -1},
            Code.INVALID_ARGUMENT,
            "the parameter 'priority' must be a whole number of at least 0, not -1",
        ),
        (
            {"priority": True},
            Code.INVALID_ARGUMENT,
            "the parameter 'priority' must be a whole number of at least 0, not true",
        ),
        (
            {"timeout": 0.5},
            Code.INVALID_ARGUMENT,
            "the parameter 'timeout' must be a whole number of at least 0, not 0.5",
        ),
        (
            {"timeout": 2**64},
            Code.INVALID_ARGUMENT,
            "the parameter 'timeout' must be a whole number of at least 0, not 18446744073709551616",
        ),
    ],
)
def test_other_parameters_are_refused(parameters: Any, code: Code, text: str) -> None:
    """Reserved names, sequences, values of other types."""
    with pytest.raises(DukouError) as caught:
        settings(parameters, Context())

    assert (caught.value.code, str(caught.value)) == (code, text)


def test_a_long_list_is_no_parameter_either() -> None:
    """Above 4 KB it is an array, which must not reach a batch's key."""
    code, text = refusal(body_of(GOOD, parameters={"p": list(range(5000)), "sequence_id": list(range(5000))}))

    assert code is Code.INVALID_ARGUMENT
    assert "the parameter 'p' must be" in text


SCORES = served(
    manifest(
        "m",
        1,
        (
            Signature(
                DEFAULT_SIGNATURE,
                (TensorSpec("x", "FP32", (-1, 3)),),
                (
                    TensorSpec("p", "FP32", (-1, 3), columns=("a", "b", "c")),
                    TensorSpec("s", "BYTES", (-1,)),
                    TensorSpec("h", "FP16", (-1, 3)),
                ),
            ),
        ),
    ),
    Direct(
        FunctionModel(
            lambda inputs: {
                "p": inputs["x"],
                "s": np.array(["t"] * len(inputs["x"]), object),
                "h": inputs["x"].astype(np.float16),
            }
        )
    ),
)


def test_outputs_may_be_wanted_as_classes() -> None:
    """With the labels of the signature; others as they are. FP16 has classes in JSON, though no numbers."""
    body = body_of(
        tensor([[0.5, 2, 1], [3, 1, 0]], [2, 3]),
        outputs=[
            {"name": "p", "parameters": {"classification": 2}},
            {"name": "h", "parameters": {"classification": 1}},
            {"name": "s", "parameters": {"classification": 0}},
        ],
    )

    p, h, s = answer(body, SCORES)["outputs"]

    assert p == {
        "name": "p",
        "datatype": "BYTES",
        "shape": [2, 2],
        "data": ["2.000000:1:b", "1.000000:2:c", "3.000000:0:a", "1.000000:1:b"],
    }
    assert h["data"] == ["2.000000:1", "3.000000:0"]
    assert s["data"] == ["t", "t"]


@pytest.mark.parametrize(
    ("name", "classification", "text"),
    [
        ("s", 1, "class result not available for output 's' due to unsupported type"),
        ("p", -1, "the parameter 'classification' must be a number of classes, not -1"),
        ("p", "2", "the parameter 'classification' must be a number of classes, not \"2\""),
        ("p", True, "the parameter 'classification' must be a number of classes, not true"),
    ],
)
def test_classes_that_cannot_be_are_refused(name: str, classification: Any, text: str) -> None:
    """Before the model runs."""
    body = body_of(
        tensor([0.5, 2, 1], [1, 3]), outputs=[{"name": name, "parameters": {"classification": classification}}]
    )

    code, said = refusal(body, SCORES)

    assert code is Code.INVALID_ARGUMENT
    assert said == f"model 'm', version 1: {text}"


def test_response_parameters_are_written() -> None:
    """Before the outputs, as the model gave them."""
    request = bound(body_of(GOOD))
    response = InferenceResponse(
        request.version, request.inputs, {"finish": "length", "tokens": 3, "score": np.float32(0.5)}
    )

    assert (
        b'"parameters":{"finish":"length","tokens":3,"score":0.5},"outputs"' in oip_http.encode(request, response).body
    )


def test_what_is_written_is_estimated() -> None:
    """Raw numbers are nearly free, classes are texts, all else is as much text as usual."""
    version = of(TensorSpec("x", "FP32", (-1, 1000)), batched=True)
    sent = tensor([0] * 1000, [1, 1000])
    sizes = []
    for output in ({}, {"binary_data": True}, {"classification": 5}):
        request = bound(body_of(sent, outputs=[{"name": "x", "parameters": output}]), version)
        sizes.append(oip_http.writing_bytes(request, InferenceResponse(version.id, request.inputs)))

    assert sizes == [12_000, 62, 32_000]


@pytest.mark.parametrize(
    ("length", "text", "size"),
    [
        (None, b"{}", 6400 + 2),
        (b"2", b"{}", 102),
        (b"7", b'"BYTES"', 6407),
        (b"x", b"{}", 6402),
        (b"9" * 18, b"{}", 6402),
        (b"9" * 5000, b"{}", 6402),
    ],
)
def test_what_is_read_is_estimated(length: bytes | None, text: bytes, size: int) -> None:
    """JSON and strings are slow to read, raw numbers are not; a wrong header fails elsewhere."""
    headers = {} if length is None else {b"inference-header-content-length": length}

    assert oip_http.reading_bytes(headers, text + b"\0" * 6400) == size


def test_one_model_is_asked_for_by_its_reference() -> None:
    """The draft names what the path named."""
    assert oip_http.parse(REF, {}, body_of(GOOD)).ref == REF
    assert bound(body_of(GOOD), ONE).version == ONE.id

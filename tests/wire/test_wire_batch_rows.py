"""Answers to requests that ran together are those that each would get alone."""

from itertools import accumulate
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from dukou.core.errors import DukouError
from dukou.core.message import Context, InferenceRequest, InferenceResponse
from dukou.core.model import Signature
from dukou.core.tensor import DTYPES
from dukou.core.version import ModelVersion
from dukou.engine.batch import cut
from dukou.wire import oip_grpc, oip_http, plain, tf_grpc, tf_rest
from dukou.wire.oip_bind import Form

VERSION = ModelVersion("m", 1)
PLAIN = plain.Plain("X", "y")
PROTOCOLS = [
    pytest.param(codec, reply, id=name)
    for name, codec, reply in [
        ("oip_grpc", oip_grpc, Form("")),
        ("oip_grpc with an id", oip_grpc, Form("7")),
        ("oip_http", oip_http, Form()),
        ("oip_http with an id", oip_http, Form("7")),
        ("oip_http in binary", oip_http, Form(binary=("a",))),
        ("tf_grpc", tf_grpc, None),
        ("tf_rest by row", tf_rest, True),
        ("tf_rest by column", tf_rest, False),
        ("plain", PLAIN, None),
    ]
]
NUMBERS = sorted(set(DTYPES) - {"BYTES", "BF16"})


@st.composite
def answers(draw: st.DrawFn) -> tuple[dict[str, NDArray[Any]], list[int]]:
    """Outputs, and the rows of each request."""
    rows = draw(st.lists(st.just(1), min_size=2, max_size=6) | st.lists(st.integers(0, 3), min_size=2, max_size=4))
    shapes = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
    outputs = {}
    for name in draw(st.sampled_from(["a", "ab"])):
        dtype = DTYPES[draw(st.sampled_from(NUMBERS))]
        outputs[name] = draw(npst.arrays(dtype, (sum(rows), *draw(shapes))))
    return outputs, rows


def said(codec: Any, reply: Any, response: InferenceResponse, names: tuple[str, ...]) -> Any:
    request = InferenceRequest(VERSION, Signature("s", (), ()), {}, names, 1, Context(), {}, reply)
    try:
        answer = codec.encode(request, response)
    except DukouError as error:
        return str(error)
    return bytes(answer.body), answer.headers


@pytest.mark.parametrize(("codec", "reply"), PROTOCOLS)
@given(answers())
def test_each_gets_what_it_would_get_alone(codec: Any, reply: Any, drawn: tuple[Any, list[int]]) -> None:
    """Byte for byte but for the order of a message's fields, whatever datatype, shape and number of rows."""
    outputs, rows = drawn
    names = tuple(outputs)

    together = [said(codec, reply, response, names) for response in cut(VERSION, outputs, rows)]

    ends = list(accumulate(rows))
    for answer, start, end in zip(together, [0, *ends], ends, strict=False):
        alone = InferenceResponse(VERSION, {name: array[start:end] for name, array in outputs.items()})
        expected = said(codec, reply, alone, names)
        assert (sorted_(answer) if codec is oip_grpc else answer) == (
            sorted_(expected) if codec is oip_grpc else expected
        )


def sorted_(answer: Any) -> Any:
    """The bytes of a message in any order."""
    return sorted(answer[0])


@pytest.mark.parametrize(("codec", "reply"), PROTOCOLS)
def test_texts_and_large_rows_go_their_own_way(codec: Any, reply: Any) -> None:
    """They are answered as ever."""
    for array in (np.array(["a", "bc"], object), np.arange(20_000.0).reshape(2, -1)):
        first, second = cut(VERSION, {"a": array}, [1, 1])

        assert said(codec, reply, first, ("a",)) == said(
            codec, reply, InferenceResponse(VERSION, {"a": array[:1]}), ("a",)
        )
        assert said(codec, reply, second, ("a",)) == said(
            codec, reply, InferenceResponse(VERSION, {"a": array[1:]}), ("a",)
        )


def test_protocols_may_share_a_batch() -> None:
    """Each finds its own."""
    first, second = cut(VERSION, {"a": np.arange(2)}, [1, 1])

    bodies = {
        said(codec, reply, response, ("a",))[0]
        for codec, reply in [(oip_grpc, Form("")), (oip_http, Form()), (tf_grpc, None), (tf_rest, True), (PLAIN, None)]
        for response in (first, second)
    }

    assert len(bodies) == 10

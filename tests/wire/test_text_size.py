"""How much text an answer makes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from dukou.core.message import InferenceResponse
from dukou.core.version import ModelVersion
from dukou.testing.models import iris_request
from dukou.wire.text_size import writing_bytes


@pytest.mark.parametrize(
    ("outputs", "large"),
    [
        ({"y": np.zeros(10)}, False),
        ({"y": np.zeros(50)}, True),
        ({"y": np.zeros(50, np.float32)}, False),
        ({"y": np.zeros(10), "a_rather_long_name_that_is_written_for_each_row_of_a_row_answer": np.zeros(10)}, True),
        ({"y": np.array(["text"] * 50, object)}, True),
    ],
)
def test_an_answer_is_large_by_what_it_weighs_as_text(outputs: Mapping[str, Any], large: bool) -> None:
    """Digits by datatype, and the names of outputs, which row answers repeat."""
    assert (writing_bytes(iris_request([[0.0] * 4]), InferenceResponse(ModelVersion("m", 1), outputs)) > 1000) is large

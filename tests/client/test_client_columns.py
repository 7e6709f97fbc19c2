"""A frame, over the wire: columns are matched by the names that the server tells."""

import pandas as pd

from dukou.client.inputs import typed
from dukou.core.model import Signature, TensorSpec
from dukou.testing.models import manifest, served
from dukou.wire.oip_json import decode_metadata
from dukou.wire.oip_metadata import model_metadata


def test_a_frame_in_another_order_is_the_same_rows() -> None:
    """The names of a matrix's columns are in the metadata, so that no other order is taken for another row."""
    spec = TensorSpec("X", "FP64", (-1, 2), ("width", "height"))
    signature = Signature("serving_default", (spec,), (TensorSpec("y", "FP64", (-1,)),))
    version = served(manifest(signatures=(signature,)))
    frame = pd.DataFrame({"width": [1.0, 3.0], "height": [2.0, 4.0]})

    told = decode_metadata(model_metadata("m", {1: version}, version))

    assert told.inputs == signature.inputs
    assert typed(frame[["height", "width"]], told.inputs)["X"].tolist() == [[1.0, 2.0], [3.0, 4.0]]

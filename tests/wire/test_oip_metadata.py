"""What a server says of itself and its models."""

import json

from oip_rig import OPEN

from dukou.core.model import TensorSpec
from dukou.testing.models import manifest, served
from dukou.wire import oip_json, oip_metadata


def test_metadata_tells_tensors_and_versions() -> None:
    """The platform is derived from the runtime; an open rank has a placeholder."""
    versions = {2: served(manifest("m", 2)), 1: served(manifest("m", 1))}

    iris = json.loads(oip_metadata.model_metadata("m", versions, versions[2]))
    rank = json.loads(oip_metadata.model_metadata("m", {1: OPEN}, OPEN))

    assert iris == {
        "name": "m",
        "versions": ["1", "2"],
        "platform": "function",
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
        ],
    }
    assert rank["inputs"][0]["shape"] == [-1]
    assert json.loads(oip_metadata.server_metadata("dukou", "1.2", ["a"])) == {
        "name": "dukou",
        "version": "1.2",
        "extensions": ["a"],
    }


def test_a_client_reads_the_metadata_that_a_server_writes() -> None:
    """Names, datatypes and shapes; also with members that only other servers send."""
    version = served()
    body = oip_metadata.model_metadata("iris", {1: version}, version)
    other = (
        b'{"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [3], "parameters": {}}], "outputs": []}'
    )

    assert oip_json.decode_metadata(body) == version.manifest.signature("")
    assert oip_json.decode_metadata(other).inputs == (TensorSpec("x", "FP32", (3,)),)
    assert not oip_json.decode_metadata(other).batched

"""The compiled messages: in step with their sources, and apart from everybody else's."""

from importlib import resources
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from dukou.core.errors import DukouError, Reason
from dukou.protos import pool


def test_the_descriptors_are_what_the_sources_say(tmp_path: Path) -> None:
    """Compiled again from the sources, file by file. When this fails run scripts/protos."""
    protoc = pytest.importorskip("grpc_tools.protoc")
    known = resources.files("grpc_tools") / "_proto"
    folder = pool.DESCRIPTORS.parent
    sources = sorted(path.name for path in folder.glob("*.proto"))
    made = tmp_path / "made.binpb"

    status = protoc.main(
        ["protoc", f"-I{folder}", f"-I{known}", "--include_imports", f"--descriptor_set_out={made}", *sources]
    )

    assert status == 0
    again = {file.name: file for file in FileDescriptorSet.FromString(made.read_bytes()).file}
    assert again == dict(pool.files())


def test_another_message_of_the_same_name_does_not_collide() -> None:
    """The default pool of the process takes an `inference.ModelInferRequest` of other shape beside ours."""
    other = FileDescriptorProto(name="somebody_elses_service.proto", package="inference", syntax="proto3")
    field = other.message_type.add(name="ModelInferRequest").field.add(name="other", number=1, type=9, label=1)
    default = descriptor_pool.Default()

    default.AddSerializedFile(other.SerializeToString())

    ours = pool.message("inference.ModelInferRequest").DESCRIPTOR
    theirs = default.FindMessageTypeByName("inference.ModelInferRequest")
    assert [each.name for each in theirs.fields] == [field.name]
    assert ours.fields_by_number[1].name == "model_name"
    assert ours.file.pool is not default


def test_what_is_no_message_is_refused() -> None:
    """As a malformed request, with the name of the message."""
    with pytest.raises(DukouError) as caught:
        pool.parse("inference.ModelInferRequest", b"\xff\xff")

    assert caught.value.reason is Reason.MALFORMED_REQUEST
    assert "inference.ModelInferRequest" in str(caught.value)


def test_a_message_that_does_not_exist_is_a_key_error() -> None:
    """A mistake in our own code, not the caller's."""
    with pytest.raises(KeyError):
        pool.message("inference.Nothing")

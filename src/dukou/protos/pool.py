"""Message classes in a pool of their own.

Protobuf's default pool is one for the whole process: registering `tensorflow.TensorProto` there breaks a program that
also imports TensorFlow. Bytes are all that is exchanged, so the classes need not be the same.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from dukou.core.errors import DukouError, Reason
from dukou.protos.weight import check

WEIGHED_BYTES = 65_536
"""A message below this cannot become large enough to look at first."""

DESCRIPTORS = Path(__file__).with_name("descriptors.binpb")


@cache
def files() -> Mapping[str, FileDescriptorProto]:
    """The compiled files by name, each after those it imports."""
    return {file.name: file for file in FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file}


@cache
def pool() -> Any:
    """The pool with every message and service of this package."""
    made: Any = DescriptorPool()
    for file in files().values():
        made.AddSerializedFile(file.SerializeToString())
    return made


@cache
def message(name: str) -> Any:
    """The message class of that full name (`inference.ModelInferRequest`). Raises KeyError."""
    return GetMessageClass(pool().FindMessageTypeByName(name))


def parse(name: str, data: bytes) -> Any:
    """The message of class `name` that `data` holds.

    Raises DukouError MALFORMED_REQUEST where it holds none, TOO_MANY_VALUES where it would become too large.
    """
    made = message(name)
    if len(data) > WEIGHED_BYTES:
        check(made.DESCRIPTOR, data)
    try:
        return made.FromString(data)
    except DecodeError:
        raise DukouError(Reason.MALFORMED_REQUEST, detail=f"the message is not a {name}") from None

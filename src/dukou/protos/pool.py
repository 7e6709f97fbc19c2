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
from google.protobuf.message_factory import GetMessageClass

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

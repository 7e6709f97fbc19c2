"""TensorFlow's datatypes, and ours for them."""

from collections.abc import Mapping

import msgspec


class Kind(msgspec.Struct, frozen=True):
    """One of TensorFlow's datatypes: its number, its name in protobuf (`DT_FLOAT`) and in sentences (`float`), and the
    list of a TensorProto that holds its values."""

    number: int
    proto_name: str
    name: str
    field: str
    field_number: int


KINDS: Mapping[str, Kind] = {
    "FP32": Kind(1, "DT_FLOAT", "float", "float_val", 5),
    "FP64": Kind(2, "DT_DOUBLE", "double", "double_val", 6),
    "INT32": Kind(3, "DT_INT32", "int32", "int_val", 7),
    "UINT8": Kind(4, "DT_UINT8", "uint8", "int_val", 7),
    "INT16": Kind(5, "DT_INT16", "int16", "int_val", 7),
    "INT8": Kind(6, "DT_INT8", "int8", "int_val", 7),
    "BYTES": Kind(7, "DT_STRING", "string", "string_val", 8),
    "INT64": Kind(9, "DT_INT64", "int64", "int64_val", 10),
    "BOOL": Kind(10, "DT_BOOL", "bool", "bool_val", 11),
    "BF16": Kind(14, "DT_BFLOAT16", "bfloat16", "half_val", 13),
    "UINT16": Kind(17, "DT_UINT16", "uint16", "int_val", 7),
    "FP16": Kind(19, "DT_HALF", "half", "half_val", 13),
    "UINT32": Kind(22, "DT_UINT32", "uint32", "uint32_val", 16),
    "UINT64": Kind(23, "DT_UINT64", "uint64", "uint64_val", 17),
}
"""Datatype to TensorFlow's."""

DATATYPES: Mapping[int, str] = {kind.number: datatype for datatype, kind in KINDS.items()}
"""The number of a datatype to ours."""

"""Messages as trees of plain values, as JSON has them: one description for the JSON and the gRPC form of an answer."""

from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format

from dukou.protos.pool import message, pool


def to_message(tree: Mapping[str, Any], name: str) -> Any:
    """The message of class `name` with the fields of `tree`; keys that it has no field for are left out.

    Enumerations are named, 64-bit integers may be texts. Raises ValueError for a value that its field cannot hold.
    """
    try:
        return json_format.ParseDict(dict(tree), message(name)(), ignore_unknown_fields=True, descriptor_pool=pool())
    except json_format.ParseError as error:
        raise ValueError(f"this is no {name}: {error}") from None


def to_tree(said: Any, *, defaults: bool = False) -> dict[str, Any]:
    """A message as a tree under its fields' own names; with `defaults` also the fields that are not set.

    Enumerations are named, 64-bit integers are texts.
    """
    tree: dict[str, Any] = json_format.MessageToDict(
        said, preserving_proto_field_name=True, always_print_fields_with_no_presence=defaults, descriptor_pool=pool()
    )
    return tree

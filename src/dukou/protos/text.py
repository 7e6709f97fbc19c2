"""Protobuf's text format, in which the configurations of other servers are written: `name: "m" max_batch_size: 8`."""

from typing import Any

from google.protobuf import text_format

from dukou.protos.pool import message, pool

_MOST_TEXT = 200


def parse_text(text: str, name: str) -> Any:
    """The message of class `name` (`inference.ModelConfig`) that `text` says.

    Colons before messages, commas between entries and either kind of quotes are fine, as everywhere that this format is
    read. A field that the message does not have is an error. Raises ValueError, which tells the line and the column.
    """
    said = message(name)()
    try:
        text_format.Parse(text, said, descriptor_pool=pool())
    except text_format.ParseError as error:
        raise ValueError(_at(error)) from None
    except (RecursionError, TypeError, KeyError, ValueError, OverflowError, AttributeError) as error:
        raise ValueError(f"the text is not a {name}: {error}") from None
    return said


def _at(error: text_format.ParseError) -> str:
    line, column = error.GetLine(), error.GetColumn()
    if line is None:
        return str(error)
    what = str(error).split(" : ", 1)[-1]
    if what.startswith("'") and "': " in what:  # the line itself, which may be long
        what = what.rsplit("': ", 1)[-1]
    return f"line {line}, column {column}: {what[:_MOST_TEXT]}"

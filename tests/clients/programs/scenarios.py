"""What every program of this folder does: it runs its scenarios and prints what each saw, as one JSON object.

The programs run in environments of their own, beside no other code of this project; the tests judge what they print.
"""

import asyncio
import inspect
import json
import sys
import traceback


def run(*scenarios, given=()):
    """Call each scenario with `given`; one that raises does not hold up the others."""
    seen = {}
    for scenario in scenarios:
        try:
            result = scenario(*given)
            seen[scenario.__name__] = {"saw": asyncio.run(result) if inspect.iscoroutine(result) else result}
        except Exception:
            seen[scenario.__name__] = {"raised": traceback.format_exc()}
    json.dump(seen, sys.stdout, default=plain)


def plain(value):
    """Arrays as lists, bytes as text."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, bytes):
        return value.decode()
    raise TypeError(f"{type(value)} is not JSON")


def refused(call, *arguments, **named):
    """The error of a call that has to fail."""
    try:
        call(*arguments, **named)
    except Exception as error:
        return error
    raise AssertionError("the call was answered")

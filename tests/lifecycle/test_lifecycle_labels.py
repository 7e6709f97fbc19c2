"""Where a label may point."""

import pytest

from dukou.core.errors import DukouError, Reason
from dukou.lifecycle.labels import check_labels


@pytest.mark.parametrize(
    ("in_force", "version", "ahead", "allowed"),
    [
        ({}, 2, False, True),
        ({"stable": 1}, 2, False, True),
        ({}, 3, False, False),
        ({}, 3, True, True),
        ({"stable": 2}, 3, False, False),
        ({"stable": 2}, 3, True, False),
        ({"stable": 3}, 3, False, False),
        ({"stable": 3}, 3, True, True),
        ({"canary": 2}, 3, True, True),
    ],
)
def test_labels_point_to_available_versions(in_force: dict[str, int], version: int, ahead: bool, allowed: bool) -> None:
    """1 and 2 are AVAILABLE, 3 is not: it may get a new label where that is allowed, but none moves to it."""
    refused = False
    try:
        check_labels("iris", {"stable": version}, in_force, (2, 1), ahead=ahead)
    except DukouError:
        refused = True

    assert refused is not allowed


def test_the_refusal_is_tensorflow_servings() -> None:
    """Its clients look for the sentence."""
    with pytest.raises(DukouError) as caught:
        check_labels("iris", {"canary": 1, "stable": 7}, {}, (1,))

    assert caught.value.reason is Reason.PRECONDITION_FAILED
    assert caught.value.facts["text"] == (
        "Request to assign label to version 7 of model iris, which is not currently available for inference"
    )

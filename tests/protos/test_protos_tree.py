"""Messages as trees."""

import pytest

from dukou.protos.pool import message
from dukou.protos.tree import to_message, to_tree


def test_a_tree_becomes_the_message_with_its_fields() -> None:
    """By the fields' own names; integers may be texts, enumerations are named, unknown keys are left out."""
    tree = {"name": "m", "input": [{"name": "x", "data_type": "TYPE_BF16", "dims": ["-1", 2]}], "dukou": 1}

    config = to_message(tree, "inference.ModelConfig")

    assert config.name == "m"
    assert list(config.input[0].dims) == [-1, 2]
    assert config.input[0].data_type == 14


def test_a_message_becomes_a_tree_and_back() -> None:
    """Nothing is lost."""
    config = message("inference.ModelConfig")(name="m", max_batch_size=3)
    config.dynamic_batching.preferred_batch_size.extend([2, 4])

    tree = to_tree(config)

    assert tree == {"name": "m", "max_batch_size": 3, "dynamic_batching": {"preferred_batch_size": [2, 4]}}
    assert to_message(tree, "inference.ModelConfig") == config


def test_defaults_are_told_when_asked_for() -> None:
    """As Triton's configurations list them."""
    assert to_tree(message("inference.ModelReadyResponse")()) == {}
    assert to_tree(message("inference.ModelReadyResponse")(), defaults=True) == {"ready": False}


def test_a_value_that_its_field_cannot_hold_is_refused() -> None:
    """As a ValueError."""
    with pytest.raises(ValueError):
        to_message({"max_batch_size": "many"}, "inference.ModelConfig")

"""Which block of counters counts for which version."""

from dukou.app.blocks import Blocks
from dukou.core.version import ModelVersion

A, B, C = (ModelVersion("m", number) for number in (1, 2, 3))


def test_each_version_keeps_a_block_of_its_own() -> None:
    """Block 0 is nobody's."""
    blocks = Blocks(3)

    assert [blocks.of(version) for version in (A, B, A)] == [1, 2, 1]


def test_a_version_that_comes_when_all_are_given_out_counts_with_others() -> None:
    """It is served all the same, and gets a block as soon as there is one."""
    blocks = Blocks(3)
    blocks.of(A)
    blocks.of(B)

    crowded = blocks.of(C)
    blocks.keep({B, C})

    assert crowded == 0
    assert blocks.of(C) == 1
    assert blocks.of(B) == 2

"""The engine's turn in each loop iteration."""

import asyncio

import pytest
from engine_worlds import LOOPS, complaints, iterations, run

from dukou.engine.tick import Tick


@pytest.mark.parametrize("loop", LOOPS)
def test_all_turns_of_an_iteration_share_one_budget(loop: str) -> None:
    """What one model spends another has not; the next iteration starts afresh."""

    async def main() -> None:
        tick, left = Tick(asyncio.get_running_loop(), 1.0), []

        def turn() -> None:
            left.append(tick.left_s)
            tick.spend(0.75)

        tick.soon(turn)
        tick.soon(turn)
        await iterations()
        tick.soon(turn)
        await iterations()

        assert left == [1.0, 0.25, 1.0]

    run(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_turn_comes_after_what_the_iteration_still_reads(loop: str) -> None:
    """So that requests read by later callbacks of the same iteration are in the batch."""

    async def main() -> None:
        tick, order = Tick(asyncio.get_running_loop(), 1.0), []
        call_soon = asyncio.get_running_loop().call_soon

        call_soon(lambda: tick.soon(lambda: order.append("turn")))
        call_soon(order.append, "read")
        call_soon(order.append, "read")
        await iterations()

        assert order == ["read", "read", "turn"]

    run(loop, main)


def test_a_failing_turn_does_not_take_the_others() -> None:
    """It is a defect, said to the loop's exception handler."""

    async def main() -> None:
        tick, done, heard = Tick(asyncio.get_running_loop(), 1.0), [], complaints()

        tick.soon(lambda: 1 / 0)
        tick.soon(lambda: done.append(1))
        await iterations()

        assert done == [1]
        assert isinstance(heard[0]["exception"], ZeroDivisionError)

    run("asyncio", main)


def test_a_turn_may_ask_for_the_next() -> None:
    """It comes in the next iteration, not in the same one without end."""

    async def main() -> None:
        tick, turns = Tick(asyncio.get_running_loop(), 1.0), []

        def turn() -> None:
            turns.append(1)
            tick.soon(turn)

        tick.soon(turn)
        await iterations(3)

        assert 1 <= len(turns) <= 3

    run("asyncio", main)

"""A worker process: what it inherits, and how its end is told."""

import asyncio

import pytest

from dukou.control.process import WorkerProcess, ended_how


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exited with status 0"),
        (3, "exited with status 3"),
        (-9, "was ended by SIGKILL"),
        (-11, "was ended by SIGSEGV"),
        (-63, "was ended by signal 63"),
    ],
)
def test_an_exit_status_is_told_in_words(status: int, words: str) -> None:
    """Signals have names."""
    assert ended_how(status) == words


@pytest.mark.socket
def test_a_worker_does_not_hear_ctrl_c_from_its_first_instruction() -> None:
    """SIGINT, which the terminal sends to all processes, is blocked before the program could have ignored it."""

    async def scenario() -> int:
        async with asyncio.timeout(20.0):
            worker = await WorkerProcess.spawn(lambda _: ["/bin/sh", "-c", "kill -INT $$; exit 7"], 0, [])
            status = await worker.wait()
            await worker.channel.close()
            return status

    assert asyncio.run(scenario()) == 7


@pytest.mark.socket
def test_a_program_that_is_not_there_raises_and_leaves_nothing_open() -> None:
    """The caller hears of it as an OSError; an open socket would fail this test as a warning."""
    with pytest.raises(FileNotFoundError):
        asyncio.run(WorkerProcess.spawn(lambda _: ["/there/is/no/such/program"], 0, []))

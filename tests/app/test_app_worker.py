"""A worker's process."""

import resource
from collections.abc import Iterator

import pytest

from dukou.app.worker import allow_open_files


@pytest.fixture
def hard() -> Iterator[int]:
    """The hard limit of open files; both limits are as before afterwards."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_of_open_files_is_raised_to_what_is_wanted(hard: int, caplog: pytest.LogCaptureFixture) -> None:
    """Silently, as far as the system allows it."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))

    allow_open_files(300)

    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300
    assert caplog.text == ""


def test_a_limit_that_is_high_enough_stays(hard: int) -> None:
    """It is never lowered."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))

    allow_open_files(200)

    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300


def test_what_the_system_does_not_allow_is_said(hard: int, caplog: pytest.LogCaptureFixture) -> None:
    """How many there may be and how many were wanted; there are as many as may be."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))

    allow_open_files(hard + 1)

    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] in {200, hard}
    assert f"open files, http.max_connections needs {hard + 1}" in caplog.text

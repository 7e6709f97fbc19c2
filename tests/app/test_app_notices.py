"""What is said once in the log."""

import logging

import pytest

from dukou.app.notices import Notices

LOG = logging.getLogger("dukou.control")


def test_a_thing_is_said_once_and_again_when_it_has_changed(caplog: pytest.LogCaptureFixture) -> None:
    """Or when it was over meanwhile."""
    notices = Notices(LOG)
    notices.begin()

    for text in ("full", "full", "locked", "full"):
        notices.say("disk", text, logging.WARNING)
    notices.over("disk")
    notices.say("disk", "full")

    assert caplog.messages == ["full", "locked", "full", "full"]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3 + ["ERROR"]


def test_what_is_known_before_the_announcement_is_not_said_again(caplog: pytest.LogCaptureFixture) -> None:
    """The announcement tells of it."""
    notices = Notices(LOG)

    notices.say("iris", "no such folder")
    notices.begin()
    notices.say("iris", "no such folder")

    assert caplog.messages == []


def test_what_was_said_longest_ago_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    """What is kept does not grow."""
    notices = Notices(LOG, most=2)
    notices.begin()

    for about in ("a", "b", "c", "a", "c"):
        notices.say(about, f"{about} is wrong")

    assert caplog.messages == ["a is wrong", "b is wrong", "c is wrong", "a is wrong"]

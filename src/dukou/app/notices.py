"""What the log says of what goes on: each thing once, and again only after it has been something else."""

import logging

MOST_KEPT = 1000
"""So many things are known to have been said; the ones said longest ago are said again."""


class Notices:
    """Says things by `log`, from `begin` on: what is known when the server starts is told with its announcement."""

    def __init__(self, log: logging.Logger, most: int = MOST_KEPT) -> None:
        self._log = log
        self._most = most
        self._said: dict[object, str] = {}  # what was said last, by what it is about
        self._begun = False

    def begin(self) -> None:
        """The server is announced."""
        self._begun = True

    def say(self, about: object, text: str, level: int = logging.ERROR) -> None:
        """This is so now."""
        if self._said.get(about) == text:
            return
        self._said.pop(about, None)
        self._said[about] = text
        if len(self._said) > self._most:
            del self._said[next(iter(self._said))]
        if self._begun:
            self._log.log(level, "%s", text)

    def over(self, about: object) -> None:
        """There is nothing to say of it any more."""
        self._said.pop(about, None)

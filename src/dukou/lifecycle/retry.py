"""Versions that failed to load: when each is tried again."""

from collections.abc import Callable, Collection, Mapping

import msgspec

from dukou.core.seen import Seen
from dukou.core.version import ModelVersion

_FIRST_PAUSE_S = 1.0


class Failure(msgspec.Struct, frozen=True):
    """The last failure of a version: of the files with this mark, after so many tries, at this monotonic time."""

    mark: str
    error: str
    tries: int
    failed_s: float


class Failures:
    """What failed to load, for all models.

    A version is tried again after a second, then after twice as long each time, `longest_s` at most, and `retries`
    times in all; at once when its mark has changed. Times are those of a monotonic clock. Should it go backwards,
    nothing waits longer for it: what failed in the future is due.
    """

    def __init__(self, retries: int, longest_s: float) -> None:
        self._retries = retries
        self._longest_s = longest_s
        self._failures: dict[ModelVersion, Failure] = {}

    def failed(self, version: ModelVersion, mark: str, now_s: float, error: str = "") -> None:
        """A try to load these files has failed: to be told once for each try."""
        before = self._failures.get(version)
        tries = before.tries + 1 if before is not None and before.mark == mark else 1
        self._failures[version] = Failure(mark, error, tries, now_s)

    def succeeded(self, version: ModelVersion) -> None:
        """It is loaded."""
        self._failures.pop(version, None)

    def due(self, version: ModelVersion, mark: str, now_s: float) -> bool:
        """Whether it may be loaded now."""
        failure = self._failures.get(version)
        if failure is None or failure.mark != mark:
            return True
        if failure.tries > self._retries:
            return False
        return not failure.failed_s <= now_s < failure.failed_s + self._pause_s(failure)

    def exhausted(self, version: ModelVersion, mark: str) -> bool:
        """Whether it is not tried again until its files change."""
        failure = self._failures.get(version)
        return failure is not None and failure.mark == mark and failure.tries > self._retries

    def errors(
        self, name: str, seen: Seen, now_s: float, *, again: bool = True, barred: Collection[int] = ()
    ) -> Mapping[int, str]:
        """The versions of a model that are not to be loaded now, each with the error of its last try.

        Without `again`, for where a try costs what is served meanwhile, that is every one whose files have failed, as
        long as there are others, which are not `barred`.
        """
        failed = self._of(name, seen)
        others = any(not found.error for version, found in seen.versions.items() if version not in {*failed, *barred})
        return {
            version: failure.error
            for version, failure in failed.items()
            if (others and not again) or not self.due(ModelVersion(name, version), failure.mark, now_s)
        }

    def last(self, name: str, seen: Seen) -> Mapping[int, str]:
        """The versions of a model whose files, as they are, have failed, each with the error of its last try."""
        return {version: failure.error for version, failure in self._of(name, seen).items()}

    def _of(self, name: str, seen: Seen) -> Mapping[int, Failure]:
        return {
            version.version: failure
            for version, failure in self._failures.items()
            if version.name == name
            and version.version in seen.versions
            and failure.mark == seen.versions[version.version].mark
        }

    def forget(self, lives: Callable[[ModelVersion], bool]) -> None:
        """Let go of the versions that are no more."""
        self._failures = {version: failure for version, failure in self._failures.items() if lives(version)}

    def _pause_s(self, failure: Failure) -> float:
        return float(min(_FIRST_PAUSE_S * 2 ** min(failure.tries - 1, 62), self._longest_s))

"""What a repository holds, looked at again and again: a version is told once it is complete.

It is complete when

- it has a manifest and all its files have the digests that stand there, or when
- nothing about its files changes for QUIET_S and none has the name of an unfinished one. Before the first look at a
  folder there was none to compare with: what nobody has touched for as long is complete at once.

What is not complete is arriving. What is wrong with a version that is quiet is told with it, and one that has been told
stays told until its folder goes, however it changes; its mark then is another. Light, blocking, one thread at a time.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec

from dukou.core.clock import Clock, monotonic, wall
from dukou.core.errors import DukouError
from dukou.core.seen import Found, Seen
from dukou.repository.files import Files, leaves, list_files
from dukou.repository.integrity import files_to_serve, verify
from dukou.repository.local import home_of, is_packed, manifest_of, version_folders
from dukou.repository.triton import CONFIG

QUIET_S = 0.5
"""How long files must not have changed to be taken as whole."""

HASHED_AT_ONCE_BYTES = 256 * 1024 * 1024
"""A larger version is hashed only when it is quiet: one that is being copied would be read anew at every look."""

Chooser: TypeAlias = Callable[[Iterable[int]], Collection[int]]
"""Of the versions that are there, those that would be served: a version policy."""


class Look:
    """Looks at folders of versions and remembers, between looks, what it has found out about which files."""

    def __init__(self, *, quiet_s: float = QUIET_S, clock: Clock = monotonic, unix_time: Clock = wall) -> None:
        self._quiet_s = quiet_s
        self._clock = clock
        self._unix_time = unix_time
        self._known: dict[tuple[str, Path | None], dict[int, _Known]] = {}

    def see(self, name: str, folder: Path, *, root: Path | None = None, wanted: Chooser = tuple) -> Seen:
        """What `folder` holds of model `name` now. Symbolic links may not leave `root` (the folder itself if None).

        Only the versions that `wanted` chooses are hashed and looked into, and others in place of those in which
        something is wrong; the rest are told as they lie there. May take long: large files are hashed once.
        """
        folder = folder.absolute()
        try:
            within = (root or folder).resolve()
            if leaves(folder, within):
                return Seen(problem=f"{folder}: it is a symbolic link that leads out of {within}")
            folders, warnings = version_folders(folder, name)
        except DukouError as error:
            return Seen(problem=error.what())
        except OSError as error:
            return Seen(problem=f"{folder}: {error.strerror}")
        return self._look(
            (name, folder), {number: _Place(path, within) for number, path in folders.items()}, wanted, warnings
        )

    def see_fixed(self, name: str, fixed: Mapping[int, Path]) -> Seen:
        """The same for versions whose folders are named one by one; one that is gone is a problem."""
        try:
            places = {number: _Place(path.absolute(), path.resolve(strict=True)) for number, path in fixed.items()}
        except OSError as error:
            return Seen(problem=f"{error.filename}: {error.strerror}")
        return self._look((name, None), places, tuple, ())

    def keep(self, names: Collection[str]) -> None:
        """Forget all other models."""
        self._known = {key: known for key, known in self._known.items() if key[0] in names}

    def _look(
        self, key: tuple[str, Path | None], places: Mapping[int, "_Place"], wanted: Chooser, warnings: tuple[str, ...]
    ) -> Seen:
        earlier = self._known.get(key)
        known: dict[int, _Known] = {}
        for number, place in places.items():
            found = self._compare(place, earlier.get(number) if earlier else None, first=earlier is None)
            if found is not None:
                known[number] = found
        self._known[key] = known
        good = {number for number, one in known.items() if not one.is_wrong()}
        judged: set[int] = set()
        while more := set(wanted(sorted(good, reverse=True))) - judged:
            judged |= more
            for number in more:
                _judge(known[number], places[number])
                told = known[number].told
                if told is None or told.error:
                    good.discard(number)
        return Seen(
            {number: one.told for number, one in known.items() if one.told is not None},
            arriving=tuple(number for number, one in known.items() if one.arriving),
            warnings=warnings,
        )

    def _compare(self, place: "_Place", before: "_Known | None", *, first: bool) -> "_Known | None":
        """What the names and times of a version's files tell; None where the folder has gone."""
        try:
            files = list_files(place.folder, place.root, beside=home_of(place.folder) / CONFIG)
        except FileNotFoundError:
            return None
        except OSError as error:
            files = Files({}, 0.0, refused=f"{error.filename or place.folder}: {error.strerror}")
        mark, now = files.mark(), self._clock()
        if before is not None and before.mark == mark:
            known = before
        else:
            untouched = first and self._unix_time() - files.changed_at >= self._quiet_s
            known = _Known(mark, files, -math.inf if untouched else now, before.told if before else None)
        known.quiet = now - known.since_s >= self._quiet_s or bool(files.refused)
        known.arriving = not (known.quiet or known.whole)
        if known.quiet and (known.told is None or known.told.mark != mark):
            known.told = Found(str(place.folder), mark, files.refused)
        return known


class _Place(msgspec.Struct, frozen=True):
    """A version's folder, and the folder that its symbolic links may not leave."""

    folder: Path
    root: Path


class _Known(msgspec.Struct):
    """What is remembered of a version: its `files` as `mark` says them, unchanged since `since_s`.

    `whole` says whether its digests matched before it was `quiet`, `wrong` what is the matter with it since then, ""
    for nothing; both are None until somebody wanted it.
    """

    mark: str
    files: Files
    since_s: float
    told: Found | None
    quiet: bool = False
    arriving: bool = False
    whole: bool | None = None
    wrong: str | None = None

    def is_wrong(self) -> bool:
        """Whether an error has been told of the files as they are."""
        return self.told is not None and self.told.mark == self.mark and bool(self.told.error)


def _judge(known: _Known, place: _Place) -> None:
    """Look into a version that is wanted, once for each mark."""
    if known.quiet:
        if known.wrong is None:
            known.wrong = known.files.refused or ("" if known.whole else _wrong(place, known.files))
        known.told = Found(str(place.folder), known.mark, known.wrong)
        return
    if known.whole is None and known.files.bytes <= HASHED_AT_ONCE_BYTES:
        known.whole = _is_whole(place)
    if known.whole:
        known.arriving = False
        known.told = Found(str(place.folder), known.mark)


def _is_whole(place: _Place) -> bool:
    """Whether each file has its digest, the ones that do not serve included: what is whole does not change any more."""
    try:
        manifest = manifest_of(place.folder)
        if manifest is not None:
            verify(place.folder, manifest)
    except (DukouError, OSError):
        return False
    return manifest is not None


def _wrong(place: _Place, files: Files) -> str:
    """Why a version that is not being written cannot be served, as far as that is known without loading it."""
    try:
        if files.unfinished and not is_packed(place.folder):
            name = place.folder / files.unfinished
            return f"{name} has the name of an unfinished file; if no copy is under way, remove it"
        manifest = manifest_of(place.folder)
        if manifest is not None:
            verify(place.folder, manifest, files_to_serve(manifest))
    except DukouError as error:
        return error.what()
    except OSError as error:
        return f"{place.folder}: {error.strerror}"
    return ""

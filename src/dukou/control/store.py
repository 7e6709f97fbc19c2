"""The control plane's memory: what verbs have changed, every change with its cause, rollouts, the last published table.

One SQLite file, written by one server. What a method has acknowledged by returning is on disk, whole.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Self, TypeAlias

import msgspec

from dukou.control.operations import Audited, Cause
from dukou.core.errors import DukouError, Reason
from dukou.core.link import Apply
from dukou.lifecycle.rollout import Rollout
from dukou.lifecycle.wanted import Overrides

Migration: TypeAlias = Callable[[sqlite3.Connection], None]
"""Brings the schema from one version to the next, inside a transaction that is not its own."""

BUSY_S = 0.25
"""How long a call waits for another process that holds the file's lock."""

MOST_ROLLOUTS = 100
"""Of each model; the oldest go."""


def _first(database: sqlite3.Connection) -> None:
    """What people may want to look at is JSON; rollouts and tables are MessagePack, which can say infinity."""
    for statement in (
        "CREATE TABLE overrides (model TEXT PRIMARY KEY, json TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE rollouts (id INTEGER PRIMARY KEY, model TEXT NOT NULL, body BLOB NOT NULL)",
        "CREATE INDEX rollouts_of ON rollouts (model, id)",
        "CREATE TABLE published (one INTEGER PRIMARY KEY CHECK (one = 1), body BLOB NOT NULL)",
        "CREATE TABLE audit (id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, model TEXT NOT NULL, "
        "verb TEXT NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL, before TEXT NOT NULL, after TEXT NOT NULL)",
        "CREATE INDEX audit_of ON audit (model, id)",
        "CREATE TRIGGER audit_stays BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END",
        "CREATE TRIGGER audit_holds BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END",
        # INSERT OR REPLACE deletes without asking the trigger of DELETE.
        "CREATE TRIGGER audit_grows BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id) "
        "BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END",
    ):
        database.execute(statement)


MIGRATIONS: Sequence[Migration] = (_first,)
"""The schema's version is how many of them have run (`PRAGMA user_version`). Only ever add at the end."""


class _Held(msgspec.Struct):
    """What is in force, encoded: what the file held last."""

    overrides: dict[str, bytes] = {}
    rollouts: dict[str, bytes] = {}
    published: bytes | None = None

    def check(self) -> None:
        """Raises msgspec.DecodeError for what is none of ours."""
        for body in self.overrides.values():
            msgspec.json.decode(body, type=Overrides)
        for body in self.rollouts.values():
            msgspec.msgpack.decode(body, type=Rollout)
        if self.published is not None:
            msgspec.msgpack.decode(self.published, type=Apply)


class _Numbered(msgspec.Struct):
    id: int


class Store:
    """An open store. Every change is one transaction and raises DukouError STORE_UNAVAILABLE, having changed nothing,
    when the file cannot be written; the next one tries anew. What is in force can be read all the same: it is also in
    memory, and in `PATH.last` for a start at which the file cannot be read; `problem` says then why it cannot. Usable
    from any thread."""

    def __init__(self, path: Path, busy_s: float, migrations: Sequence[Migration]) -> None:
        self._path = path
        self._busy_s = busy_s
        self._migrations = migrations
        self._lock = Lock()
        self._database: sqlite3.Connection | None = None
        self._closed = False
        self._held = _Held()
        self._last_rollout_id = 0
        self.problem = ""

    @classmethod
    def open(cls, path: Path, *, busy_s: float = BUSY_S, migrations: Sequence[Migration] = MIGRATIONS) -> Self:
        """The store of that file, made if need be (and its folder), brought to our schema, checked for damage.

        An older schema is copied to `PATH.vN` first. Where the file is locked by another process, damaged, written by a
        newer dukou or not to be written, and what it held last is known, that is told: `problem` says why, and changes
        are refused until the file is well again. Raises DukouError STORE_UNAVAILABLE where it is not known. A damaged
        file is left as it is.
        """
        store = cls(path, busy_s, migrations)
        try:
            store._database = _connect(path, busy_s, migrations)
            with _explained(path):
                store._held = _load(store._database)
            _write_last(path, store._held)
        except DukouError as error:
            if store._database is not None:
                store._database.close()
                store._database = None
            last = _read_last(path)
            if last is None:
                raise
            store._held = last
            store.problem = str(error)
        return store

    def overrides(self) -> dict[str, Overrides]:
        """What verbs have changed, by model."""
        return {model: msgspec.json.decode(body, type=Overrides) for model, body in self._held.overrides.items()}

    def rollouts(self) -> list[Rollout]:
        """The latest rollout of each model, under way or not."""
        return [msgspec.msgpack.decode(body, type=Rollout) for body in self._held.rollouts.values()]

    def published(self) -> Apply | None:
        """The last table that was published; None before the first."""
        body = self._held.published
        return None if body is None else msgspec.msgpack.decode(body, type=Apply)

    def commit(
        self, audited: Audited, overrides: Mapping[str, Overrides] = {}, rollout: Rollout | None = None
    ) -> Audited:
        """Keep a change with its cause: `overrides` replace those of the models they name. Returns it with its id."""
        held = _Held({model: msgspec.json.encode(each) for model, each in overrides.items()}, _encoded(rollout))
        with self._writing(held) as database:
            values = (audited.at, audited.model, audited.verb, audited.cause.who, audited.cause.why)
            cursor = database.execute(
                "INSERT INTO audit (at, model, verb, who, why, before, after) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*values, _json(audited.before), _json(audited.after)),
            )
        return msgspec.structs.replace(audited, id=cursor.lastrowid or 0)

    def keep(self, rollout: Rollout) -> None:
        """Keep how far a rollout is, which nobody has to answer for."""
        with self._writing(_Held(rollouts=_encoded(rollout))):
            pass

    def publish(self, apply: Apply) -> None:
        """Keep the table that is published now."""
        with self._writing(_Held(published=msgspec.msgpack.encode(apply))):
            pass

    def next_rollout_id(self) -> int:
        """A number that no rollout has had, nor another caller got."""
        with _explained(self._path), self._lock:
            ((highest,),) = self._open().execute("SELECT coalesce(max(id), 0) FROM rollouts").fetchall()
            self._last_rollout_id = max(self._last_rollout_id, highest) + 1
            return self._last_rollout_id

    def history(self, model: str = "", limit: int = 100) -> list[Audited]:
        """The last `limit` changes, of one model or of all, the latest first."""
        columns = "id, at, model, verb, who, why, before, after"
        which = "WHERE model = ?2" if model else "WHERE ?2 = ''"
        statement = f"SELECT {columns} FROM audit {which} ORDER BY id DESC LIMIT ?1"
        with _explained(self._path):
            with self._lock:
                rows = self._open().execute(statement, (limit, model)).fetchall()
            return [
                Audited(
                    at=at,
                    cause=Cause(who, why),
                    verb=verb,
                    model=name,
                    before=msgspec.json.decode(before),
                    after=msgspec.json.decode(after),
                    id=number,
                )
                for number, at, name, verb, who, why, before, after in rows
            ]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._closed = True
            if self._database is not None:
                self._database.close()

    def _open(self) -> sqlite3.Connection:
        if self._closed:
            raise _unavailable(self._path, "it has been closed")
        if self._database is None:
            database = _connect(self._path, self._busy_s, self._migrations)
            try:
                with _transaction(database):  # whatever is in the file now, this is in force
                    _write(database, self._held)
            except BaseException:
                database.close()
                raise
            self._database = database
            self.problem = ""
        return self._database

    @contextmanager
    def _writing(self, change: _Held) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is on disk at the end, or nothing."""
        with _explained(self._path), self._lock:
            database = self._open()
            with _transaction(database):
                _write(database, change)
                yield database
            held = self._held
            published = held.published if change.published is None else change.published
            self._held = _Held(held.overrides | change.overrides, held.rollouts | change.rollouts, published)
            _write_last(self._path, self._held)


def _make(path: Path) -> None:
    """The file and its folder, for nobody else to read: SQLite's files beside it get the same rights."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _connect(path: Path, busy_s: float, migrations: Sequence[Migration]) -> sqlite3.Connection:
    """The file, made if need be, checked and in our schema. Raises DukouError STORE_UNAVAILABLE."""
    with _explained(path):
        _make(path)
        database = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
        try:
            _prepare(path, database, migrations)
        except BaseException:
            database.close()
            raise
    return database


def _prepare(path: Path, database: sqlite3.Connection, migrations: Sequence[Migration]) -> None:
    # FULL also flushes the write-ahead log at each commit: without it a power cut takes back what was acknowledged.
    for pragma in ("journal_mode = WAL", "synchronous = FULL"):
        database.execute(f"PRAGMA {pragma}")
    (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise _unavailable(path, _damaged(path, found))
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        detail = f"a newer dukou has written it (schema {version}, this one knows {len(migrations)}); use that one"
        raise _unavailable(path, detail)
    if version == 0 and database.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise _unavailable(path, "it is another program's database; name another state folder")
    if version == len(migrations):
        return
    if version:
        _copy(database, path.with_name(f"{path.name}.v{version}"))
    with _transaction(database):
        for migration in migrations[version:]:
            migration(database)
        database.execute(f"PRAGMA user_version = {len(migrations)}")


def _copy(database: sqlite3.Connection, to: Path) -> None:
    to.unlink(missing_ok=True)
    _make(to)
    with closing(sqlite3.connect(to)) as copy:
        database.backup(copy)


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # some errors have ended it already
            database.execute("ROLLBACK")
        raise


def _load(database: sqlite3.Connection) -> _Held:
    """What the file holds. Raises msgspec.DecodeError for what is none of ours."""
    latest = "SELECT model, body FROM rollouts WHERE id IN (SELECT max(id) FROM rollouts GROUP BY model)"
    held = _Held(
        {model: text.encode() for model, text in database.execute("SELECT model, json FROM overrides")},
        dict(database.execute(latest)),
        next((body for (body,) in database.execute("SELECT body FROM published")), None),
    )
    held.check()
    return held


def _write(database: sqlite3.Connection, change: _Held) -> None:
    for model, json in change.overrides.items():
        database.execute("REPLACE INTO overrides VALUES (?, ?)", (model, json.decode()))
    for model, body in change.rollouts.items():
        number = msgspec.msgpack.decode(body, type=_Numbered).id
        database.execute("REPLACE INTO rollouts VALUES (?, ?, ?)", (number, model, body))
        database.execute(
            "DELETE FROM rollouts WHERE model = ?1 AND id <= "
            "(SELECT id FROM rollouts WHERE model = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
            (model, MOST_ROLLOUTS),
        )
    if change.published is not None:
        database.execute("REPLACE INTO published VALUES (1, ?)", (change.published,))


def _write_last(path: Path, held: _Held) -> None:
    """Whole or not at all. That it cannot be written harms nothing yet: the store could."""
    last = _last(path)
    partial = last.with_name(f"{last.name}.partial")
    with suppress(OSError):
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(msgspec.msgpack.encode(held))
        partial.replace(last)


def _read_last(path: Path) -> _Held | None:
    try:
        held = msgspec.msgpack.decode(_last(path).read_bytes(), type=_Held)
        held.check()
    except (OSError, msgspec.DecodeError):
        return None
    return held


def _last(path: Path) -> Path:
    return path.with_name(f"{path.name}.last")


def _encoded(rollout: Rollout | None) -> dict[str, bytes]:
    return {} if rollout is None else {rollout.model: msgspec.msgpack.encode(rollout)}


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns what SQLite and the system raise into DukouError STORE_UNAVAILABLE."""
    try:
        yield
    except sqlite3.Error as error:
        raise _unavailable(path, _why(path, error)) from error
    except OSError as error:
        raise _unavailable(path, str(error.strerror or error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unavailable(path, _damaged(path, str(error))) from error


def _why(path: Path, error: sqlite3.Error) -> str:
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return "another process holds its lock; try again when that has let go"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return _damaged(path, str(error))
        case sqlite3.SQLITE_FULL:
            return "there is no space left to write it"
        case _:
            return str(error)


def _damaged(path: Path, what: str) -> str:
    return (
        f"it is damaged ({what}); stop the server and put a copy back in its place, or move it away "
        f"(mv {path} {path}.damaged) to begin with what the settings declare: what commands have changed, barred "
        "versions among it, is lost then"
    )


def _unavailable(path: Path, detail: str) -> DukouError:
    return DukouError(Reason.STORE_UNAVAILABLE, path=str(path), detail=detail)

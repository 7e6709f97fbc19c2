"""The control plane's memory: what verbs have changed, every change with its cause, rollouts, the last published table.

One SQLite file, written by one server. What a method has acknowledged by returning is on disk, whole.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Self, TypeAlias, TypeVar

import msgspec

from dukou.control.operations import Audited, Cause
from dukou.core.errors import DukouError, Reason
from dukou.core.link import Apply
from dukou.lifecycle.rollout import Rollout
from dukou.lifecycle.wanted import Overrides

T = TypeVar("T")
Migration: TypeAlias = Callable[[sqlite3.Connection], None]
"""Brings the schema from one version to the next, inside a transaction that is not its own."""

BUSY_S = 1.0
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


class Store:
    """An open store. Every method is one transaction and raises DukouError STORE_UNAVAILABLE, having changed nothing,
    when the file cannot be read or written; the next call tries anew. Usable from any thread."""

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self._path = path
        self._database = database
        self._lock = Lock()
        self._last_rollout_id = 0

    @classmethod
    def open(cls, path: Path, *, busy_s: float = BUSY_S, migrations: Sequence[Migration] = MIGRATIONS) -> Self:
        """The store of that file, made if need be (and its folder), brought to our schema, checked for damage.

        An older schema is copied to `PATH.vN` first. Raises DukouError STORE_UNAVAILABLE: another process locks it, it
        is damaged, a newer dukou has written it, the place cannot be written. A damaged file is left as it is.
        """
        with _explained(path):
            _make(path)
            database = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
            try:
                _prepare(path, database, migrations)
            except BaseException:
                database.close()
                raise
        return cls(path, database)

    def overrides(self) -> dict[str, Overrides]:
        """What verbs have changed, by model."""
        with self._reading("SELECT model, json FROM overrides") as rows:
            return {model: msgspec.json.decode(json, type=Overrides) for model, json in rows}

    def rollouts(self) -> list[Rollout]:
        """The latest rollout of each model, under way or not."""
        with self._reading(
            "SELECT body FROM rollouts WHERE id IN (SELECT max(id) FROM rollouts GROUP BY model)"
        ) as rows:
            return [msgspec.msgpack.decode(body, type=Rollout) for (body,) in rows]

    def next_rollout_id(self) -> int:
        """A number that no rollout has had, nor another caller got."""
        with self._reading("SELECT coalesce(max(id), 0) FROM rollouts") as rows, self._lock:
            self._last_rollout_id = max(self._last_rollout_id, rows[0][0]) + 1
            return self._last_rollout_id

    def commit(
        self, audited: Audited, overrides: Mapping[str, Overrides] = {}, rollout: Rollout | None = None
    ) -> Audited:
        """Keep a change with its cause: `overrides` replace those of the models they name. Returns it with its id."""
        with self._writing() as database:
            for model, each in overrides.items():
                database.execute("REPLACE INTO overrides VALUES (?, ?)", (model, _json(each)))
            if rollout is not None:
                _keep(database, rollout)
            values = (audited.at, audited.model, audited.verb, audited.cause.who, audited.cause.why)
            cursor = database.execute(
                "INSERT INTO audit (at, model, verb, who, why, before, after) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*values, _json(audited.before), _json(audited.after)),
            )
            number = cursor.lastrowid or 0
        return msgspec.structs.replace(audited, id=number)

    def keep(self, rollout: Rollout) -> None:
        """Keep how far a rollout is, which nobody has to answer for."""
        with self._writing() as database:
            _keep(database, rollout)

    def published(self) -> Apply | None:
        """The last table that was published; None before the first."""
        with self._reading("SELECT body FROM published") as rows:
            return msgspec.msgpack.decode(rows[0][0], type=Apply) if rows else None

    def publish(self, apply: Apply) -> None:
        """Keep the table that is published now."""
        with self._writing() as database:
            database.execute("REPLACE INTO published VALUES (1, ?)", (msgspec.msgpack.encode(apply),))

    def history(self, model: str = "", limit: int = 100) -> list[Audited]:
        """The last `limit` changes, of one model or of all, the latest first."""
        columns = "id, at, model, verb, who, why, before, after"
        which = "WHERE model = ?2" if model else "WHERE ?2 = ''"
        with self._reading(f"SELECT {columns} FROM audit {which} ORDER BY id DESC LIMIT ?1", limit, model) as rows:
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
            self._database.close()

    @contextmanager
    def _reading(self, statement: str, *values: Any) -> Iterator[list[Any]]:
        """The rows of one statement; what cannot be made of them is explained as damage."""
        with _explained(self._path):
            with self._lock:
                rows = self._database.execute(statement, values).fetchall()
            yield rows

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is on disk at the end, or nothing."""
        with _explained(self._path), self._lock, _transaction(self._database):
            yield self._database


def _make(path: Path) -> None:
    """The file and its folder, for nobody else to read: SQLite's files beside it get the same rights."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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


def _keep(database: sqlite3.Connection, rollout: Rollout) -> None:
    database.execute(
        "REPLACE INTO rollouts VALUES (?, ?, ?)", (rollout.id, rollout.model, msgspec.msgpack.encode(rollout))
    )
    database.execute(
        "DELETE FROM rollouts WHERE model = ?1 AND id <= "
        "(SELECT id FROM rollouts WHERE model = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
        (rollout.model, MOST_ROLLOUTS),
    )


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
        f"it is damaged ({what}); put a copy back in its place, or move it away (mv {path} {path}.damaged) to begin "
        "with what the settings declare: changes made by commands, barred versions among them, are lost then"
    )


def _unavailable(path: Path, detail: str) -> DukouError:
    return DukouError(Reason.STORE_UNAVAILABLE, path=str(path), detail=detail)

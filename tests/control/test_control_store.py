"""The store keeps what was acknowledged, whole, and says what is wrong with it."""

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dukou.control.operations import Audited, Cause
from dukou.control.store import MIGRATIONS, MOST_ROLLOUTS, Store
from dukou.core.comparison import Comparison, Differences
from dukou.core.errors import Code, DukouError, Reason
from dukou.core.link import Apply, Assignment
from dukou.core.route import Route, Shadow, Weight
from dukou.core.version import ModelVersion
from dukou.lifecycle.plan import Plan, Step
from dukou.lifecycle.rollout import Measured, Rollout, Status
from dukou.lifecycle.wanted import Overrides


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with closing(Store.open(path, busy_s=0.05)) as store:
        yield store


def change(model: str = "iris", verb: str = "deploy", why: str = "") -> Audited:
    return Audited(at=12.5, cause=Cause("alice", why), verb=verb, model=model, before={"serving": 1}, after={"n": 2})


def rollout(number: int, model: str = "iris", **fields: Any) -> Rollout:
    plan = Plan((Step("shadow", shadow=1.0), Step("incremental", share=1.0)), max_disagreement=0.1)
    return Rollout(number, model, 1, 2, plan, **fields)


def test_a_change_is_there_when_the_store_is_opened_again(path: Path) -> None:
    """Overrides, rollout and audit of one commit outlive the process that made it."""
    wanted = Overrides(serving=2, previous=1, barred=(3,), labels={"stable": 2}, accepted={2: "mark"})
    with closing(Store.open(path)) as store:
        done = store.commit(change(), {"iris": wanted}, rollout(7))

    with closing(Store.open(path)) as store:
        assert store.overrides() == {"iris": wanted}
        assert store.rollouts() == [rollout(7)]
        assert store.history() == [done]
        assert done == Audited(12.5, Cause("alice"), "deploy", "iris", {"serving": 1}, {"n": 2}, id=1)


def test_a_new_store_is_empty(store: Store) -> None:
    """Nothing was changed, so the settings hold."""
    assert (store.overrides(), store.rollouts(), store.published(), store.history()) == ({}, [], None, [])


def test_nobody_else_may_read_it(path: Path, store: Store) -> None:
    """Who changed what is not for every account of the machine; what SQLite puts beside the file neither."""
    store.commit(change())

    assert {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()} == {
        "store.db": 0o600,
        "store.db-wal": 0o600,
        "store.db-shm": 0o600,
        "store.db.last": 0o600,
    }
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_the_history_is_by_model_and_latest_first(store: Store) -> None:
    """As many as asked for."""
    for model, verb in [("iris", "load"), ("wine", "load"), ("iris", "deploy"), ("iris", "rollback")]:
        store.commit(change(model, verb))

    assert [each.verb for each in store.history("iris", 2)] == ["rollback", "deploy"]
    assert [each.model for each in store.history(limit=10)] == ["iris", "iris", "wine", "iris"]
    assert store.history("digits") == []


def test_rollouts_are_the_latest_of_each_model(store: Store) -> None:
    """Progress replaces what was kept of the same rollout."""
    for each in (rollout(1), rollout(2, "wine"), rollout(3)):
        store.keep(each)

    store.keep(rollout(3, step=1, status=Status.PROMOTED))

    assert store.rollouts() == [rollout(3, step=1, status=Status.PROMOTED), rollout(2, "wine")]


def test_what_was_measured_may_be_infinite(store: Store) -> None:
    """A candidate may answer infinity; the rollout that finds it can be read back."""
    worst = Measured(comparison=Comparison(numbers={"y": Differences(largest=float("inf"))}))

    store.keep(rollout(1, measured=worst))

    assert store.rollouts()[0].measured == worst


def test_each_rollout_gets_a_number_of_its_own(path: Path, store: Store) -> None:
    """Numbers go up, for two that begin at once, too, and after a restart."""
    first, second = store.next_rollout_id(), store.next_rollout_id()
    store.keep(rollout(second))

    with closing(Store.open(path)) as again:
        assert (first, second, again.next_rollout_id()) == (1, 2, 3)


def test_old_rollouts_go(path: Path, store: Store) -> None:
    """A model that is rolled out every day does not fill the disk."""
    store.keep(rollout(1, "wine"))
    for number in range(2, MOST_ROLLOUTS + 5):
        store.keep(rollout(number))

    with closing(sqlite3.connect(path)) as database:
        counts = database.execute("SELECT model, count(*), max(id) FROM rollouts GROUP BY model").fetchall()
    assert counts == [("iris", MOST_ROLLOUTS, MOST_ROLLOUTS + 4), ("wine", 1, 1)]


def test_the_last_table_is_kept(store: Store) -> None:
    """A new supervisor goes on from the table that the workers have."""
    first = Apply(1, ())
    table = Apply(
        2,
        (Assignment(ModelVersion("iris", 2), "/models/iris/2", 0, {"threads": 2}),),
        {"iris": Route((Weight(2, 0.25), Weight(1, 0.75)), "header:user", (Shadow(3, "/run/s"),))},
        {"iris": {"stable": 1}},
    )

    store.publish(first)
    store.publish(table)

    assert store.published() == table


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2**40), st.booleans()), max_size=20))
def test_it_is_a_mapping_with_a_history(changes: list[tuple[str, int, bool]]) -> None:
    """Whatever the order of changes: the last of each model holds, and none is missing from the audit."""
    with TemporaryDirectory() as folder, closing(Store.open(Path(folder, "store.db"))) as store:
        expected = {}
        for model, serving, unloaded in changes:
            expected[model] = Overrides(serving=serving, unloaded=unloaded)
            store.commit(change(model), {model: expected[model]})

        assert store.overrides() == expected
        assert [each.model for each in reversed(store.history())] == [model for model, _, _ in changes]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET who = 'nobody'",
        "DELETE FROM audit",
        "REPLACE INTO audit SELECT id, at, model, verb, 'nobody', why, before, after FROM audit",
    ],
)
def test_the_audit_only_grows(path: Path, store: Store, statement: str) -> None:
    """SQLite itself refuses to change or delete what was done."""
    done = store.commit(change())

    with closing(sqlite3.connect(path)) as database, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        database.execute(statement)

    assert store.history() == [done]


def test_a_commit_is_all_or_nothing(path: Path, store: Store) -> None:
    """Where the audit cannot be written, the change is not made either."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TRIGGER no BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END")

    with pytest.raises(DukouError) as caught:
        store.commit(change(), {"iris": Overrides(serving=9)}, rollout(1))

    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    assert (store.overrides(), store.rollouts()) == ({}, [])


def test_a_store_locked_by_another_process_is_said_and_comes_back(path: Path, store: Store) -> None:
    """Changes are refused while the lock is held, what is kept can be read, and afterwards all is as before."""
    store.commit(change(), {"iris": Overrides(serving=1)})
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DukouError) as caught:
            store.commit(change(), {"iris": Overrides(serving=2)})
        assert store.overrides() == {"iris": Overrides(serving=1)}
        other.execute("ROLLBACK")

    store.commit(change(), {"iris": Overrides(serving=3)})

    assert caught.value.code is Code.UNAVAILABLE
    assert str(caught.value) == (
        f"the store {path}: another process holds its lock; try again when that has let go; nothing was changed"
    )
    assert store.overrides() == {"iris": Overrides(serving=3)}


def test_a_store_that_another_process_keeps_to_itself_cannot_be_opened(path: Path) -> None:
    """The same error at the start, where nothing is known."""
    path.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("CREATE TABLE theirs (x)")

        with pytest.raises(DukouError) as caught:
            Store.open(path, busy_s=0.05)

    assert "another process holds its lock" in str(caught.value)


@pytest.mark.parametrize("content", [b"this is no database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 8192])
def test_a_file_that_is_no_store_is_left_as_it_is(path: Path, content: bytes) -> None:
    """The error names the file and what to do; nothing is moved or written without the operator's word."""
    path.parent.mkdir()
    path.write_bytes(content)

    with pytest.raises(DukouError) as caught:
        Store.open(path)

    assert "it is damaged" in str(caught.value)
    assert f"mv {path} {path}.damaged" in str(caught.value)
    assert path.read_bytes() == content


def damage(path: Path) -> None:
    """All pages of the file but the first ones overwritten, as a bad disk does it."""
    content = bytearray(path.read_bytes())
    for page in range(3, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = b"\xa5" * 64
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (damage, "it is damaged"),
        (lambda path: path.write_bytes(b"broken" * 1000), "it is damaged (file is not a database)"),
    ],
    ids=["pages", "file"],
)
def test_at_a_start_with_a_damaged_store_the_last_state_holds(
    path: Path, harm: Callable[[Path], None], why: str
) -> None:
    """A version that was barred stays so: what was kept last is told, changes are refused, nothing is repaired unasked;
    once the file is well again, it has what was in force."""
    with closing(Store.open(path)) as store:
        for number in range(100):
            store.commit(change(why=str(number) * 20), {"iris": Overrides(serving=1, barred=(number,))})
        store.keep(rollout(7))
        store.publish(Apply(3, ()))
    whole = path.read_bytes()
    harm(path)
    harmed = path.read_bytes()

    with closing(Store.open(path)) as store:
        assert why in store.problem
        assert store.overrides() == {"iris": Overrides(serving=1, barred=(99,))}
        assert (store.rollouts(), store.published()) == ([rollout(7)], Apply(3, ()))
        for refused in (lambda: store.commit(change()), store.next_rollout_id, store.history):
            with pytest.raises(DukouError) as caught:
                refused()
            assert why in str(caught.value)
        assert path.read_bytes() == harmed

        path.write_bytes(whole)
        store.commit(change("wine"), {"wine": Overrides(serving=2)})

        assert store.problem == ""
        assert len(store.history(limit=200)) == 101
        both = store.overrides()
    with closing(Store.open(path)) as store:
        assert store.overrides() == both == {"iris": Overrides(serving=1, barred=(99,)), "wine": Overrides(serving=2)}


def test_a_value_that_is_none_of_ours_is_kept_anew(path: Path) -> None:
    """What the file held last is in force, and the next change puts it back."""
    with closing(Store.open(path)) as store:
        store.commit(change(), {"iris": Overrides(serving=1)})
    with closing(sqlite3.connect(path)) as database, database:
        database.execute('UPDATE overrides SET json = \'{"serving": "two"}\'')

    with closing(Store.open(path)) as store:
        assert "it is damaged (Expected `int | null`, got `str`" in store.problem
        assert store.overrides() == {"iris": Overrides(serving=1)}
        store.commit(change("wine"))

    with closing(Store.open(path)) as store:
        assert (store.problem, store.overrides()) == ("", {"iris": Overrides(serving=1)})


def test_at_a_start_with_a_locked_store_the_last_state_holds(path: Path) -> None:
    """And changes are taken as soon as the other process has let go."""
    with closing(Store.open(path)) as store:
        store.commit(change(), {"iris": Overrides(serving=1)})
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("CREATE TABLE theirs (x)")
        store = Store.open(path, busy_s=0.02)
        assert "another process holds its lock" in store.problem
        assert store.overrides() == {"iris": Overrides(serving=1)}
        with pytest.raises(DukouError):
            store.commit(change(), {"iris": Overrides(serving=2)})
        assert store.overrides() == {"iris": Overrides(serving=1)}

    with closing(store):
        store.commit(change(), {"iris": Overrides(serving=3)})
        assert store.overrides() == {"iris": Overrides(serving=3)}


def test_a_last_state_that_is_none_is_no_help(path: Path) -> None:
    """Then nothing is guessed."""
    with closing(Store.open(path)) as store:
        store.commit(change(), {"iris": Overrides(serving=1)})
    path.write_bytes(b"broken" * 1000)
    path.with_name("store.db.last").write_bytes(b"broken, too")

    with pytest.raises(DukouError, match="it is damaged"):
        Store.open(path)


def test_what_the_error_says_helps(path: Path) -> None:
    """After the move that it names, a store is begun anew, and what was left beside the old file does no harm."""
    Store.open(path).close()
    store = Store.open(path)
    store.commit(change(), {"iris": Overrides(serving=1)})
    wal = path.with_name("store.db-wal").read_bytes()
    store.close()
    path.write_bytes(b"broken" * 1000)
    path.with_name("store.db-wal").write_bytes(wal)

    path.rename(path.with_name("store.db.damaged"))

    with closing(Store.open(path)) as store:
        assert (store.problem, store.overrides()) == ("", {})
        store.commit(change(), {"iris": Overrides(serving=2)})
        assert store.overrides() == {"iris": Overrides(serving=2)}


def test_a_full_disk_is_said_and_nothing_is_half_written(path: Path) -> None:
    """SQLite's own error for a file that may grow no more; what was acknowledged stays."""

    def no_space(database: sqlite3.Connection) -> None:
        database.execute("PRAGMA max_page_count = 20")

    with closing(Store.open(path, migrations=[*MIGRATIONS, no_space])) as store:
        caught = None
        done = 0
        while caught is None:
            try:
                store.commit(change(why="x" * 1000), {"iris": Overrides(serving=done + 1)})
                done += 1
            except DukouError as error:
                caught = error

        assert "there is no space left to write it" in str(caught)
        assert done > 10
        assert store.overrides() == {"iris": Overrides(serving=done)}
        assert len(store.history()) == done


def test_a_file_that_the_system_lets_grow_no_more(path: Path) -> None:
    """A process that may not write beyond 64 KiB, as with a quota: what it acknowledged is there, and when there is
    room again it goes on."""
    script = """
import resource, sys
from pathlib import Path
from dukou.control.operations import Audited, Cause
from dukou.control.store import Store
from dukou.core.errors import DukouError
from dukou.lifecycle.wanted import Overrides
store = Store.open(Path(sys.argv[1]))
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, most))
done = 0
try:
    while True:
        store.commit(Audited(0.0, Cause("a", "x" * 2000), "deploy", "iris"), {"iris": Overrides(serving=done + 1)})
        done += 1
except DukouError as error:
    refused = error.reason.name
assert store.overrides() == {"iris": Overrides(serving=done)}
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
store.commit(Audited(0.0, Cause("a"), "deploy", "iris"), {"iris": Overrides(serving=done + 1)})
print(refused, done + 1)
"""

    child = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, timeout=30, check=False
    )

    reason, done = child.stdout.split() or pytest.fail(child.stderr)
    with closing(Store.open(path)) as store:
        assert reason == "STORE_UNAVAILABLE"
        assert store.overrides() == {"iris": Overrides(serving=int(done))}
        assert len(store.history(limit=1000)) == int(done)


def test_a_place_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    """A child of root gives up its rights first: root may write anywhere."""
    script = """
import os, sys
from pathlib import Path
from dukou.control.store import Store
from dukou.core.errors import DukouError
if os.geteuid() == 0:
    os.setuid(65534)
for path in sys.argv[1:]:
    try:
        Store.open(Path(path))
    except DukouError as error:
        print(error.reason.name, error.facts["detail"])
"""
    path = tmp_path / "store.db"
    Store.open(path).close()
    path.with_name("store.db.last").unlink()
    path.chmod(0o444)
    tmp_path.chmod(0o555)

    child = subprocess.run(
        [sys.executable, "-c", script, path, tmp_path / "deeper" / "store.db"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip

    assert child.stdout.splitlines() == ["STORE_UNAVAILABLE Permission denied"] * 2, child.stderr


def test_another_programs_database_is_not_touched(path: Path) -> None:
    """A path given by mistake."""
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE theirs (x)")

    with pytest.raises(DukouError) as caught:
        Store.open(path)

    assert "it is another program's database" in str(caught.value)


def test_a_newer_schema_is_refused(path: Path) -> None:
    """After a downgrade nothing is guessed: the last state holds where it is known, and nothing is written."""
    with closing(Store.open(path, migrations=[*MIGRATIONS, lambda database: None])) as store:
        store.commit(change(), {"iris": Overrides(serving=1)})
    refusal = f"a newer dukou has written it (schema {len(MIGRATIONS) + 1}, this one knows {len(MIGRATIONS)})"

    with closing(Store.open(path)) as store:
        assert refusal in store.problem
        assert store.overrides() == {"iris": Overrides(serving=1)}
        with pytest.raises(DukouError, match="a newer dukou has written it"):
            store.commit(change())
    path.with_name("store.db.last").unlink()
    with pytest.raises(DukouError, match="a newer dukou has written it"):
        Store.open(path)


def add_column(database: sqlite3.Connection) -> None:
    database.execute("ALTER TABLE overrides ADD COLUMN more TEXT")


def test_an_older_schema_is_migrated_after_a_copy(path: Path) -> None:
    """What was kept is there in the new form, and as it was in the copy."""
    with closing(Store.open(path)) as store:
        store.commit(change(), {"iris": Overrides(serving=1)})

    with closing(Store.open(path, migrations=[*MIGRATIONS, add_column])):
        pass

    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT model, more FROM overrides").fetchall() == [("iris", None)]
    with closing(Store.open(path.with_name(f"store.db.v{len(MIGRATIONS)}"))) as copy:
        assert copy.overrides() == {"iris": Overrides(serving=1)}


def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    """All the steps of a migration are one transaction."""
    Store.open(path).close()

    def fails(database: sqlite3.Connection) -> None:
        database.execute("ALTER TABLE nothing ADD COLUMN more TEXT")

    with closing(Store.open(path, migrations=[*MIGRATIONS, add_column, fails])) as store:
        assert "syntax error" in store.problem

    with closing(Store.open(path)), closing(sqlite3.connect(path)) as database:
        columns = [name for _, name, *_ in database.execute("PRAGMA table_info(overrides)")]
        assert columns == ["model", "json"]


def test_a_closed_store_says_so(path: Path) -> None:
    """A verb that comes while the server ends is refused, not a fault."""
    store = Store.open(path)
    store.close()

    with pytest.raises(DukouError) as caught:
        store.commit(change())

    assert caught.value.reason is Reason.STORE_UNAVAILABLE


@pytest.mark.slow
def test_a_kill_loses_nothing_acknowledged_and_leaves_nothing_half(path: Path) -> None:
    """SIGKILL in the middle of commits, again and again: every store opens, and each commit is there whole or not."""
    script = """
import sys
from pathlib import Path
from dukou.control.operations import Audited, Cause
from dukou.control.store import Store
from dukou.lifecycle.plan import Plan
from dukou.lifecycle.rollout import Rollout
from dukou.lifecycle.wanted import Overrides
store = Store.open(Path(sys.argv[1]))
number = len(store.history(limit=10**9))
while True:
    number += 1
    both = {model: Overrides(serving=number) for model in "ab"}
    store.commit(
        Audited(0.0, Cause("x" * 500), "deploy", "a", after={"serving": number}),
        both,
        Rollout(number, "a", 0, number, Plan(())),
    )
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""
    for life in range(6):
        child = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(3 + 7 * life)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
        acknowledged = max(int(line) for line in lines if line.endswith("\n"))
        child.stdout.close()
        child.wait(timeout=10)

        with closing(Store.open(path)) as store:
            overrides, history = store.overrides(), store.history(limit=10**9)
            (last,) = store.rollouts()
        found = overrides["a"].serving
        assert found is not None
        assert found in (acknowledged, acknowledged + 1)
        assert overrides["b"].serving == last.candidate == last.id == found
        assert [each.after["serving"] for each in history] == [*range(found, 0, -1)]

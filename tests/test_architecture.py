"""The layout's rules: who may import whom, where a framework, the environment and a clock may be touched."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "dukou"

EVERYONE = {"core", "config", "protos"}
ALLOWED = {
    "core": set(),
    "config": set(),
    "protos": set(),
    "wire": set(),
    "engine": set(),
    "runtimes": set(),
    "repository": set(),
    "lifecycle": set(),
    "telemetry": set(),
    "net": {"wire"},
    "packing": {"repository", "runtimes"},
    "control": {"lifecycle", "net"},  # of net, the table of HTTP statuses
    "client": {"wire"},
    "testing": {"wire", "engine", "runtimes", "repository"},
}
IMPORTS_ALL = {"app"}
MAY_IMPORT_APP = {"cli", "__main__", "__init__", "app"}

FRAMEWORKS = {
    "sklearn": {
        "runtimes/sklearn.py",
        "runtimes/pickles.py",
        "packing/compile.py",
        "packing/conversions.py",
        "packing/derive.py",
    },
    "onnxruntime": {"runtimes/onnx.py"},
    "skl2onnx": {"packing/compile.py", "packing/conversions.py"},
    "joblib": {"runtimes/pickles.py"},
    "skops": {"runtimes/sklearn.py"},
    "httptools": {"net/http1.py"},
    "httpx": {"client/http.py"},
    "fastapi": {"control/admin.py", "control/door.py"},
    "starlette": {"control/admin.py", "control/door.py"},
    "uvicorn": {"control/admin.py"},
    "pydantic": {"control/admin.py"},
    "sqlite3": {"control/store.py"},
    "ngh2": {"net/http2.py"},
    "grpc": {"client/grpc.py"},
    "watchfiles": {"repository/watch.py"},
    "google": {"protos/pool.py", "protos/text.py", "protos/tree.py", "protos/weight.py"},
}
CORE_MAY = {"msgspec", "numpy", "dukou"}


def modules() -> Iterator[tuple[str, str, ast.Module]]:
    """Every source file: its path below src/dukou, its room, its syntax tree."""
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        room = name.split("/")[0].removesuffix(".py")
        yield name, room, ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    """Every module imported anywhere in the file, TYPE_CHECKING blocks and functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which room is meant"
            yield node.module or ""
            if node.module == "dukou":
                yield from (f"dukou.{alias.name}" for alias in node.names)


def room_of(imported: str) -> str | None:
    parts = imported.split(".")
    return parts[1] if parts[0] == "dukou" and len(parts) > 1 else None


@pytest.mark.parametrize(
    ("name", "room", "tree"), list(modules()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_each_room_imports_only_the_rooms_it_may(name: str, room: str, tree: ast.Module) -> None:
    """A file imports its own room, core, config and what the table names."""
    for imported in imports(tree):
        target = room_of(imported)
        if target is None or target == room or target in EVERYONE or target == "__version__":
            continue
        if target == "app":
            assert room in MAY_IMPORT_APP, f"{name} imports dukou.app"
        elif room not in IMPORTS_ALL | MAY_IMPORT_APP:
            assert target in ALLOWED[room], f"{name} imports {imported}"


def test_core_needs_only_the_standard_library_numpy_and_msgspec() -> None:
    """The core stays light: nothing third-party but NumPy and msgspec, and no asyncio."""
    import sys

    for name, room, tree in modules():
        if room == "core":
            for imported in imports(tree):
                top = imported.split(".")[0]
                assert top in CORE_MAY or top in sys.stdlib_module_names, f"{name} imports {imported}"
                assert top != "asyncio", f"{name} imports asyncio"


def test_wire_does_no_io() -> None:
    """Protocol modules turn bytes into messages; they open nothing and know no event loop."""
    for name, room, tree in modules():
        if room == "wire":
            for imported in imports(tree):
                assert imported.split(".")[0] not in {"asyncio", "socket", "ssl", "http", "pathlib", "os"}, name


def test_a_framework_is_imported_in_its_own_file_only() -> None:
    """Frameworks are heavy and come and go: each has one door."""
    for name, _, tree in modules():
        for imported in imports(tree):
            homes = FRAMEWORKS.get(imported.split(".")[0])
            assert homes is None or name in homes, f"{name} imports {imported}"


def test_there_are_no_import_cycles() -> None:
    """Files import one another in one direction only."""
    graph: dict[str, set[str]] = {}
    for name, _, tree in modules():
        dotted = "dukou." + name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        graph[dotted] = {imported for imported in top_level_imports(tree) if imported.startswith("dukou.")}
    done: set[str] = set()

    def visit(node: str, trail: tuple[str, ...]) -> None:
        assert node not in trail, " -> ".join((*trail, node))
        if node in done:
            return
        for target in graph.get(node, ()):
            if target != node:
                visit(target, (*trail, node))
        done.add(node)

    for node in graph:
        visit(node, ())


def top_level_imports(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_only_the_settings_touch_the_environment() -> None:
    """os.environ is read by the loader of the settings and nowhere else."""
    for name, _, tree in modules():
        if name == "config/load.py":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}:
                raise AssertionError(f"{name}:{node.lineno} touches the environment")


def test_only_the_clock_reads_time() -> None:
    """Time is an argument everywhere else, so that tests can own it."""
    clocks = {"time", "monotonic", "perf_counter", "perf_counter_ns", "time_ns", "monotonic_ns"}
    for name, _, tree in modules():
        if name == "core/clock.py":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time":
                assert node.attr not in clocks, f"{name}:{node.lineno} reads a clock"

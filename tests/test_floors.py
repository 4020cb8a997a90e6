"""What may import what (docs/structure.md), and what the commands may load before they know what to do."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import REPO

OURS = ("slipway", "images", "launcher")
# Of a package, from the top down; a room imports only what stands below it (docs/structure.md).
ROOMS = {
    "launcher": [
        "cli", "doctor", "selftest", "lists", "chains", "prerequisites", "runs", "planning", "engines", "records",
        "core", "catalog", "artifacts",
    ],
    "images": ["cli", "inspection", "squashing", "building", "locking", "bootstrap", "machine"],
}  # fmt: skip
MOST_LINES = 400  # of a module
HEAVY = {"docker", "jinja2", "packaging", "pip", "requests", "urllib3", "uv", "yaml", "msgspec", "http.client", "ssl"}


def modules(package: str) -> list[Path]:
    return sorted((REPO / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Full names of everything that a module imports, anywhere in it."""
    package = ".".join(path.relative_to(REPO).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [package, node.module])) if node.level else str(node.module)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room_of(name: str, package: str) -> int:
    """Which of the package's rooms a full name is of; one below the last for what is not the package's."""
    parts, rooms = name.split("."), ROOMS[package]
    return rooms.index(parts[1]) if parts[0] == package and len(parts) > 1 else len(rooms)


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("package", ROOMS)
def test_every_module_is_in_a_room(package: str) -> None:
    found = {p.relative_to(REPO / package).parts[0].removesuffix(".py") for p in modules(package)}
    assert found == {*ROOMS[package], "__init__"}


@pytest.mark.parametrize("path", [p for package in ROOMS for p in modules(package)], ids=dotted)
def test_a_room_imports_only_what_stands_below_it(path: Path) -> None:
    here = dotted(path)
    package = here.partition(".")[0]
    for name in imported(path):
        if name.split(".")[:2] != here.split(".")[:2]:
            assert room_of(name, package) > room_of(here, package), f"{here} imports {name}"


@pytest.mark.parametrize(
    "folder", ["slipway", *(f"{package}/{room}" for package, rooms in ROOMS.items() for room in rooms)]
)
def test_no_modules_of_a_room_import_each_other(folder: str) -> None:
    """But for an `__init__` that brings its own room's modules together."""
    paths = {dotted(p): p for p in modules(folder)}
    graph: dict[str, set[str]] = {}
    for here, path in paths.items():
        names = {other for name in imported(path) for other in (name, name.rpartition(".")[0]) if other in paths}
        graph[here] = {n for n in names if not here.startswith(f"{n}.") and n != here}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as e:
        raise AssertionError(f"these import each other: {' -> '.join(e.args[1])}") from e


@pytest.mark.parametrize("path", [p for package in OURS for p in modules(package)], ids=dotted)
def test_no_module_is_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize(
    ("package", "allowed"),
    [("slipway", {"slipway"}), ("images", {"slipway", "images"}), ("launcher", {"slipway", "images", "launcher"})],
)
def test_packages_import_only_downwards(package: str, allowed: set[str]) -> None:
    for path in modules(package):
        ours = {name.split(".")[0] for name in imported(path)} & set(OURS)
        assert ours <= allowed, f"{path} imports {ours - allowed}"


def test_programs_in_a_container_import_none_of_ours() -> None:
    for path in modules("entrypoints"):
        assert not {name.split(".")[0] for name in imported(path)} & set(OURS), path


def test_the_supervisor_needs_nothing_but_the_standard_library() -> None:
    """And fabric.py, which lies beside it in a run. Nor do its modules import each other in a circle."""
    paths = {path.stem: path for path in modules("entrypoints/supervisor")}
    names = {name for path in paths.values() for name in imported(path)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names | {"supervisor", "fabric"}
    assert {name.split(".")[0] for name in imported(REPO / "slipway" / "fabric.py")} <= sys.stdlib_module_names
    graph = {stem: {name.split(".")[1] for name in imported(path) if name.startswith("supervisor.")}
             for stem, path in paths.items()}  # fmt: skip
    assert list(graphlib.TopologicalSorter(graph).static_order())
    for path in paths.values():
        test_no_module_is_too_long(path)


def test_verify_needs_nothing_but_the_standard_library_and_a_copy_of_packaging() -> None:
    names = {name.split(".")[0] for name in imported(REPO / "entrypoints" / "verify.py")}
    assert names - sys.stdlib_module_names == {"packaging", "pip"}
    assert {name.split(".")[0] for name in imported(REPO / "entrypoints" / "gpus.py")} <= sys.stdlib_module_names


def test_rules_and_plan_look_at_nothing() -> None:
    """They are pure: what they are given is all that they know."""
    looking = {"os", "shutil", "subprocess", "socket", "time", "datetime", "random", "docker", "slipway.files"}
    pure = ["core/plan.py", "core/arguments.py", "core/gpus.py", "planning/planner.py", "planning/configuration.py"]
    for path in (*(REPO / "launcher" / name for name in pure), *modules("launcher/planning/checks")):
        names = set(imported(path))
        assert not {n for n in names if n in looking or n.split(".")[0] in looking}, path


@pytest.mark.parametrize("program", ["images", "launch"])
def test_help_loads_nothing_heavy(program: str) -> None:
    module = {"images": "images.cli", "launch": "launcher.cli"}[program]
    code = f"""
import sys
sys.argv = [{program!r}, "--help"]
from {module} import main
try:
    main()
except SystemExit:
    print(*sys.modules, sep="\\n", file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage:")
    loaded = set(done.stderr.split())
    assert not loaded & HEAVY
    third_party = {n for n in loaded if "." not in n and not n.startswith("_")} - sys.stdlib_module_names - set(OURS)
    assert third_party == {"click"}

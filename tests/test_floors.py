"""What may import what (docs/structure.md), and what the commands may load before they know what to do."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import REPO

OURS = ("slipway", "images", "launcher")
# From the top down; a floor imports only what stands below it.
LAUNCHER = [
    {"cli"},
    {"show", "steplist", "configlist", "doctor", "cachelist"},
    {"convert", "conversions", "foreground"},
    {"life"},
    {"flow"},
    {"observe", "code", "profilelist", "cachefolders"},
    {"records"},
    {"rules", "engines", "planner"},
    {"outcome"},
    {"reports"},
    {"memory_rl"},
    {"memory", "rlrules", "gpus", "configuration"},
    {"fit"},
    {"plan"},
    {"words", "releases"},
    {"catalogue", "profiles", "fullcheck"},
    {"artifacts", "hub", "megatroncache"},
    {"blobs"},
    {"hubcache"},
    {"checkpoints", "datasets"},
    {"compressed", "jsonl", "parquet"},
    {"faults"},
]
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


def floor_of(name: str) -> int:
    """Which of the launcher's floors a full name stands on; the last for what is not the launcher's."""
    parts = name.split(".")
    if parts[0] != "launcher" or len(parts) == 1:
        return len(LAUNCHER)
    return next(n for n, names in enumerate(LAUNCHER) if parts[1] in names)


def test_every_module_of_the_launcher_stands_on_a_floor() -> None:
    names = {p.relative_to(REPO / "launcher").parts[0].removesuffix(".py") for p in modules("launcher")} - {"__init__"}
    assert names == set().union(*LAUNCHER)


@pytest.mark.parametrize("path", modules("launcher"), ids=lambda p: str(p.relative_to(REPO)))
def test_the_launcher_imports_only_downwards(path: Path) -> None:
    here = ".".join(path.relative_to(REPO).with_suffix("").parts)
    if here.endswith("__init__"):
        return
    for name in imported(path):
        if name.split(".")[:2] != here.split(".")[:2] or here.count(".") == 1:  # a package's modules know each other
            assert floor_of(name) > floor_of(here), f"{here} imports {name}"


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


def test_verify_needs_nothing_but_the_standard_library_and_a_copy_of_packaging() -> None:
    names = {name.split(".")[0] for name in imported(REPO / "entrypoints" / "verify.py")}
    assert names - sys.stdlib_module_names == {"packaging", "pip"}
    assert {name.split(".")[0] for name in imported(REPO / "entrypoints" / "gpus.py")} <= sys.stdlib_module_names


def test_rules_and_plan_look_at_nothing() -> None:
    """They are pure: what they are given is all that they know."""
    looking = {"os", "shutil", "subprocess", "socket", "time", "datetime", "random", "docker", "slipway.files"}
    for name in ("rules", "plan", "planner", "words", "fit", "gpus", "memory", "memory_rl"):
        names = set(imported(REPO / "launcher" / f"{name}.py"))
        assert not {n for n in names if n in looking or n.split(".")[0] in looking}, name


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

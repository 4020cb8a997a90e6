"""Patches vLLM's files in NeMo RL's image as its workers do when they start, so that these have nothing left to write.

A worker writes into the site-packages of its own environment, and from v0.7.0 on opens a lock beside each file first:
no other user than root can, nobody on a read-only root, and v0.4.0 goes on without saying so, with other log
probabilities. NeMo RL's own functions are run here, found in its source: in a module of their own (v0.7.0), or inside
the worker's __init__ (v0.4.0 to v0.6.0). Nothing of vLLM is imported, so neither a GPU nor its driver is needed.

Runs at build with the Python of one worker, and starts itself anew with that of every environment that has vLLM. The
files may be shared between environments by links: then the first one's interpreter stands in them, as it would when
its worker starts first. Ends with 1 where there is nothing to patch, or where a worker would still have to write.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.machinery
import importlib.util
import logging
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

VENVS = Path(os.environ.get("NEMO_RL_VENV_DIR", "/opt/ray_venvs"))
PLACES = ("patches.py", "vllm_worker.py")  # below nemo_rl/models/generation/vllm, the newer release's first
LOCK = ".patch_lock"
NOTHING = 3  # this environment has no vLLM, or its files were patched already
NOWHERE = "/dev/null"  # any user may open and lock it on any root; a file in /tmp might be another user's


def main() -> int:
    if sys.argv[1:] == ["--here"]:
        try:
            return here()
        except RuntimeError as e:
            return fail(str(e))
    pythons = dict.fromkeys([Path(sys.executable), *sorted(VENVS.glob("*/bin/python"))])
    done = [subprocess.run([python, "-B", __file__, "--here"], check=False).returncode for python in pythons]
    if 0 not in done:
        return fail("vLLM is in none of the environments, or nothing of it was patched")
    return max(code for code in done if code != NOTHING)


def here() -> int:
    """Patches this environment's vLLM."""
    found = importlib.util.find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        return NOTHING
    sys.meta_path.insert(0, Unexecuted())
    first, again = written(), written()
    for lock in (path for path in first if path.endswith(LOCK)):
        Path(lock).unlink()
        Path(lock).symlink_to(NOWHERE)
    if left := [path for path in again if not path.endswith(LOCK)]:
        return fail(f"would be written each time a worker starts: {', '.join(left)}")
    patched = [path for path in first if not path.endswith(LOCK)]
    for path in patched:
        print(f"patched {path} (for {sys.executable})", flush=True)
    return 0 if patched else NOTHING


def fail(why: str) -> int:
    print(f"{Path(__file__).name}: {why}", file=sys.stderr)
    return 1


def written() -> list[str]:
    """The files that NeMo RL's patches open for writing, as often as they do."""
    opened: list[str] = []

    def recording(path: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
        if set(mode) & set("wax+"):
            opened.append(str(path))
        return Path(path).open(mode, *more, **named)

    for patch in patches(recording):
        patch()
    return list(dict.fromkeys(opened))


def patches(opener: Callable[..., Any]) -> list[Callable[[], Any]]:
    """What a worker calls when it starts. Raises RuntimeError where NeMo RL has nothing of the kind."""
    package = importlib.util.find_spec("nemo_rl")
    if package is None or package.origin is None:
        raise RuntimeError(f"{sys.executable}: there is no nemo_rl")
    folder = Path(package.origin).parent / "models" / "generation" / "vllm"
    for source in (folder / name for name in PLACES):
        if source.is_file() and (found := functions(source, opener)):
            return found
    raise RuntimeError(f"{folder}: none of {', '.join(PLACES)} has functions named _patch_vllm_*")


def functions(source: Path, opener: Callable[..., Any]) -> list[Callable[[], Any]]:
    """The patches of one file, and the helpers that they call, wherever in it they are defined."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    wanted = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and is_part(n)]
    scope: dict[str, Any] = {
        "__name__": "slipway_vllm_patches", "open": opener, "os": os, "sys": sys, "contextmanager":
        contextlib.contextmanager, "find_spec": importlib.util.find_spec, "logger": logging.getLogger("vllm_patch"),
        "extra_env_vars": None, "self": types.SimpleNamespace(py_executable=sys.executable),
    }  # fmt: skip
    exec(compile(ast.Module(body=list(wanted), type_ignores=[]), str(source), "exec"), scope)
    given = {"py_executable": sys.executable, "extra_env_vars": None, "logger": scope["logger"]}
    takes = {n.name: [a.arg for a in n.args.args] for n in wanted if is_patch(n)}
    if unknown := [f"{name}({word})" for name, words in takes.items() for word in words if word not in given]:
        raise RuntimeError(f"{source}: unknown arguments: {', '.join(unknown)}")
    return [bound(scope[name], [given[word] for word in words]) for name, words in takes.items()]


def is_patch(node: ast.FunctionDef) -> bool:
    return node.name.startswith("_patch_vllm_")


def is_part(node: ast.FunctionDef) -> bool:
    return is_patch(node) or node.name in ("_get_vllm_file", "_locked_file_patch")


def bound(function: Callable[..., Any], arguments: list[Any]) -> Callable[[], Any]:
    return lambda: function(*arguments)


class Unexecuted:
    """Finds vLLM's modules without running them: v0.4.0 imports those that it patches, to learn where they are."""

    def find_spec(self, name: str, path: Any = None, _: Any = None) -> importlib.machinery.ModuleSpec | None:
        found = importlib.machinery.PathFinder.find_spec(name, path) if name.partition(".")[0] == "vllm" else None
        if found is not None and found.origin is not None:
            found.loader = self
        return found

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """The usual kind of module."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing of it."""


if __name__ == "__main__":
    sys.exit(main())

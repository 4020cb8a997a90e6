"""Runs the project's commands as processes, without starting Python for each of them, which takes longer than they do.

Reads one JSON line a command: program, words, cwd, env, and the files for stdout and stderr; writes its exit code.
Every command is a process of its own, forked from this one, which has loaded all modules and called nothing in them: no
module of ours looks at its environment while it is loaded. What a command loads, and in which order, is tested
elsewhere, by processes that begin with nothing (test_floors.py, test_trust.py).

What is loaded later is compiled once, into a folder that ends with this process, whatever PYTHONDONTWRITEBYTECODE says.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import sys
import tempfile
import traceback
from typing import Any

from standins import stages

OTHERS = ("click", "docker", "jinja2", "msgspec", "packaging.specifiers", "packaging.version", "yaml")
OURS = ("slipway", "images", "launcher")


def main() -> None:
    for name in OTHERS:
        importlib.import_module(name)
    for package in map(importlib.import_module, OURS):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    with tempfile.TemporaryDirectory(prefix="slipway-bytecode-") as folder:
        sys.pycache_prefix, sys.dont_write_bytecode = folder, False
        gc.freeze()  # what is here now no child has to look through
        for line in sys.stdin:
            command = json.loads(line)
            child = os.fork()
            if child == 0:
                os._exit(run(**command))
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            print(code, flush=True)


def run(
    program: str,
    words: list[str],
    cwd: str,
    env: dict[str, str],
    out: str,
    err: str,
    dies: tuple[int, str, bool] | None = None,
) -> int:
    """In the child: what the console script `program` does; returns its exit code.

    `dies`: at which stage it is killed, as standins/stages.py counts (`below`, `every`); what it says to an engine is a
    stage, too.
    """
    for number, file in ((0, os.devnull), (1, out), (2, err)):
        os.dup2(os.open(file, os.O_RDWR), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = [program, *words]
    if dies:
        stages.die_at(dies[0], frozenset({"socket.connect"}), *dies[1:])
    try:
        commands: Any = importlib.import_module({"images": "images.cli", "launch": "launcher.cli"}[program])
        commands.main()
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else 0 if e.code is None else 1
    except BaseException:  # noqa: BLE001 # whatever it is, the test is to see it
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    main()

"""Runs a command of this project and kills it at one of its stages: stages.py N PROGRAM WORD...

A stage is one event of the interpreter that changes something: a program started, a file opened to be written, made,
renamed, removed. At the N-th one the process kills itself, as `kill -9` would; with fewer stages it goes to the end.
To be run by `python -P`: docker.py is beside it.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

CHANGES = {"subprocess.Popen", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "fcntl.flock"}


def die_at(last: int, others: frozenset[str] = frozenset(), below: str = "", every: bool = True) -> None:
    """From here on this process counts its stages, and does not live longer than the `last` one.

    `others`: events that are stages, too; `below`: a folder outside of which no file counts. Unless `every`, events of
    one kind that follow each other in one folder (the copies of files) are one stage.
    """
    seen, before = 0, ("", "")

    def stage(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen, before
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if not (writes or event in CHANGES or event in others):
            return
        named = args[0] if isinstance(args[0], str | os.PathLike) else below
        if not os.fsdecode(named).startswith(below):
            return
        here, before = before, (event, os.fsdecode(named).rpartition("/")[0])
        if here == before and not every:
            return
        seen += 1
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(stage)


if __name__ == "__main__":
    from images.cli import main  # what its import does is no stage

    at, program = int(sys.argv[1]), sys.argv[2]
    sys.argv = [program, *sys.argv[3:]]
    die_at(at)
    main()

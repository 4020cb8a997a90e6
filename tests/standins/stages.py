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

last, program = int(sys.argv[1]), sys.argv[2]
changes = {"subprocess.Popen", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "fcntl.flock"}
seen = 0


def stage(event: str, args: tuple[Any, ...]) -> None:
    global seen
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    if event in changes or writes:
        seen += 1
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)


from images.cli import main  # noqa: E402 - what its import does is no stage

sys.argv = [program, *sys.argv[3:]]
sys.addaudithook(stage)
main()

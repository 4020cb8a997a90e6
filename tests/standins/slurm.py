"""A stand-in of Slurm's commands: slurm.py FOLDER COMMAND WORD...

Writes the words, the environment and the working directory of every call as one JSON line to FOLDER/calls, then becomes
the bash script FOLDER/COMMAND.sh, which gets the words and finds programs in FOLDER/bin alone; without one it succeeds
and says nothing.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

folder, command, words = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
with (folder / "calls").open("a") as f:
    f.write(json.dumps([command, words, dict(os.environ), str(Path.cwd())]) + "\n")
script = folder / f"{command}.sh"
if script.is_file():
    os.execve(folder / "bin" / "bash", ["bash", str(script), *words], {**os.environ, "PATH": str(folder / "bin")})

"""A stand-in of enroot: enroot.py FOLDER WORD...

Writes the words and the ENROOT_ variables of every call as one JSON line to FOLDER/calls. `import --output FILE URI`
makes a real squashfs of FOLDER/rootfs, with the options that enroot takes from its environment; `start` ends with the
number in FOLDER/code, else 0.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

folder, words = Path(sys.argv[1]), sys.argv[2:]
variables = {name: value for name, value in os.environ.items() if name.startswith(("ENROOT_", "NVIDIA_", "DOCKER_"))}
there = {name: Path(value).is_dir() for name, value in variables.items() if name.endswith("_PATH")}
with (folder / "calls").open("a") as f:
    f.write(json.dumps({"words": words, "variables": variables, "there": there}) + "\n")

if words == ["version"]:
    print("4.1.2")
elif words[0] == "import":
    options = os.environ["ENROOT_SQUASH_OPTIONS"].split()
    command = ["mksquashfs", str(folder / "rootfs"), words[words.index("--output") + 1], "-all-root", *options]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
elif words[0] == "start":
    code = folder / "code"
    sys.exit(int(code.read_text()) if code.is_file() else 0)

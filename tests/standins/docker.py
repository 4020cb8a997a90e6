"""A stand-in of the docker command: docker.py FOLDER WORD...

Writes the words of every call as one JSON line to FOLDER/calls. `buildx build` copies its context, those of
repositories and its secrets to FOLDER/context, FOLDER/contexts and FOLDER/secrets, and reports FOLDER/metadata.json;
`buildx inspect` prints FOLDER/inspect, else what an amd64 machine says; `buildx imagetools inspect` prints
FOLDER/manifest.json, and fails like a registry that is not reachable where that is missing. It ends with the number in
FOLDER/code, else 0.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

folder, words = Path(sys.argv[1]), sys.argv[2:]
with (folder / "calls").open("a") as f:
    f.write(json.dumps(words) + "\n")

if words[:2] == ["buildx", "version"]:
    print("a stand-in of buildx")
elif words[:2] == ["buildx", "build"]:
    shutil.copytree(words[-1], folder / "context")
    for context in (words[i + 1] for i, word in enumerate(words) if word == "--build-context"):
        name, _, source = context.partition("=")
        if name.startswith("source-"):
            shutil.copytree(source, folder / "contexts" / name, dirs_exist_ok=True)
    for secret in (w for w in words if w.startswith("id=")):
        name, source = (part.partition("=")[2] for part in secret.split(","))
        (folder / "secrets").mkdir(exist_ok=True)
        shutil.copy(source, folder / "secrets" / name)
    for output in (w for w in words if w.startswith("type=oci,dest=")):
        Path(output.split(",")[1].removeprefix("dest=")).write_text("an archive")
    if (folder / "metadata.json").is_file():
        shutil.copy(folder / "metadata.json", words[words.index("--metadata-file") + 1])
elif words[:2] == ["buildx", "inspect"]:
    told = folder / "inspect"
    print(told.read_text() if told.is_file() else "Platforms:        linux/amd64, linux/amd64/v2, linux/386")
elif words[:3] == ["buildx", "imagetools", "inspect"]:
    if not (folder / "manifest.json").is_file():
        sys.exit("ERROR: failed to do request: no such host")
    print((folder / "manifest.json").read_text())

code = folder / "code"
sys.exit(int(code.read_text()) if code.is_file() and words[:2] != ["buildx", "version"] else 0)

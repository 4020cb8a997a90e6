"""An HF_HOME with a login in it, and a program that looks, in a container, for that login and for what it can write."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

CANARY = "hf_canary9d41c7"
# It is told its word backwards: what it is told stands in the plan.
PROGRAM = f"""
import json, os, pathlib
word, found, tried = {CANARY[::-1]!r}[::-1].encode(), [], {{}}
for folder, folders, names in os.walk("/"):
    folders[:] = [f for f in folders if folder != "/" or f not in ("proc", "sys", "dev")]
    for path in (pathlib.Path(folder, n) for n in names):
        try:
            if path.is_file() and path.stat().st_size < 65536 and word in path.read_bytes():
                found.append(str(path))
        except OSError:
            pass
def attempt(name, write):
    try:
        write()
        tried[name] = "written"
    except OSError as e:
        tried[name] = e.strerror
home = pathlib.Path(os.environ["HF_HOME"])
folders = {{"HF_HOME": home, "HF_HUB_CACHE": home / "hub", "HF_DATASETS_CACHE": home / "datasets"}}
folders["HF_MODULES_CACHE"] = home / "modules"
folders = {{name: pathlib.Path(os.environ.get(name, usual)) for name, usual in folders.items()}}
for name, folder in folders.items():
    attempt(name, (folder / "by-the-toy").touch)
hub = folders["HF_HUB_CACHE"]
for file in hub.glob("models--*/snapshots/*/config.json"):
    attempt("read", file.read_bytes)
    attempt("snapshot", lambda: file.write_text("changed"))
    attempt("link", file.unlink)
print("caches", json.dumps({{"found": found, "environ": word.decode() in str(os.environ), "tried": tried}}))
"""


def told(program: str = PROGRAM) -> tuple[str, str]:
    """Arguments of a launch of the toy that make it run a program."""
    return "--env", f"TOY_RUN={base64.b64encode(program.encode()).decode()}"


def log_in(home: Path) -> dict[str, str]:
    """An HF_HOME as `hf auth login` and a download leave it; what every file in it is."""
    snapshot = home / "hub" / "models--org--tiny" / "snapshots" / ("c0ffee00" * 5)
    blobs = home / "hub" / "models--org--tiny" / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    data = b'{"model_type": "llama"}\n'
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    (blobs / blob).write_bytes(data)
    (snapshot / "config.json").symlink_to(f"../../blobs/{blob}")
    (home / "token").write_text(CANARY)
    (home / "stored_tokens").write_text(f"[mine]\nhf_token = {CANARY}\n")
    (home / "hub" / "token").symlink_to("../token")
    (home / "modules").mkdir()
    return content(home)


def content(home: Path) -> dict[str, str]:
    """Of every file of an HF_HOME but what `datasets` has prepared."""
    files = [p for p in home.rglob("*") if p.is_file() and home / "datasets" not in p.parents]
    return {str(p.relative_to(home)): p.read_text() for p in files}


def seen(log: str) -> dict[str, Any]:
    """What the program has found inside its container."""
    line = next(line for line in log.splitlines() if line.startswith("caches "))
    return dict(json.loads(line.removeprefix("caches ")))


READ_ONLY = "Read-only file system"
# Nothing of the login is readable, and nothing of the hub's can be changed.
HIDDEN = {
    "found": [],
    "environ": False,
    "tried": {
        "HF_HOME": "written", "HF_HUB_CACHE": READ_ONLY, "HF_DATASETS_CACHE": "written", "HF_MODULES_CACHE": "written",
        "read": "written", "snapshot": READ_ONLY, "link": READ_ONLY,
    },
}  # fmt: skip

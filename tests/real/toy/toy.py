"""The step of the tests: says what it sees, may wait for a file, prints lines, ends with the code that it is told."""

import base64
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import slipway_step

GIVEN = ("ODD", "PATH", "LC_ALL", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "NVIDIA_VISIBLE_DEVICES")
SEEN = (
    "USER",
    "LOGNAME",
    "HOME",
    "XDG_CACHE_HOME",
    "HF_MODULES_CACHE",
    "TRITON_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "MPLCONFIGDIR",
)


def main() -> None:
    config = slipway_step.merge_config(slipway_step.load_plan()["config"])
    toy, output = config["toy"], Path(config["toy"]["output"])
    with slipway_step.config_file(config):
        pass
    print("facts", json.dumps(facts()))
    (output / "written").write_text("by the toy\n")
    exec(base64.b64decode(os.environ.get("TOY_RUN", "")), {"__name__": "told"})
    if toy["wait"] and not toy["again"]:
        wait_for(output, toy["deaf"], toy["slow"])
    for number in range(1, toy["lines"] + 1):
        print(f"line {number}")
    losses = {"steps": 3, "first_loss": 7.664, "last_loss": float(toy["loss"])} if toy["loss"] else {}
    slipway_step.write_result({"checkpoint": str(output), "type": "toy", **losses})
    if toy["plants"]:
        plant()
    if toy["code"]:
        sys.exit(toy["code"])


def plant() -> None:
    """What a container could leave for whoever collects its run."""
    for name in ("config.yaml", "result.json"):
        (slipway_step.STATE / name).unlink()
    (slipway_step.STATE / "config.yaml").symlink_to("/etc/passwd")
    os.mkfifo(slipway_step.STATE / "result.json")
    (slipway_step.STATE / "failed").symlink_to("/dev/zero")


def facts() -> dict:
    limits = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}")) for name in ("memlock", "stack")}
    shm = os.statvfs("/dev/shm")
    return {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "variables": {name: os.environ.get(name) for name in SEEN},
        "writable": {name: os.access(os.environ[name], os.W_OK) for name in SEEN if "/" in os.environ.get(name, "")},
        "limits": limits,
        "given": {name: os.environ.get(name) for name in GIVEN},
        "secrets": {file.name: secret(file) for file in Path("/run/secrets").glob("*")},
        "gpus": gpus(),
        "nodes": sorted(str(p) for p in Path("/dev").glob("nvidia[0-9]*")),
        "shm": shm.f_blocks * shm.f_frsize,
        "code": {name: code(Path(item["path"])) for name, item in slipway_step.load_plan()["code"].items()},
    }


def gpus() -> list:
    """UUIDs of the GPUs that this container has."""
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return re.findall(r"UUID: ([^)]+)", listed)


def secret(file: Path) -> dict:
    """What is told of a secret without telling it."""
    texts = {"file": file.read_text(), "variable": os.environ.get(file.name, "")}
    seen = {where: hashlib.sha256(text.encode()).hexdigest() for where, text in texts.items()}
    return seen | {"mode": f"{file.stat().st_mode & 0o777:o}"}


def code(folder: Path) -> dict:
    """What stands where --code was to be mounted: links as `-> target`, programs with a star, folders with a slash."""
    seen = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            seen[name] = f"-> {path.readlink()}"
        elif path.is_dir():
            seen[name + "/"] = ""
        else:
            seen[name + "*" * os.access(path, os.X_OK)] = path.read_text()
    return {"files": seen, "writable": os.access(folder, os.W_OK)}


def wait_for(output: Path, deaf: bool, slow: int) -> None:
    def save(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(slow)
        (output / "saved").write_text("told to stop\n")
        sys.exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if deaf else save)
    print("waiting")
    (output / "waiting").touch()
    while not (output / "go").exists():
        time.sleep(0.02)


slipway_step.run(main)

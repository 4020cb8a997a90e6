"""This machine in place of an image: what its interpreters have, and a project whose lock says so.

The lock's entries are flavour `cuda`, made by `images.locking.lock` from a matrix like any other: what AutoModel's and
Model Optimizer's cpu images pin, but for torch and what came with it, which is the machine's own. The steps are the
project's, starting from their cpu base: NVIDIA's containers, with their examples, are not here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from images.building import render
from images.locking import groups
from images.locking import lock as locks
from images.locking.model import (
    Base,
    Entry,
    Library,
    Lock,
    Matrix,
    MatrixBase,
    MatrixEntry,
    MatrixEnvironment,
    Repository,
)
from launcher.catalog.profiles import GpuModel
from slipway import canonical
from slipway.project import Root

REPO = Path(__file__).resolve().parents[2]
STEPS = {"automodel": ("sft/automodel", "peft/automodel"), "modelopt": ("optimize/modelopt/quantize",)}
PROFILE = "machine"
# Asked in each environment. A hook of the substitutes is imported when the interpreter starts, by its .pth.
ASK = """
import importlib.metadata, json, re, sys
import torch
here = reversed([*importlib.metadata.distributions()])  # of two the first on the path counts
found = {re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): d.version for d in here}
gpu = torch.cuda.is_available()
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2], "packages": found, "torch": torch.__version__,
    "gpu": torch.cuda.get_device_name(0) if gpu else "", "hooks": sorted(m for m in sys.modules if "slipway_cpu_" in m),
    "memory": torch.cuda.get_device_properties(0).total_memory if gpu else 0,
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """An environment of this machine, and what it says of itself. `gpu`: as torch calls it; empty without CUDA."""

    python: Path
    version: str
    packages: dict[str, str]
    torch: str
    gpu: str
    memory: int
    hooks: list[str]


def ask(python: Path) -> Interpreter:
    """Raises CalledProcessError where it has no torch."""
    said = json.loads(subprocess.run([str(python), "-c", ASK], stdout=subprocess.PIPE, text=True, check=True).stdout)
    return Interpreter(python=python, **said)


def driver() -> str:
    """The NVIDIA driver's version, as nvidia-smi says it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[0]


def gpu_ids() -> list[str]:
    """The UUIDs of all GPUs, as nvidia-smi says them."""
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()


def gpu_model(name: str) -> str:
    """What the launcher calls a GPU. Raises ValueError for one that it does not know."""
    known = [m for m in get_args(GpuModel) if f" {m} " in f" {name.replace('-', ' ')} "]
    if not known:
        raise ValueError(
            f"{name!r}: expected one of {', '.join(get_args(GpuModel))} (launcher/catalog/profiles.py: GpuModel)"
        )
    return max(known, key=len)


class Silent:
    """Nobody outside is asked: there is no registry behind this machine."""

    def base(self, base: Base) -> Base:
        return base

    def repository(self, repository: Repository) -> Repository:
        return repository

    def pins(self, groups: dict[str, Any], before: str) -> dict[str, str]:  # noqa: ARG002
        raise AssertionError(f"a machine has no groups to resolve: {', '.join(groups)}")


def expected(entry: Entry, there: Interpreter) -> dict[str, str]:
    """What verify.py has to find: the cpu image's pins, and the machine's own torch with what torch asks for."""
    brought = groups.pins_of((REPO / entry.groups["torch"].file).read_text())
    own = {name: version for name, version in there.packages.items() if name in brought}
    return {n: v for n, v in entry.environments["main"].packages.items() if n not in brought} | own


def row(pins: Lock, name: str, there: Interpreter) -> Library:
    """A library of the matrix with this machine as its one release. `pins`: the project's own lock."""
    entry, library = locks.select(pins, name, "cpu"), pins.libraries[name]
    main = MatrixEnvironment(python=str(there.python), packages=expected(entry, there))
    release = MatrixEntry(
        base=MatrixBase(image="this-machine", tag=f"torch-{there.torch.replace('+', '-')}"),
        python=there.version,
        environments={"main": main},
    )
    return Library(
        title=library.title, homepage=library.homepage, default={"cuda": entry.release}, cuda={entry.release: release}
    )


def make_project(folder: Path, there: dict[str, Interpreter], gpu: str, memory: int) -> Root:
    """A project in which `launch STEP` is for this machine. `there`: library -> its environment."""
    root = Root(folder)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    (folder / "templates").symlink_to(REPO / "templates")
    pins = locks.load_lock(Root(REPO))
    matrix = Matrix(schema=1, bootstrap={}, libraries={name: row(pins, name, found) for name, found in there.items()})
    root.matrix.write_text(canonical.pretty(matrix))
    lock, _ = locks.build_lock(root, locks.load_matrix(root), None, Silent())
    root.lock.write_text(locks.lock_text(lock))
    for name in there:
        write_steps(root, name)
    write_entrypoints(root, lock)
    profile = {"schema": 1, "kind": "enroot", "flavour": "cuda"}
    profile["gpu"] = {"model": gpu_model(gpu), "memory": f"{memory // 2**20}MiB"}
    (folder / "launcher" / "profiles").mkdir()
    (folder / "launcher" / "profiles" / f"{PROFILE}.yaml").write_text(canonical.pretty(profile))
    return root


def write_steps(root: Root, library: str) -> None:
    """The library's steps, whose base configuration is that of the cpu flavour."""
    for step in STEPS[library]:
        folder = root.path / "launcher" / "steps" / step
        shutil.copytree(REPO / "launcher" / "steps" / step, folder)
        said = yaml.safe_load((folder / "step.yaml").read_text())
        said["base"] = [{"flavour": "cuda", "file": base["file"]} for base in said["base"] if base.get("file")][:1]
        (folder / "step.yaml").write_text(canonical.pretty(said))


def write_entrypoints(root: Root, lock: Lock) -> None:
    """The project's programs, and the entrypoints that `images render` makes for this lock's interpreters."""
    folder = root.path / "entrypoints"
    folder.mkdir()
    for path in (REPO / "entrypoints").iterdir():
        if path.stem not in lock.libraries:
            (folder / path.name).symlink_to(path)
    for name in lock.libraries:
        (folder / f"{name}.sh").write_text(render.entrypoint(root, lock, name))


def entry_of(root: Root, library: str) -> Entry:
    """This machine's row for a library."""
    return locks.select(locks.load_lock(root), library, "cuda")


def versions(there: Interpreter) -> dict[str, str]:
    """What a report names."""
    names = ("torch", "transformers", "nemo-automodel", "nvidia-modelopt")
    return {"python": there.version} | {n: there.packages[n] for n in names if n in there.packages}

"""An engine of the tests' own that gives GPUs which are none: as NVIDIA's toolkit does it, or by CDI alone.

What NVIDIA would install stands below the engine: a hook on its PATH and a runtime, or a CDI specification; and
nvidia-smi on the PATH of the commands. Each really changes the container, so that a wrong request is noticed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from images.bootstrap import debian, engine
from images.bootstrap.engine import Places
from slipway.project import Root

from .support import PROJECT

STAND_INS = PROJECT / "tests" / "standins" / "gpus"
NUMBER = 8
UUIDS = [f"GPU-0000000{n}-5714-4d1e-8f00-00000000000{n}" for n in range(NUMBER)]


@dataclass(frozen=True)
class GpuEngine:
    """`folder`: what stands in for NVIDIA's programs, and the GPUs."""

    places: Places
    folder: Path

    @classmethod
    def prepare(cls, folder: Path) -> GpuEngine:
        debian.need(Root(PROJECT), print, *engine.TOOLS)  # where DOCKER_HOST names an engine, there may be no dockerd
        run = Path("/run") / f"slipway-gpus-{os.getpid()}"  # a socket's path has to be short
        made = cls(Places(folder / "engine", run, folder / "engine.json"), folder / "machine")
        for name in ("bin", "toolkit"):
            (made.folder / name / "nvidia").mkdir(parents=True)
            for number, uuid in enumerate(UUIDS):
                (made.folder / name / "nvidia" / str(number)).write_text(f"{uuid}\n")
            shutil.copy(STAND_INS / "nvidia-smi", made.folder / name)
        for name in ("nvidia-container-runtime", "nvidia-container-runtime-hook"):
            shutil.copy(STAND_INS / name, made.folder / "toolkit")
        (made.folder / "cdi").mkdir()
        (made.folder / "cdi" / "nvidia.json").write_text(json.dumps(made.specification()))
        return made

    @property
    def path(self) -> str:
        """PATH of a user's shell on this machine: it has the driver's nvidia-smi."""
        return f"{self.folder / 'bin'}:{os.environ['PATH']}"

    def start(self, kind: str) -> None:
        """Ends what runs, and starts the engine as `toolkit`, as `cdi`, or as `bare`, which gives no GPU."""
        engine.end_daemon(self.places, _quiet)
        more: dict[str, Any] = {"features": {}}  # without containerd's store, which would compress each layer
        if kind == "toolkit":
            more["runtimes"] = {"nvidia": {"path": str(self.folder / "toolkit" / "nvidia-container-runtime")}}
        if kind == "cdi":
            more["features"] = {"cdi": True}
            more["cdi-spec-dirs"] = [str(self.folder / "cdi")]
        path = f"{self.folder / 'toolkit'}:{os.environ['PATH']}" if kind == "toolkit" else os.environ["PATH"]
        with mock.patch.dict(os.environ, PATH=path):
            record = engine.start_daemon(self.places, more)
        engine.wait_for(record, self.places)

    def build(self, tar: Path, command: str) -> str:
        """An image on it: a root file system's tar, changed by a shell command; its tag."""
        file = self.folder / "Dockerfile"
        file.write_text(f"FROM scratch\nADD {tar.name} /\nRUN {command}\n")
        build = ["docker", "buildx", "build", "--quiet", "--provenance=false", "--network=host", f"--file={file}"]
        env = os.environ | {"DOCKER_HOST": self.places.url}
        subprocess.run([*build, "--tag=slipway-test/base:1", str(tar.parent)], env=env, check=True)
        return "slipway-test/base:1"

    def end(self) -> None:
        engine.end_daemon(self.places, _quiet)
        engine.remove(self.places, _quiet)

    def specification(self) -> dict[str, Any]:
        """As `nvidia-ctk cdi generate` writes it: each GPU by index and by UUID, and all of them."""
        numbers = {str(n): [n] for n in range(NUMBER)} | {uuid: [n] for n, uuid in enumerate(UUIDS)}
        devices = [{"name": n, "containerEdits": self._edits(of)} for n, of in numbers.items()]
        devices.append({"name": "all", "containerEdits": self._edits(list(range(NUMBER)))})
        program = {"hostPath": str(self.folder / "toolkit" / "nvidia-smi"), "containerPath": "/usr/bin/nvidia-smi"}
        edits = {"mounts": [program | {"options": ["ro", "bind"]}]}
        return {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "containerEdits": edits, "devices": devices}

    def _edits(self, numbers: list[int]) -> dict[str, Any]:
        nodes = [{"path": f"/dev/nvidia{n}", "type": "c", "major": 1, "minor": 3} for n in numbers]
        files = [self.folder / "toolkit" / "nvidia" / str(n) for n in numbers]
        mounts = [{"hostPath": str(f), "containerPath": f"/nvidia/{f.name}", "options": ["ro", "bind"]} for f in files]
        return {"deviceNodes": nodes, "mounts": mounts}


def _quiet(_: str) -> None:
    """Nobody reads what starting and ending says."""

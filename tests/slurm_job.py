"""Jobs of Slurm without Slurm: its commands as programs that write down what they are told; a run's batch script."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from helpers import HERE, HOST, IMAGE, REPO, SpecOf, output_of, seen_of

from launcher.catalog.profiles import SlurmProfile
from launcher.core.plan import ImageInfo, Plan, Probed
from launcher.engines import slurm
from launcher.planning.planner import make_plan

PATIENCE = 30  # seconds until a test that waits in vain fails
RUN_ID = "20260101T000000Z-sft.automodel-abcdef"
# All that batch.sh, and what stands in for Slurm, find beside Slurm's commands.
TOOLS = ("bash", "cat", "date", "env", "grep", "ln", "mkdir", "od", "rm", "sed", "sleep", "touch", "tr", "uname")
COMMANDS = ("sbatch", "scontrol", "scancel", "squeue", "sacct", "srun")
PROFILE = SlurmProfile(schema=1, name="site", file="/project/slipway.d/profiles/site.yaml")
# What a step leaves that ran to its end on every node.
STEP = 'for ((n = 0; n < NODES; n++)); do mkdir -p "container/$n"; echo {} >"container/$n/status.json"; done'
# Slurm ends the script of a job that it puts back.
REQUEUES = 'case "$1 $2" in requeue*) kill -KILL $PPID ;; esac'


@dataclass(frozen=True)
class Call:
    """One call of a command."""

    command: str
    words: list[str]
    env: dict[str, str]
    cwd: str

    def option(self, name: str) -> str:
        """The value of the only --name=VALUE."""
        (found,) = (w for w in self.words if w.startswith(f"--{name}="))
        return found.partition("=")[2]


class Commands:
    """Slurm's commands, in a folder for PATH that holds no other Slurm's, and what they were told."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir(parents=True)
        for name in TOOLS:
            (self.bin / name).symlink_to(str(shutil.which(name)))
        for name in COMMANDS:
            words = [str(HERE / "standins" / "slurm.py"), str(folder), name]
            text = f"import runpy, sys\nsys.argv[:1] = {words!r}\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
            (self.bin / name).write_text(f"#!{sys.executable} -IS\n{text}")
            (self.bin / name).chmod(0o755)

    def does(self, command: str, script: str) -> None:
        """What a command does from now on, in bash."""
        (self.folder / f"{command}.sh").write_text(script + "\n")

    def calls(self, command: str) -> list[Call]:
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.is_file() else []
        return [call for call in (Call(*json.loads(line)) for line in lines) if call.command == command]


class Job(Commands):
    """A run directory as submit leaves it, and its batch script run as Slurm would, up to srun."""

    def __init__(self, folder: Path, spec_of: SpecOf) -> None:
        super().__init__(folder / "slurm")
        self.root, self.spec_of, self.image = folder, spec_of, folder / "image.sqsh"
        self.image.touch()
        self.path = folder / "runs" / RUN_ID
        self.started: list[subprocess.Popen[bytes]] = []
        self.env = {
            "PATH": str(self.bin),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "n[1-2]",
        }
        self.does("squeue", "echo '7.batch batch'; [[ ! -e running ]] || echo '7.3 slipway'")
        self.job_is("JobState=RUNNING Restarts=0 EndTime=2026-01-01T00:20:00 ")
        self.step(STEP)

    def plan(self, profile: dict[str, Any] | None = None, output: str = "", **spec: Any) -> Plan:
        """Of a job whose folders are this test's own."""
        changed = msgspec.structs.replace(PROFILE, **(profile or {}))
        return make_plan(self.spec_of(**{"profile": changed, "nodes": 2} | spec), self.seen(output), {})

    def seen(self, output: str = "") -> Probed:
        host = msgspec.structs.replace(HOST, hf_home=str(self.root / "hf"), runs=str(self.path.parent))
        image = ImageInfo(id=IMAGE, source=str(self.image), recorded=1)
        return seen_of(host=host, image=image, output=output_of(path=output or str(self.root / "out")))

    def write(self, plan: Plan | None = None) -> None:
        """script.sh and what it needs beside itself."""
        (self.path / "slipway").mkdir(parents=True)
        (self.path / "logs").mkdir()
        for name in slurm.FILES:
            (self.path / "slipway" / name).symlink_to(REPO / "entrypoints" / name)
        (self.path / "slipway" / "plan.json").write_text("{}")
        (self.path / "script.sh").write_text(slurm.render(plan or self.plan())["script"])

    def step(self, script: str) -> None:
        """What srun does, in the run directory, where NODES is the number of nodes."""
        own = "--nodes=*) NODES=${w#*=} ;; --job-name=leftovers) exit ;;"
        self.does("srun", f"for w; do case $w in {own} esac; done\n{script}")

    def job_is(self, facts: str, then: str = "") -> None:
        """What scontrol tells of the job; `then`: what else it does."""
        self.does(
            "scontrol",
            f"""case "$1 $2" in
            "show hostnames") printf '%s\\n' n1 n2 ;;
            "show node") echo "NodeName=$3 Arch=x86_64 NodeAddr=10.0.0.${{3#n}} NodeHostName=$3" ;;
            "show job") echo "   JobState=? {facts}" ;;
            esac
            {then}""",
        )

    def start(self, cwd: Path | None = None, **env: str) -> subprocess.Popen[bytes]:
        """Starts script.sh; its stderr is in `err`."""
        with (self.root / "err").open("wb") as err:
            process = subprocess.Popen(
                [self.bin / "bash", self.path / "script.sh"], cwd=cwd or self.path, env=self.env | env, stderr=err,
                stdout=err, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, cwd: Path | None = None, **env: str) -> int:
        return self.start(cwd, **env).wait(PATIENCE)

    def end(self) -> None:
        """Nothing is left of a test, whose script may have been killed."""
        for process in self.started:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            process.wait()

    @property
    def err(self) -> str:
        return (self.root / "err").read_text()

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """The lines of attempts.jsonl, each of which has to be JSON."""
        file = self.path / "attempts.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []

    @property
    def srun(self) -> Call:
        """The only call of srun."""
        (call,) = self.calls("srun")
        return call

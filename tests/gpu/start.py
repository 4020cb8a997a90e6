"""A step on this machine, as a container would run it: the launcher's plan as files, and the rendered entrypoint.

What differs from a launch: no engine and no image are found, which are the only two errors that a plan may have here;
and root.sh puts the plan's mounts in place, not an engine.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu import machine

from images.building import render
from launcher.core.plan import RUN_DIR, RUN_ID
from launcher.planning import preparation, run_files
from slipway.project import Root

LIMIT = 240  # seconds that a run may take before it is told to stop
ENTRY = "/run/entry.json"  # in place of /etc/slipway/entry.json: /etc is the machine's
INHERITED = re.compile(r"LD_LIBRARY_PATH|(CUDA|NVIDIA|TRITON)_\w+")
STEP_LINE = re.compile(r"step (\d+)/(\d+) \| epoch ")
ABSENT = ("enroot (from ", "image of ")  # how the findings begin that say that there is neither engine nor image


class Failed(Exception):
    """A part of the check that does not hold: what was expected and what was found."""


@dataclass
class Run:
    """A run that has ended. `told`: the launcher's notes and findings; `log`: what entrypoint and step have said."""

    folder: Path
    output: Path
    told: list[str]
    code: int = -1
    log: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.log)

    def json(self, name: str) -> Any:
        return json.loads((self.folder / "container" / name).read_text())

    def steps(self) -> list[tuple[int, str]]:
        """Number and line of every step."""
        return [(int(m[1]), line) for line in self.log if (m := STEP_LINE.search(line))]


React = Callable[[str, Run, "subprocess.Popen[str]"], None]


def prepared(root: Root, step: str, words: tuple[str, ...], **options: Any) -> run_files.Prepared:
    """The launch, planned. Raises Failed where the launcher would refuse it on a machine with an engine, too."""
    asked = preparation.Options(step, words, profile=machine.PROFILE, runs_dir=str(root.path / "runs"), **options)
    found = preparation.prepare(root, asked)
    wrong = [f for f in found.findings if f.severity == "error" and not f.where.startswith(ABSENT)]
    if wrong:
        raise Failed("; ".join(f"refused: {f.where}: {f.what}" for f in wrong))
    return found


def start(root: Root, name: str, step: str, words: tuple[str, ...], react: React | None = None, **options: Any) -> Run:
    """Runs a step to its end. `react`: gets every line when it is there. Prints what fails, with the end of its log."""
    found = prepared(root, step, words, **options)
    plan, folder = found.plan, root.path / "runs" / name
    folder.mkdir(parents=True)
    run_files.write_run_files(found, folder)
    entry = machine.entry_of(root, plan.library)
    (folder / "entry.json").write_text(render.entry_json(entry))

    def here(text: str) -> str:
        return text.replace(RUN_DIR, str(folder)).replace(RUN_ID, name)

    mounts = [("--ro" if m.readonly else "--rw", here(m.source), m.target) for m in plan.mounts]
    for mode, source, _ in mounts:
        if mode == "--rw":
            Path(source).mkdir(parents=True, exist_ok=True)
    mounts.append(("--ro", str(folder / "entry.json"), ENTRY))
    path = f"{Path(render.main_environment(entry).python).parent}:{render.SYSTEM_PATH}"
    env = {n: v for n, v in os.environ.items() if INHERITED.fullmatch(n)}
    env |= {"PATH": path, "HOME": "/", "SLIPWAY_ENTRY_FILE": ENTRY} | render.image_env(entry)
    env |= {n: here(v.value) for n, v in plan.env.items()}
    command = ["bash", str(Path(__file__).with_name("root.sh")), *(w for m in mounts for w in m), "--", *plan.command]
    told = [*found.notes, *(f"{f.where}: {f.what}" for f in found.findings)]
    run = Run(folder, Path(here(plan.output)), told)
    follow(command, env, run, react)
    return run


def follow(command: list[str], env: dict[str, str], run: Run, react: React | None) -> None:
    """Starts the command and returns when it has ended; its lines go into the run, and into step.log."""
    with (
        subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process,
        (run.folder / "logs" / "step.log").open("w") as log,
    ):
        timer = threading.Timer(LIMIT, process.send_signal, (signal.SIGTERM,))
        timer.start()
        for line in process.stdout or ():
            run.log.append(line)
            log.write(line)
            log.flush()
            if react:
                react(line, run, process)
        run.code = process.wait()
        timer.cancel()


def at_step(number: int, act: Callable[[Run, subprocess.Popen[str]], None]) -> React:
    """Acts once, when the line of this step is there."""

    def react(line: str, run: Run, process: subprocess.Popen[str]) -> None:
        match = STEP_LINE.search(line)
        if match and int(match[1]) == number:
            act(run, process)

    return react


def tell(_: Run, process: subprocess.Popen[str]) -> None:
    """TERM to the entrypoint, as an engine stops a container."""
    process.send_signal(signal.SIGTERM)


def kill_step(run: Run, _: subprocess.Popen[str]) -> None:
    """Ends the step where it is: what is measured is known, and its checkpoint would only take time."""
    for file in (run.folder / "container" / "0" / "ranks").glob("*.pid"):
        os.kill(int(file.read_text()), signal.SIGKILL)


def tensors(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Name, type and bytes of every tensor in a folder of safetensors."""
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as f:
            header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
            begin = f.tell()
            for name, said in header.items():
                if name != "__metadata__":
                    first, last = said["data_offsets"]
                    f.seek(begin + first)
                    yield name, said["dtype"], f.read(last - first) if last - first <= 1024 else b""

"""What people run themselves where a step would run: a command in a library's image, or a shell. Pure.

Both are planned as every launch is (preparation.py): same image, mounts, user, variables, secrets, GPUs and checks.
What is another way is the plan's command, so no engine knows of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from launcher.catalog import profiles
from launcher.catalog.definitions import Command, Graceful, Output, Shape, Step
from launcher.catalog.profiles import ExtraMount, Profile, SlurmProfile
from launcher.core.plan import RUN_DIR, Metrics, Mount, Plan, Variable
from slipway.errors import Exit, SlipwayError


@dataclass(frozen=True)
class ByHand:
    """What of a launch is its user's own. `library`: in whose image, where there is no step; `mounts`: of --mount."""

    library: str = ""
    command: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    interactive: bool = False

    @property
    def programs(self) -> list[str]:
        """What the container runs beside the step's own program."""
        return [SHELL] if self.interactive else []


COMMAND, SHELL = "run_command.py", "run_shell.py"
OUTPUT, STALL = "/output", "SLIPWAY_STALL_SECONDS"
TOLD = Graceful(signal="TERM", to="group", seconds=10)


def command_step(library: str) -> Step:
    """The step that a command is: of no configuration, inputs or checkpoints."""
    return Step(
        schema=1, id=f"exec/{library}", title=f"a command in the image of {library}", library=library,
        launcher="python", shape=Shape(nodes=1, gpus=0), inputs={}, parameters={}, config_roots=[], owned_keys=[],
        output=Output(type="", key="", help="where it writes"),  # type: ignore[arg-type] # of no type that steps take
        graceful=TOLD, commands=[Command(program=COMMAND)], base=[], folder=f"launch exec {library}",
    )  # fmt: skip


def mounts(words: Sequence[str]) -> list[ExtraMount]:
    """`--mount DIR[:TARGET][:ro]`, at its own path where none is named. Raises SlipwayError 64 or 66."""
    found = []
    for word in words:
        where, (source, *rest) = f"--mount {word}", word.split(":")
        readonly = rest[-1:] == ["ro"]
        rest = rest[:-1] if rest[-1:] in (["ro"], ["rw"]) else rest
        path = Path(source).expanduser().absolute()
        if len(rest) > 1 or not source:
            raise SlipwayError(Exit.WORDS, "expected DIR, DIR:TARGET or DIR:TARGET:ro", where=where)
        if not path.exists():
            raise SlipwayError(Exit.NO_INPUT, f"there is nothing at {path}", where=where)
        mount = ExtraMount(source=str(path), target=rest[0] if rest else str(path), readonly=readonly)
        if wrong := profiles.mount_fault(mount):
            raise SlipwayError(Exit.WORDS, wrong, where=where, remedy="--mount DIR:TARGET, with a folder of its own")
        found.append(mount)
    return found


def planned(plan: Plan, asked: ByHand) -> Plan:
    """The plan of a launch, with what its user runs in place of the step; the same plan where that is the step.

    A command starts in the folder of the first --mount, else in the output.
    """
    if asked.command:
        folders = [mount.target for mount in mounts(asked.mounts) if Path(mount.source).is_dir()]
        plan = msgspec.structs.replace(plan, command=[*plan.command, *[*folders, OUTPUT][:1], *asked.command])
    elif not asked.interactive:
        return plan
    env = {name: variable for name, variable in plan.env.items() if name != STALL}  # who types is no stall
    plan = msgspec.structs.replace(plan, env=env)
    return as_shell(plan) if asked.interactive else plan


def as_shell(plan: Plan) -> Plan:
    """One process, which waits while its user has a shell beside it; the step is what that can start by hand."""
    name = f"shell/{plan.step.removeprefix('shell/').removeprefix('exec/')}"
    step = [word for word in plan.command[3:] if word != f"/slipway/steps/{SHELL}"]
    step = [] if step[:1] == [f"/slipway/steps/{COMMAND}"] else step
    ours = {
        "SLIPWAY_LAUNCHER": "ray" if plan.launcher == "ray" else "python",
        "SLIPWAY_PROCS": "1",
        "SLIPWAY_SHELL_PROCS": "1" if plan.launcher == "ray" else str(plan.shape.procs),
        "SLIPWAY_STEP": name,
        "SLIPWAY_STOP_SECONDS": str(TOLD.seconds),
        "SLIPWAY_STOP_SIGNAL": TOLD.signal,
        "SLIPWAY_STOP_TO": TOLD.to,
    }
    env = plan.env | {n: Variable(value=value, by="launcher") for n, value in ours.items()}
    return msgspec.structs.replace(
        plan,
        step=name,
        command=[*plan.command[:3], f"/slipway/steps/{SHELL}", *step],
        env=dict(sorted(env.items())),
        graceful=TOLD,
        metrics=Metrics(),
        makes=None,
        profile=_once(plan.profile),
    )


def _once(profile: Profile) -> Profile:
    """Nobody sits before a shell that comes back from the queue."""
    return msgspec.structs.replace(profile, attempts=1) if isinstance(profile, SlurmProfile) else profile


def of_run(plan: Plan, directory: str, files: Mapping[str, str]) -> Plan:
    """The plan of a run, as a shell: what that run has written is at /output, read-only.

    `files`: of its slipway/ folder, with the shell's own -> sha256.
    """
    made = Mount(source=plan.output.replace(RUN_DIR, directory), target=OUTPUT, readonly=True)
    others = [made if mount.target == OUTPUT else mount for mount in plan.mounts]
    shell = planned(plan, ByHand(interactive=True))
    return msgspec.structs.replace(
        shell, mounts=others, output=f"{RUN_DIR}/output", resume=False, needs=[], files=dict(files)
    )  # fmt: skip

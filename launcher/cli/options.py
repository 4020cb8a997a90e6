"""What several commands share: options, the folder of runs, what is said of a plan."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.console import say
from slipway.errors import Exit, SlipwayError, message
from slipway.project import find_root

if TYPE_CHECKING:
    from launcher.records.run_directory import Run

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

runs_dir: Decorator = click.option("--runs-dir", metavar="DIR", help="Where run directories are.")
of_profile: Decorator = click.option("--profile", metavar="NAME", help="Only where this profile's runs are.")
detach: Decorator = click.option(
    "--detach", is_flag=True, help="Submit and return: what Slurm always does without --follow."
)
follow: Decorator = click.option(
    "--follow", is_flag=True, help="Stay with a Slurm job until it ends; Ctrl-C leaves it running."
)
after: Decorator = click.option(
    "--after", multiple=True, metavar="RUN", help="Start when RUN has ended well, and not otherwise; repeatable."
)
convert: Decorator = click.option(
    "--convert", is_flag=True, help="Where an input is of another type: run the step that converts it first."
)
dry_run: Decorator = click.option("--dry-run", is_flag=True, help="Print what would be submitted; create nothing.")
as_json: Decorator = click.option("--json", "as_json", is_flag=True, help="As JSON.")
# What a plan is made of besides its words: fields of preparation.Options.
_PLANNING: dict[str, Decorator] = {
    "profile": click.option(
        "--profile", envvar="SLIPWAY_PROFILE", default="docker", show_default=True, help="Where to run."
    ),
    "release": click.option("--release", metavar="R", help="The library's release; the lock's default otherwise."),
    "flavour": click.option(
        "--flavour", type=click.Choice(["cpu", "cuda"]), help="Image flavour; by the engine's GPUs otherwise."
    ),
    "overlays": click.option(
        "-c", "overlays", multiple=True, metavar="NAME|FILE", help="A configuration over the default; repeatable."
    ),
    "nodes": click.option("--nodes", type=click.IntRange(1), help="Machines."),
    "gpus": click.option("--gpus", type=click.IntRange(0), help="GPUs per machine."),
    "gpu_ids": click.option("--gpu-ids", metavar="ID,…", help="Docker: these GPUs, by index, GPU:INSTANCE or UUID."),
    "procs": click.option("--procs", type=click.IntRange(1), help="Processes per machine (cpu flavour; 1 otherwise)."),
    "env": click.option(
        "--env", multiple=True, metavar="NAME[=VALUE]", help="A variable for the container; repeatable."
    ),
    "secret": click.option(
        "--secret",
        multiple=True,
        metavar="NAME[=file:PATH]",
        help="A secret for the step: this shell's variable, or a file; never written into a plan; repeatable.",
    ),
    "code": click.option(
        "--code", multiple=True, metavar="NAME=DIR[@REV]", help="Your tree over the image's NAME; repeatable."
    ),
    "allow_dirty": click.option(
        "--allow-dirty", is_flag=True, help="With --code: pack changes that are not committed; recorded."
    ),
    "megatron_cache": click.option(
        "--megatron-cache", metavar="DIR", help="NRL_MEGATRON_CHECKPOINT_DIR; the profile's or usual one otherwise."
    ),
    "resume": click.option("--resume", is_flag=True, help="Continue the run whose output is in output=."),
    "expect": click.option(
        "--expect",
        multiple=True,
        metavar="CONDITION",
        help="What the run has to come to, or it is no success (76): loss<2.0, learns; repeatable.",
    ),
    "allow_drift": click.option(
        "--allow-drift", is_flag=True, help="Accept an image that is not what the lock says; recorded."
    ),
    "runs_dir": runs_dir,
}
# Of a command of one's own, which no step's words and settings are for.
_EXECUTING = ("profile", "release", "flavour", "gpus", "gpu_ids", "env", "secret", "allow_drift", "runs_dir")
mount: Decorator = click.option(
    "--mount", "mounts", multiple=True, metavar="DIR[:TARGET][:ro]",
    help="A folder for the container, at its own path unless TARGET is named; repeatable.",
)  # fmt: skip


def labels(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a run is called."""
    called = click.option("--name", default="", metavar="NAME", help="Call the run so: commands take it for its id.")
    tagged = click.option("--tag", "tags", multiple=True, metavar="KEY[=VALUE]", help="A tag of the run; repeatable.")
    return called(tagged(command))


def removing(command: Callable[..., Any]) -> Callable[..., Any]:
    """How runs are removed."""
    dry = click.option("--dry-run", is_flag=True, help="Say what would go; remove nothing.")
    outputs = click.option("--checkpoints", is_flag=True, help="Their outputs, too: those that the run alone has made.")
    force = click.option("--force", is_flag=True, help="Also what another run has gone on from, or is made of.")
    return dry(outputs(force(command)))


def executing(command: Callable[..., Any]) -> Callable[..., Any]:
    """What the plan of a command of one's own is made of."""
    return _decorated(command, [_PLANNING[name] for name in _EXECUTING[:-1]] + [mount, runs_dir])


def planning(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a plan is made of: STEP, WORDS and the options that are fields of preparation.Options."""
    return planning_of("STEP")(command)


def planning_of(metavar: str) -> Decorator:
    """The same; `metavar`: what stands in STEP's place."""

    def planned(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def known(*args: Any, **given: Any) -> Any:
            given["words"] = _up_to_date(given["words"], given["runs_dir"])
            return command(*args, **given)

        arguments = [click.argument("step", metavar=metavar), click.argument("words", nargs=-1)]
        return _decorated(known, [*arguments, *_PLANNING.values()])

    return planned


def _decorated(command: Callable[..., Any], by: list[Decorator]) -> Callable[..., Any]:
    """With its parameters in that order."""
    return functools.reduce(lambda made, decorate: decorate(made), reversed(by), command)


def _up_to_date(words: tuple[str, ...], runs: str | None) -> tuple[str, ...]:
    """`input=run:RUN` with the run's directory for its name; a run that has ended is collected, if nobody has."""
    found = []
    for word in words:
        name, _, value = word.partition("=")
        if value.startswith("run:"):
            from launcher.runs import lifecycle

            run = find_run(value.removeprefix("run:"), runs)
            lifecycle.refresh(run)
            word = f"{name}=run:{run.path}"
        found.append(word)
    return tuple(found)


def await_runs(root: Any, asked: Any, looks: Any, names: tuple[str, ...], dry_run: bool = False) -> list[str]:
    """Returns when the runs of --after have ended well, or with the jobs that Slurm has to wait for.

    What is wrong with the words is said before anybody waits. Raises SlipwayError 75 or 78 where one has ended
    otherwise.
    """
    if not names:
        return []
    from launcher.planning import preparation
    from launcher.runs import waiting

    kind = preparation.understood(root, asked, looks)
    return waiting.for_success([find_run(name, asked.runs_dir) for name in names], kind, dry_run)


def converted(root: Any, asked: Any, prepared: Any, looks: Any) -> Any:
    """What was asked for, with what steps make of inputs of another type, whether that is there or not."""
    from launcher.prerequisites import requirements

    anew = requirements.converted(root, asked, prepared, looks)
    for need, artifact in anew.needs.values():
        if not artifact.expected:
            say(f"{need.input}: {need.by} has made {need.place} before")
    return anew


def runs_folders(given: str | None, profile: str | None) -> list[Path]:
    """Where runs are: see run_inputs.folders."""
    from launcher.planning import run_inputs

    return run_inputs.folders(find_root(), given, profile)


def find_run(name: str, given: str | None, profile: str | None = None) -> Run:
    """The run of that name in `runs_folders`. Raises SlipwayError as run_directory.find does."""
    from launcher.planning import run_inputs

    return run_inputs.find(find_root(), name, given, profile)


def end_lost(run_id: str, profile: str | None) -> bool:
    """Ends the run of an id whose directory is gone, where an engine of the profiles knows it; whether one did."""
    from launcher import engines
    from launcher.catalog import profiles
    from launcher.planning import probe
    from launcher.records import run_directory
    from launcher.runs import ending

    root = find_root()
    asked = set()
    for name in [profile] if profile else profiles.profile_files(root):
        with contextlib.suppress(SlipwayError):
            found = profiles.find_profile(root, name)
            if engines.of(found.kind).BY_NAME:
                seen = probe.engine(root, found)
                asked |= set() if seen.error else {(seen.kind, seen.address)}
    run = run_directory.Run(Path(os.devnull, run_id))  # nothing can be there
    return any(ending.end_lost(run, *engine) for engine in sorted(asked))


def report(prepared: Any) -> int:
    """Prints notes and findings; returns the exit code of the first error."""
    from launcher.planning.checks import preflight

    for note in prepared.notes:
        say(message(note))
    for finding in prepared.findings:
        say(str(finding))
    error = preflight.first_error(prepared.findings)
    return error.code if error else Exit.OK


def report_needs(root: Any, prepared: Any, looks: Any = None, quiet: bool = True) -> int:
    """Says what a launch would make first; its requests, too, unless `quiet`. The first error's code."""
    from launcher.planning import run_files
    from launcher.prerequisites import requirements

    found: list[Any] = []
    if code := _report_needs(partial(requirements.prepare, root, looks=looks), prepared, found):
        return code
    for first in [] if quiet else found:
        click.echo(run_files.request_as(first, False), nl=False)
    return Exit.OK


def _report_needs(plan: Callable[..., Any], prepared: Any, found: list[Any]) -> int:
    """`found`: those that come first, each behind what it needs itself."""
    from launcher.prerequisites import requirements

    for need in requirements.missing(prepared.plan):
        if need.place in [first.plan.output for first in found]:
            continue
        say(f"{need.input}: first {need.by}, into {need.place}")
        first = plan(prepared, need)
        if code := report(first) or _report_needs(plan, first, found):
            return code
        found.append(first)
        if not prepared.engine.ATTACHED:
            say(f"{prepared.plan.step} waits for it: sbatch gets --dependency=afterany:JOB, the job of {need.by}")
    return Exit.OK

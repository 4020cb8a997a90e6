"""The commands by which people run something of their own where a step would run: `launch exec`, `launch shell`."""

from __future__ import annotations

import dataclasses
import sys
from functools import partial
from typing import Any

import click

from launcher.cli import launching, options
from slipway.errors import Exit, SlipwayError, nearest
from slipway.project import find_root


@click.command("exec")
@click.argument("library")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND…")
@options.executing
@click.option("--output", metavar="DIR", help="What is /output inside; a folder of the run otherwise.")
@options.labels
@options.after
@options.detach
@options.follow
@options.dry_run
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: the request as JSON.")
def execute(
    library: str,
    command: tuple[str, ...],
    mounts: tuple[str, ...],
    output: str | None,
    name: str,
    tags: tuple[str, ...],
    after: tuple[str, ...],
    detach: bool,
    follow: bool,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Run COMMAND in the pinned image of LIBRARY: a run as any other, with checks, record, log, secrets and GPUs.

    \b
    launch exec automodel --mount ~/data -- python count.py train.jsonl
    launch exec nemo-rl --profile site --gpus 1 --secret HF_TOKEN -- nvidia-smi

    It starts in the first --mount, else in /output, and its exit code is the run's.
    """
    from images.locking import lock as locks
    from launcher.planning import preparation
    from launcher.planning.by_hand import ByHand
    from launcher.planning.probe import Looks
    from launcher.records import labels as labelling

    launching.refuse_both(detach, follow)
    root, looks, labels = find_root(), Looks(), labelling.said(name, tags)
    if library not in (known := locks.load_lock(root).libraries):
        raise SlipwayError(Exit.WORDS, f"unknown library {library!r}", remedy=nearest(library, known))
    hand = ByHand(library=library, command=command, mounts=mounts)
    words = (f"output={output}",) if output else ()
    asked = preparation.Options(f"exec/{library}", words, argv=tuple(sys.argv[1:]), by_hand=hand, **given)
    jobs = options.await_runs(root, asked, looks, after, dry_run)

    def planned() -> Any:
        return dataclasses.replace(preparation.prepare(root, asked, looks), labels=labels)

    launch = launching.Launch(root, looks, planned, detach, follow, tuple(jobs))
    sys.exit(launch.report(planned(), dry_run, as_json))


@click.command()
@options.planning_of("STEP|RUN|LIBRARY")
@options.mount
@options.dry_run
def shell(step: str, words: tuple[str, ...], mounts: tuple[str, ...], dry_run: bool, **given: Any) -> None:
    """Open a shell where STEP with WORDS would run: same image, mounts, user, variables, secrets, GPUs and checks.

    \b
    launch shell sft/automodel train=chats.jsonl model=llama/
    launch shell 5c7673
    launch shell automodel --mount ~/data

    Of a RUN that has ended it is that run's own plan, with its output read-only. It says how the step is started by
    hand. Its run ends with the shell, whose exit code is that of the command; Ctrl-D leaves it.
    """
    from images.locking import lock as locks
    from launcher.catalog import definitions

    root = find_root()
    if definitions.is_step(root, step):
        library = ""
    elif step in locks.load_lock(root).libraries:
        library = step
    else:
        sys.exit(_of_run(root, step, words, mounts, given, dry_run))
    sys.exit(_of_step(root, step, library, words, mounts, given, dry_run))


def _of_step(root: Any, step: str, library: str, words: Any, mounts: Any, given: dict[str, Any], dry_run: bool) -> int:
    from launcher.planning import preparation
    from launcher.planning.by_hand import ByHand
    from launcher.planning.probe import Looks

    if (given["nodes"] or 1) > 1:
        raise SlipwayError(Exit.WORDS, "a shell is on one node", where="--nodes", remedy="leave it out")
    looks, hand = Looks(), ByHand(library=library, mounts=mounts, interactive=True)
    name = f"exec/{library}" if library else step
    given |= {"nodes": 1, "words": words, "by_hand": hand, "argv": tuple(sys.argv[1:])}
    asked = preparation.Options(name, **given)

    def planned() -> Any:
        prepared = preparation.prepare(root, asked, looks)
        return prepared if dry_run else preparation.fetched(root, asked, prepared, looks)

    return launching.Launch(root, looks, planned, interactive=True).report(planned(), dry_run)


def _of_run(root: Any, name: str, words: Any, mounts: Any, given: dict[str, Any], dry_run: bool) -> int:
    from launcher.planning import by_hand, programs, run_files
    from launcher.planning.probe import Looks
    from launcher.runs import lifecycle
    from slipway.files import sha256_file

    said = click.get_current_context().get_parameter_source
    added = [p for p in given if p != "runs_dir" and said(p) == click.core.ParameterSource.COMMANDLINE]
    if words or mounts or added:
        what = "the shell of a run is as that run was: it takes no words or options"
        where = next(iter([*words, *(f"--mount {m}" for m in mounts), *(f"--{a.replace('_', '-')}" for a in added)]))
        raise SlipwayError(Exit.WORDS, what, where=where, remedy="launch shell STEP …")
    run = options.find_run(name, given["runs_dir"])
    record, state = lifecycle.refresh(run)
    if not run.ours:
        raise SlipwayError(Exit.NOT_PERMITTED, "is another user's run", where=str(run.path))
    if record is None or record.outcome is None:
        code = Exit.NO_INPUT if record is None else Exit.TRY_AGAIN
        remedy = "" if record is None else f"launch wait {run.id}, or launch cancel {run.id}"
        raise SlipwayError(code, f"run {run.id} is no run that has ended: {state}", remedy=remedy)
    argv = tuple(sys.argv[1:])
    found = run_files.from_directory(root, run.path, given["runs_dir"], argv, interactive=True)
    files = programs.with_imports(root, [by_hand.SHELL]) | found.files  # what the run had counts
    plan = by_hand.of_run(found.plan, str(run.path), {name: sha256_file(path) for name, path in files.items()})
    prepared = dataclasses.replace(found, plan=plan, request=found.engine.render(plan), files=files, asked=None)
    return launching.Launch(root, Looks(), partial(_taken, prepared), interactive=True).report(prepared, dry_run)


def _taken(prepared: Any) -> Any:
    """A recorded plan names its GPUs, and is not planned anew."""
    what = f"another run has GPUs {', '.join(prepared.plan.gpus.ids)}, which this run had"
    raise SlipwayError(Exit.TRY_AGAIN, what, remedy="wait for it; or launch shell STEP …, which takes others")

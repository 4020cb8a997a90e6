"""`launch rehearse`: a launch on a small scale, here, before one of its size waits in a queue."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from launcher.cli import options
from slipway.console import say
from slipway.errors import Exit, message
from slipway.project import find_root

_ROWS = re.compile(r"slipway: (\w+): (\d+) of (\d+) rows")


@click.command()
@options.planning
@options.convert
@options.as_json
def rehearse(as_json: bool, convert: bool, words: tuple[str, ...], **given: Any) -> None:
    """Try STEP with WORDS here: every row through the library's own loader, then two steps of a small model.

    \b
    launch rehearse sft/automodel train=chats.jsonl model=llama/ seq_length=4096

    It runs in the library's cpu image on a Docker engine, with your configuration, tokenizer, chat template and data,
    and shows what is learned of the first rows. Takes what `run` takes; output= is not touched. 65: it found faults.
    """
    from launcher.catalog import definitions
    from launcher.planning import preparation, rehearsal
    from launcher.planning.probe import Looks

    root = find_root()
    rehearsal.rehearsed(definitions.find_step(root, given["step"]))  # before anything is looked at, or fetched
    asked = preparation.Options(words=words, argv=tuple(sys.argv[1:]), **given)
    looks = Looks()
    prepared = preparation.fetched(root, asked, preparation.prepare(root, asked, looks), looks)
    asked = options.converted(root, asked, prepared, looks) if convert else asked
    prepared = preparation.prepare(root, asked, looks) if asked.needs else prepared
    if code := options.report(_without_machine(prepared)):
        say("it would not be submitted, so nothing was rehearsed")
        sys.exit(code)
    sys.exit(rehearsed(root, asked, prepared, looks, partial(click.echo, nl=False), as_json))


def _without_machine(prepared: Any) -> Any:
    """What is prepared, where it runs somewhere else: that its engine or image is not here is no reason to stop."""
    from launcher.planning.checks import preflight

    there = [f for f in prepared.findings if not preflight.of_machine(f)]
    return dataclasses.replace(prepared, findings=there)


def rehearsed(
    root: Any, asked: Any, prepared: Any, looks: Any, tell: Callable[[str], None] = say, as_json: bool = False
) -> int:
    """Rehearses a launch that nothing stops, and tells what was found; the exit code of the first error.

    `asked`: with what it `needs`, where other steps make inputs of it first.
    """
    from launcher.planning import rehearsal as planning
    from launcher.planning.checks import preflight
    from launcher.runs import foreground, rehearsal

    small = _small(root, asked, prepared, looks)
    if wrong := preflight.first_error(small.findings):
        say(f"{wrong}")
        say("it cannot be rehearsed on this machine")
        return int(Exit.UNAVAILABLE) if preflight.of_machine(wrong) else wrong.code
    run, record = foreground.run(small, _progress())
    found = rehearsal.result(record)
    if found is None:
        assert record.outcome is not None  # it was collected
        say(message(f"error: run {run.id}: {record.outcome.word}, {record.outcome.reason}", f"launch logs {run.id}"))
        return record.outcome.exit_code
    found = rehearsal.on_host(found, small.plan.mounts)
    findings = rehearsal.findings(found, f"{small.plan.library} {small.plan.release}")
    differs = planning.differences(prepared.spec, small.spec)
    differs = [*planning.weights(prepared.plan, found.steps.models), *differs] if found.steps else differs
    code = next((f.code for f in findings if f.severity == "error"), int(Exit.OK))
    if as_json:
        tell(_as_json(run.id, code, found, findings, differs))
        return code
    tell(rehearsal.text(found, differs))
    for finding in findings:
        say(str(finding))
    say(f"the log: launch logs {run.id}" if code else "rehearsed: nothing stops it")
    return code


def _small(root: Any, asked: Any, prepared: Any, looks: Any) -> Any:
    """The rehearsal's own launch: on one process of this machine, into an output of its own."""
    from images.locking import lock as locks
    from launcher.catalog import definitions, profiles
    from launcher.planning import preparation, rehearsal

    library = definitions.find_step(root, asked.step).library
    entries = locks.load_lock(root).entries.values()
    same = any((e.library, e.flavour, e.release) == (library, "cpu", asked.release) for e in entries)
    here = profiles.find_profile(root, asked.profile).kind == "docker"
    needs = [need for need, _ in asked.needs.values()]
    made = {need.place for need, artifact in asked.needs.values() if not artifact.expected}
    given = [word for word in asked.words if not word.startswith("output=")]
    words = rehearsal.unconverted(prepared.spec.step, given, needs, made)
    return preparation.prepare(
        root,
        dataclasses.replace(
            asked, words=tuple(words), profile=asked.profile if here else "docker", flavour="cpu",
            release=asked.release if same else None, nodes=1, gpus=None, gpu_ids=None, procs=1, secret=(), code=(),
            resume=False, needs={}, rehearsal=prepared.plan.flavour, expect=(),
        ),
        looks,
    )  # fmt: skip


def _as_json(run: str, code: int, found: Any, findings: list[Any], differs: list[Any]) -> str:
    from slipway import canonical

    told = {"schema": 1, "run": run, "exit_code": code, "data": found.data, "steps": found.steps}
    return canonical.pretty({**told, "findings": findings, "differs": [d._asdict() for d in differs]})


def _progress() -> Callable[[bytes], None]:
    """Takes a log as it comes: what is said of rows becomes a bar where stderr is a terminal, else lines of it."""
    rest = b""
    bars: dict[str, Any] = {}

    def show(piece: bytes) -> None:
        nonlocal rest
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if match := _ROWS.fullmatch(line.decode(errors="replace")):
                name, done, total = match[1], int(match[2]), int(match[3])
                if not sys.stderr.isatty():
                    say(f"{name}: {done} of {total} rows")
                    continue
                if name not in bars:
                    bars[name] = click.progressbar(length=total, file=sys.stderr, label=name).__enter__()
                bars[name].update(done - bars[name].pos)
                if done == total:
                    bars[name].render_finish()

    return show

"""A launch again, by the record of the first: `launch resume` goes on with it, `launch replay` repeats it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.catalog.definitions import Resume
from launcher.core.asked import Asked, Former, Replayed
from launcher.core.plan import RUN_DIR, LaunchSpec, Plan
from launcher.planning.checks import config_values
from launcher.planning.preparation import Options
from launcher.records.run_directory import Record, Run
from slipway.errors import Exit, SlipwayError

TEXT_LIMIT = 4096  # bytes of a file that says how far a checkpoint is


def resumed(run: Run, record: Record, words: tuple[str, ...], **given: Any) -> Options:
    """The same launch, from the last checkpoint in its output; `words` are added, or replace those of the same name.

    `given`: options of preparation.Options. Raises SlipwayError 64 for output=, 65 where the record does not tell.
    """
    if stray := next((word for word in words if word.startswith("output=")), None):
        remedy = "leave it out; for another output: launch --resume, or launch replay"
        raise SlipwayError(Exit.WORDS, f"run {run.id} goes on in its own output", where=stray, remedy=remedy)
    made = output(run, record.plan)
    asked = _asked(record, f"launch --resume {record.plan.step} … output={made}")
    former = Former(run=run.id, directory=str(run.path))
    named = [*_inputs(record.plan, asked), f"output={made}", *asked.words]
    return _again(record.plan, asked, _replaced(named, words), {"resume": True, "resumes": former, **given})


def replayed(record: Record, words: tuple[str, ...], **given: Any) -> Options:
    """The same launch once more, into another output; `words`: inputs that have moved, and output=.

    Raises SlipwayError 64 for other words, 65 where the record does not tell, 66 where an input is not there any more.
    """
    plan = record.plan
    asked = _asked(record, f"launch {plan.step} … with the words of its record")
    if plan.resume:
        before = f"; it went on from run {asked.resumes.run}" if asked.resumes else ""
        what = f"run {record.run} went on from a checkpoint, which a replay does not have{before}"
        raise SlipwayError(Exit.WORDS, what, remedy="replay the run that began it")
    for word in words:
        name = word.partition("=")[0]
        if name not in {*plan.inputs, "output"}:
            remedy = f"say only where inputs are now ({', '.join(plan.inputs)}), and output="
            raise SlipwayError(Exit.WORDS, "a replay is the same launch", where=word, remedy=remedy)
    former = Replayed(run=record.run, directory=record.directory)
    named = _replaced([*_inputs(plan, asked), *asked.words], words)
    _there(plan, named)
    shape = {"gpus": plan.shape.gpus if plan.flavour == "cuda" else None, "procs": plan.shape.procs}
    return _again(plan, asked, named, {**shape, "replays": former, "gpu_ids": "", **given})


def _there(plan: Plan, words: Iterable[str]) -> None:
    """Raises SlipwayError 66 for the first input that is not where it was, with what brings it back."""
    for name, found in plan.inputs.items():
        gone = found.kind in ("file", "folder") and not found.files and not Path(found.path).exists()
        if gone and not found.hub and _input(plan, name) in words:
            what = f"is not there any more ({found.type}, fingerprint {found.fingerprint[:12]})"
            remedy = f"say where it is now: {name}=/new/path"
            raise SlipwayError(Exit.NO_INPUT, what, where=f"{name}={found.path}", remedy=remedy)


def output(run: Run, plan: Plan) -> Path:
    """Where a run's output is, on the host."""
    return Path(plan.output.replace(RUN_DIR, str(run.path)))


def _asked(record: Record, instead: str) -> Asked:
    if by_hand := record.plan.by_hand:
        verb = "launch shell" if by_hand == "shell" else "launch exec"
        raise SlipwayError(
            Exit.WORDS, f"run {record.run} was a {by_hand}, and no step", remedy=f"start another: {verb}"
        )
    if record.asked is None:
        what = "the record does not say what was asked for: it is older, or of a rehearsal or a conversion for a cache"
        raise SlipwayError(Exit.DATA, what, where=f"run {record.run}", remedy=instead)
    return record.asked


def _inputs(plan: Plan, asked: Asked) -> list[str]:
    """The words that give the plan's inputs, those of the hub by their names at their commits."""
    return [_input(plan, name) for name in dict.fromkeys([*asked.inputs, *plan.inputs]) if name in plan.inputs]


def _input(plan: Plan, name: str) -> str:
    return f"{name}={plan.inputs[name].hub or plan.inputs[name].path}"


def _replaced(words: Sequence[str], by: Sequence[str]) -> tuple[str, ...]:
    """In the same places; one that is given twice stays twice, and is refused as in any launch."""
    new, old = ({word.partition("=")[0]: word for word in some} for some in (by, words))
    return tuple((old | new).values()) if len(new) == len(by) else (*words, *by)


def _again(plan: Plan, asked: Asked, words: tuple[str, ...], given: Mapping[str, Any]) -> Options:
    files = {layer["name"]: layer["values"] for layer in plan.config["layers"] if _is_file(layer["name"])}
    own = {name: v.value for name, v in plan.env.items() if v.by == "command line"}
    facts: dict[str, Any] = {
        "step": plan.step,
        "words": words,
        "profile": plan.profile.name,
        "release": plan.release,
        "flavour": plan.flavour,
        "overlays": tuple(asked.overlays),
        "layers": files,
        "nodes": asked.nodes,
        "gpus": asked.gpus,
        "gpu_ids": asked.gpu_ids,
        "procs": asked.procs,
        "env": tuple(f"{name}={value}" for name, value in own.items()),
        "secret": tuple(asked.secrets),
        "code": tuple(asked.code),
        "allow_dirty": asked.allow_dirty,
        "megatron_cache": asked.megatron_cache,
        "allow_drift": plan.allow_drift,
        "expect": tuple(asked.expect),
        "from_run": {name: run for name, run in plan.from_run.items() if _input(plan, name) in words},
    }
    return Options(**(facts | {name: value for name, value in given.items() if value is not None}))


def _is_file(overlay: str) -> bool:
    return overlay.endswith((".yaml", ".yml"))


def reached(folder: Path, resume: Resume) -> int | None:
    """After how many steps the last checkpoint in an output was written; None where it does not say."""
    if not resume.step:
        return None
    named = folder / resume.where  # a link may lead to where it stands in the container, and then glob has no such name
    paths = [named] if os.path.lexists(named) else folder.glob(resume.where)
    found = (re.fullmatch(resume.step, text) for path in paths for text in _said(path))
    steps = [int(match[1]) for match in found if match]
    return max(steps) + 1 - resume.first if steps else None


def _said(path: Path) -> Iterator[str]:
    yield path.name
    try:
        if path.is_symlink():
            yield Path(os.readlink(path)).name  # noqa: PTH115 - it may lead to where it stands in the container
        elif path.is_file() and path.stat().st_size <= TEXT_LIMIT:
            yield path.read_text(errors="replace").strip().rpartition("/")[2]
    except OSError:
        return


def total(spec: LaunchSpec) -> int | None:
    """How many steps the launch takes at most, by the parameter `max_steps`; None where nothing says it."""
    asked = spec.step.parameters.get("max_steps")
    found = config_values.value_of(spec, asked.keys[0]) if asked and asked.keys else None
    return found if type(found) is int and found > 0 else None

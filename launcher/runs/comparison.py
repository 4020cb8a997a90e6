"""`launch compare`: in what runs differ, by their records alone, and how their losses and speed went.

Images, data and engines of runs may be gone. What a record has of a container is bounded here: nobody has checked it.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.core.plan import Plan
from launcher.records import metrics
from launcher.records.metrics import Measured
from launcher.records.run_directory import Record, Run
from launcher.runs import lifecycle
from slipway import canonical, resolver, tables, yamldoc
from slipway.errors import Exit, SlipwayError

MOST_KEYS, DEEPEST, LONGEST = 20_000, 64, 60  # keys of a configuration; its depth; characters of a value for people
SHOWN_STEPS = 10  # at which the losses of all are told
ABSENT = "-"
_KEYED = re.compile(r"(/inputs/\w+)-[0-9a-f]{8}(?![0-9a-f])")  # which is the fingerprint, and told with the inputs
Facts = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """`values`: of each run, in their order; None where it has no such thing."""

    section: str
    key: str
    values: list[Any]


@dataclass(frozen=True)
class Course:
    """How a run's training went; None is not known."""

    steps: int
    first_loss: str
    last_loss: str
    lowest_loss: float | None
    tokens_per_s: float | None
    step_s: float | None
    memory_bytes: int | None


@dataclass(frozen=True)
class Comparison:
    """`same`: the sections in which nothing differs; `losses`: step -> of each run, at steps that all have."""

    runs: list[Record]
    states: list[str]
    differences: list[Difference]
    same: list[str]
    courses: list[Course]
    losses: dict[int, list[str]]


def compare(runs: Sequence[Run]) -> Comparison:
    """Raises SlipwayError 66 for a run that was never submitted, 65 or 77 where a record cannot be read."""
    looked = [_look(run) for run in runs]
    records = [record for record, _ in looked]
    written = all(record.config for record in records)
    facts = [_facts(record, written) for record in records]
    found = {section: list(_differences(section, [f[section] for f in facts])) for section in facts[0]}
    measured = [metrics.everything(run) for run in runs]
    return Comparison(
        runs=records,
        states=[state for _, state in looked],
        differences=list(itertools.chain(*found.values())),
        same=[section for section, differing in found.items() if not differing],
        courses=[_course(m) for m in measured],
        losses=_losses(measured),
    )


def _look(run: Run) -> tuple[Record, str]:
    state = ""
    with contextlib.suppress(SlipwayError):  # its engine may be gone
        _, state = lifecycle.refresh(run)
    record = run.record()
    if record is None:
        raise SlipwayError(Exit.NO_INPUT, "has no record: it was never submitted", where=str(run.path))
    return record, state or "unknown"


def _facts(record: Record, written: bool) -> dict[str, Facts]:
    """All that can differ, by section. `written`: the configuration counts that the container wrote."""
    plan = record.plan
    entry: Facts = {
        "entry": f"{plan.library}/{plan.release}-{plan.flavour}",
        "checksum": plan.entry,
        "driver": plan.driver,
    }
    entry |= {
        f"{environment}: {name}": version
        for environment, of in plan.environments.items()
        for name, version in {"python": of.get("version"), **of.get("packages", {})}.items()
    }
    inputs: Facts = {}
    for name, artifact in plan.inputs.items():
        inputs |= {f"{name}: fingerprint": artifact.fingerprint, f"{name}: type": artifact.type}
        inputs |= {f"{name}: path": artifact.path, f"{name}: bytes": artifact.bytes}
    code: Facts = {n: f"{t.commit}{f' with changes {t.diff}' if t.diff else ''}" for n, t in plan.code.items()}
    code |= {f"{n} of the image": r.get("commit") for n, r in plan.repositories.items()}
    shape = plan.shape
    return {
        "arguments": dict(_arguments(record.argv)),
        "configuration": dict(itertools.islice(_config(record, written), MOST_KEYS)),
        "lock": entry,
        "image": {"id": plan.image, "platform": plan.platform, "left out": ", ".join(plan.left_out)},
        "inputs": inputs,
        "environment": {n: v.value for n, v in plan.env.items()} | {f"secret {n}": "given" for n in plan.secrets},
        "code": code | {"slipway": record.slipway} | {f"file {n}": sha for n, sha in plan.files.items()},
        "machine": {"profile": plan.profile.name, "nodes": shape.nodes, "gpus": shape.gpus, "procs": shape.procs},
    }


def _arguments(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """`name=value` by its name; all other words as they follow each other."""
    words = [word for word in argv if "=" not in word or word.startswith("-")]
    yield "launch", " ".join(words)
    yield from (word.split("=", 1) for word in argv if "=" in word and not word.startswith("-"))  # type: ignore[misc]


def _config(record: Record, written: bool) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values: as the step read them, else as far as they were planned."""
    if written:
        with contextlib.suppress(SlipwayError, RecursionError):
            yield from _flat(yamldoc.parse(record.config, str(record.directory)), "", DEEPEST)
            return
    yield from _flat(_planned(record.plan), "", DEEPEST)


def _planned(plan: Plan) -> Any:
    config = plan.config
    layers = [("", layer["values"]) for layer in config.get("layers", [])]
    assigned = [resolver.Assignment(key, value, "") for key, value in config.get("set", [])]
    base = config.get("base", {}).get("values", {})
    return resolver.plain(resolver.resolve(base, layers, config.get("remove", []), assigned).root)


def _flat(value: Any, key: str, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value and depth:
        for name, below in value.items():
            yield from _flat(below, f"{key}.{name}" if key else str(name), depth - 1)
        return
    text = repr(value) if not isinstance(value, dict | list) else f"{type(value).__name__} of {len(value)}"
    if isinstance(value, list) and all(isinstance(v, str | int | float | None) for v in value[:MOST_KEYS]):
        text = canonical.dumps([str(v) for v in value[:MOST_KEYS]])
    yield key, _KEYED.sub(r"\1", value) if isinstance(value, str) else value if _plain(value) else text


def _plain(value: Any) -> bool:
    return isinstance(value, int | None) or (isinstance(value, float) and value - value == 0)


def _differences(section: str, facts: Sequence[Facts]) -> Iterator[Difference]:
    for key in dict.fromkeys(itertools.chain(*facts)):
        values = [of.get(key) for of in facts]
        if any(value != values[0] for value in values):
            yield Difference(section, key, values)


def _course(measured: Sequence[Measured]) -> Course:
    losses = [m for m in measured if m.number("loss")]
    known = [m.loss for m in losses if m.loss is not None]
    return Course(
        steps=measured[-1].step if measured else 0,
        first_loss=losses[0].number("loss") if losses else "",
        last_loss=losses[-1].number("loss") if losses else "",
        lowest_loss=min(known, default=None),
        tokens_per_s=_median(m.tokens_per_s for m in measured),
        step_s=_median(m.step_s for m in measured),
        memory_bytes=max((m.memory_bytes for m in measured if m.memory_bytes is not None), default=None),
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _losses(measured: Sequence[Sequence[Measured]]) -> dict[int, list[str]]:
    """Evenly spaced, the first and the last step that all have among them."""
    each = [{m.step: m.number("loss") for m in of} for of in measured]
    common = sorted(set.intersection(*(set(of) for of in each)))
    count = min(SHOWN_STEPS, len(common))
    chosen = [common[round(n * (len(common) - 1) / max(1, count - 1))] for n in range(count)]
    return {step: [of[step] for of in each] for step in chosen}


def text(found: Comparison) -> str:
    """For people: who is who, what differs by section, what does not, then losses and speed."""
    letters = [chr(ord("A") + n % 26) * (n // 26 + 1) for n in range(len(found.runs))]
    names = [f"{r.run}{f' ({r.name})' if r.name else ''}" for r in found.runs]
    said = tables.columns(zip(letters, names, found.states, strict=True))
    for section, rows in itertools.groupby(found.differences, key=lambda d: d.section):
        said += f"{section}:\n" + tables.columns(((d.key, *map(_said, d.values)) for d in rows), indent="  ")
    said += f"the same: {', '.join(found.same)}\n" if found.same else ""
    if any(course.steps for course in found.courses):
        losses = ((f"loss at {step}", *of) for step, of in found.losses.items())
        said += "training:\n" + tables.columns([("", *letters), *_course_rows(found.courses), *losses], indent="  ")
    return said


def _course_rows(courses: Sequence[Course]) -> Iterator[tuple[str, ...]]:
    yield "steps", *(str(c.steps) for c in courses)
    yield "first loss", *(c.first_loss or ABSENT for c in courses)
    yield "last loss", *(c.last_loss or ABSENT for c in courses)
    yield "lowest loss", *(_number(c.lowest_loss) for c in courses)
    yield "tokens/s", *(_number(c.tokens_per_s) for c in courses)
    yield "seconds a step", *(_number(c.step_s) for c in courses)
    yield "memory, GiB", *(_number(None if c.memory_bytes is None else c.memory_bytes / 2**30) for c in courses)


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.4g}" if value < 10_000 else f"{value:,.0f}"


def _said(value: Any) -> str:
    text = ABSENT if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    if re.fullmatch(r"(sha256:)?[0-9a-f]{40,64}", text):
        return text.removeprefix("sha256:")[:12]
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}…{text[-LONGEST // 2 :]}"


def as_json(found: Comparison) -> str:
    """The same for programs; losses that are no numbers are texts, as people see them."""
    return canonical.pretty(
        {
            "schema": 1,
            "runs": [
                {"run": r.run, "name": r.name, "directory": r.directory, "state": state, "training": vars(course)}
                for r, state, course in zip(found.runs, found.states, found.courses, strict=True)
            ],
            "differences": [vars(d) for d in found.differences],
            "same": found.same,
            "losses": [{"step": step, "loss": of} for step, of in found.losses.items()],
        }
    )

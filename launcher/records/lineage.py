"""Of what something is made, back to the data: by the names that runs leave in their outputs, and by their records.

A run's name is in `.slipway-run/origin.json` of its output; what was moved or copied out of there alone has lost it.
Of a conversion for a cache the marker tells, which lies in the folder, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from launcher.artifacts import detection, marker
from launcher.core.asked import Former
from launcher.core.plan import RUN_DIR, Origin, OriginInput
from launcher.records import outputs
from launcher.records.run_directory import Record, Run
from slipway.errors import SlipwayError
from slipway.yamldoc import Noun

ABOVE = 4  # folders above a checkpoint in which its run may have left its name
MOST = 50  # generations, against a circle
ELSEWHERE = "made elsewhere: no run has left its name there"


class Made(Noun, frozen=True, kw_only=True):
    """A run that made something. `state`: empty where its record is gone; `versions`: package -> found inside."""

    run: str
    directory: str
    step: str
    image: str
    entry: str
    inputs: dict[str, Thing]
    state: str = ""
    steps: int | None = None
    resumes: str = ""
    commit: str = ""
    versions: dict[str, str] = {}


class Thing(Noun, frozen=True, kw_only=True):
    """A checkpoint, or data. `fingerprint`: as it was when used; `note`: what else is known, or why no more is."""

    path: str
    type: str = ""
    fingerprint: str = ""
    made_by: Made | None = None
    note: str = ""


Find = Callable[[Former], Run | None]  # the run of an id, wherever its directory is now


def of_run(run: Run, record: Record, find: Find) -> Thing:
    """What a run has made, or makes."""
    plan, outcome = record.plan, record.outcome
    path = (outcome.checkpoint if outcome else "") or plan.output.replace(RUN_DIR, str(run.path))
    resumes = record.asked.resumes if record.asked else None
    type_ = (outcome.reported.type if outcome else None) or plan.output_type
    return Thing(path=path, type=type_, made_by=_made(outputs.of_plan(plan, run, resumes), find, MOST))


def of_path(path: Path, find: Find) -> Thing:
    """What is at a path, by the run that has left its name there, or in a folder above."""
    found = detection.inspect("path", path)
    given = OriginInput(path=found.path, fingerprint=found.fingerprint, type=found.type, hub=found.hub)
    return _thing(given, find, MOST)


def _thing(given: OriginInput, find: Find, most: int) -> Thing:
    facts: dict[str, Any] = {"path": given.hub or given.path, "type": given.type, "fingerprint": given.fingerprint}
    if given.hub:
        return Thing(**facts, note="from the hub, at this commit")
    try:
        origin, converted = _origin(Path(given.path), given.run, find)
    except SlipwayError as e:
        return Thing(**facts, note=f"{e.where}: {e.what}")
    notes = [*_since(given), *converted]
    if origin is None:
        return Thing(**facts, note="; ".join(notes or [ELSEWHERE]))
    if given.run and origin.run != given.run.run:
        notes.append(f"it was given as of run {given.run.run}")
    return Thing(**facts, made_by=_made(origin, find, most - 1), note="; ".join(notes))


def _since(given: OriginInput) -> Iterator[str]:
    """What has become of it since it was used."""
    path = Path(given.path)
    now = detection.inspect("path", path)
    if now.kind == "missing":
        yield "is not there any more"
    elif given.fingerprint and now.fingerprint != given.fingerprint:
        yield f"has changed since: its fingerprint is {now.fingerprint[:12]} now"


def _origin(path: Path, run: Former | None, find: Find) -> tuple[Origin | None, list[str]]:
    """Who made it: by the run that it was given as of, else by the name that is there. Raises SlipwayError 65 or 77."""
    there = find(run) if run else None
    record = there.record() if there else None
    if there and record:
        return outputs.of_plan(record.plan, there, record.asked.resumes if record.asked else None), []
    for folder in [path, *path.parents][: ABOVE + 1]:
        if not folder.is_dir():
            continue
        if found := outputs.origin(folder):
            return found, []
        if made := marker.read(folder):
            by = f"by run {made.run}" if made.run else "outside of any launch, and adopted"
            return None, [f"converted by {made.by} of {made.source or made.model}, {made.fingerprint[:12]}, {by}"]
    return None, []


def _made(origin: Origin, find: Find, most: int) -> Made:
    run = find(Former(run=origin.run, directory=origin.directory))
    try:
        record = run.record() if run else None
    except SlipwayError:
        record = None
    outcome = record.outcome if record else None
    steps = outcome.result.get("steps") if outcome else None
    image = f", {origin.image}" if origin.image else ""
    return Made(
        run=origin.run,
        directory=str(run.path) if run else origin.directory,
        step=origin.step,
        image=f"{origin.library}/{origin.release}-{origin.flavour}{image}",
        entry=origin.entry,
        inputs={n: _thing(given, find, most) for n, given in origin.inputs.items()} if most > 0 else {},
        state=outcome.word if outcome else "" if record is None else "running",
        steps=steps if type(steps) is int else None,
        resumes=origin.resumes.run if origin.resumes else "",
        commit=record.asked.commit if record and record.asked else "",
        versions=_versions(record) if record else {},
    )


def _versions(record: Record) -> dict[str, str]:
    """What the container said of its packages, as verify.py writes it; of several environments the first."""
    environments = record.versions.get("environments")
    for found in environments.values() if isinstance(environments, dict) else ():
        packages = found.get("packages") if isinstance(found, dict) else None
        return {str(name): str(v) for name, v in packages.items()} if isinstance(packages, dict) else {}
    return {}


def text(thing: Thing, named: str = "", depth: int = 0) -> Iterator[str]:
    """The tree, a line each, from what is asked for down to the data."""
    space = "  " * depth
    facts = ", ".join(filter(None, [thing.type, f"fingerprint {thing.fingerprint[:12]}" if thing.fingerprint else ""]))
    yield f"{space}{named}{thing.path}{f' ({facts})' if facts else ''}"
    if thing.note:
        yield f"{space}  {thing.note}"
    if made := thing.made_by:
        yield from _text(made, f"{space}  ", depth)


def _text(made: Made, space: str, depth: int) -> Iterator[str]:
    how = ", ".join(filter(None, [made.state, f"step {made.steps}" if made.steps else ""]))
    yield f"{space}made by {made.run} ({how or 'its record is gone'}): {made.step}"
    yield f"{space}image    {made.image}"
    library = made.image.partition("/")[0]
    if made.versions:
        own = [f"{name} {version}" for name, version in made.versions.items() if library in name]
        rest = len(made.versions) - len(own)
        yield f"{space}versions {', '.join([*own, *([f'{rest} more (--json)'] if rest else [])])}"
    if made.commit:
        yield f"{space}commit   {made.commit}"
    if made.resumes:
        yield f"{space}went on from {made.resumes}"
    for name, given in made.inputs.items():
        yield from text(given, f"{name} = ", depth + 2)

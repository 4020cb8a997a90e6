"""What a replay has another way than the run that it repeats: entry, image, inputs, code, configuration, environment.

Pure. Two plans are compared as far as they say what runs; where they run (paths, engine, limits) may differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import msgspec

from launcher.core.plan import Code, Plan
from launcher.planning.planner import INSTRUCTIONS, THREADS, UNRESOLVED, container_paths
from launcher.planning.run_files import Prepared
from launcher.records.run_directory import Record
from slipway.errors import Exit
from slipway.findings import Finding, error, warning

OF_MACHINE = {"HF_HUB_CACHE"}  # where that is depends on whether there is one on the host
OF_PROJECT = ("entry", "code", "configuration", "environment", "command")  # what its commit brings back
SHOWN = 60  # characters of a value


def told(record: Record, prepared: Prepared) -> Prepared:
    """The replay of a record with what differs among its findings, and in what its own record will say.

    An error (65) each, or a warning where the replay allows drift.
    """
    found = list(differences(record.plan, prepared.plan))
    asked = prepared.asked
    if asked and asked.replays:
        replays = msgspec.structs.replace(asked.replays, differs=[f"{what}: {said}" for what, said in found])
        asked = msgspec.structs.replace(asked, replays=replays)
    findings = [_finding(what, said, record, prepared.plan.allow_drift) for what, said in found]
    return replace(prepared, findings=[*prepared.findings, *findings], asked=asked)


def _finding(what: str, said: str, record: Record, allowed: bool) -> Finding:
    where = f"replay of {record.run}: {what}"
    if allowed:
        return warning(where, f"{said} (--allow-drift)")
    commit = record.asked.commit if record.asked and what in OF_PROJECT else ""
    at = f"check out {commit[:12]}, at which it was launched, or " if commit else ""
    return error(Exit.DATA, where, said, f"{at}accept it with --allow-drift, which is recorded")


def differences(then: Plan, now: Plan) -> Iterator[tuple[str, str]]:
    """What differs, and how: what it was, and what it is now."""
    before, after = (f"{p.library}/{p.release}-{p.flavour} {p.entry[:12]}" for p in (then, now))
    if then.entry != now.entry:
        yield "entry", _changed(before, after)
    if now.image not in (then.image, UNRESOLVED):  # without an image nothing is launched anyway
        yield "image", _changed(then.image, now.image)
    for name in sorted({*then.inputs, *now.inputs}):
        one, other = then.inputs.get(name), now.inputs.get(name)
        waited = one and one.expected and name in then.from_run  # planned before it was there
        if one and other and one.fingerprint != other.fingerprint and not waited:
            said = f"{other.path} has fingerprint {other.fingerprint[:12]}, it had {one.fingerprint[:12]}"
            before, after = (PurePath(found.path).name for found in (one, other))
            renamed = other.kind == "file" and before != after
            yield f"input {name}", said + (f" as {before}: a file's name counts" if renamed else "")
    yield from (("code", said) for said in _code(then, now))
    if then.command != now.command:
        yield "command", _changed(" ".join(then.command), " ".join(now.command))
    if then.shape != now.shape:
        shapes = (f"{s.nodes} nodes, {s.gpus} GPUs, {s.procs} processes" for s in (then.shape, now.shape))
        yield "shape", _changed(*shapes)
    yield from (("configuration", said) for said in _changes(_config(then), _config(now)))
    yield from (("environment", said) for said in _changes(*_environments(then, now)))


def _changed(before: Any, after: Any) -> str:
    return f"was {_text(before)}, is {_text(after)} now"


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= SHOWN or text.startswith("sha256:") else f"{text[:SHOWN]}…"


def _code(then: Plan, now: Plan) -> Iterator[str]:
    """Files that a run brings along, and trees of --code. Each kind of engine has files of its own."""
    names = then.files.keys() & now.files.keys()
    if then.profile.kind == now.profile.kind:
        names = then.files.keys() | now.files.keys()
    for name in sorted(names):
        before, after = then.files.get(name), now.files.get(name)
        if before != after:
            yield f"{name} is {'gone' if not after else 'new' if not before else 'another'}"
    for name in sorted(then.code.keys() | now.code.keys()):
        one, other = then.code.get(name), now.code.get(name)
        if (one and one.files) != (other and other.files):
            yield f"--code {name}: {_changed(*map(_tree, (one, other)))}"


def _tree(code: Code | None) -> str:
    return f"{code.commit[:12]}{' with changes' if code.diff else ''}" if code else "none"


def _config(plan: Plan) -> dict[str, Any]:
    """What the step program merges, key by key; an input by its name, since it may lie under another now."""
    inputs = {path: f"{name}=" for name, path in container_paths(plan.inputs).items()}
    config = plan.config
    said: dict[str, Any] = {f"base.{key}": value for key, value in _leaves(config["base"], "")}
    for number, layer in enumerate(config["layers"]):
        said |= {f"layer {number}: {key}": value for key, value in _leaves(layer["values"], "")}
    said |= {key: inputs.get(value, value) if isinstance(value, str) else value for key, value in config["set"]}
    resume = config.get("resume")
    return said | {"remove": config["remove"], "script": config.get("script", ""), "resume": resume}


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def _environments(then: Plan, now: Plan) -> tuple[dict[str, str], dict[str, str]]:
    """On another profile what that sets may differ, and so may what the launcher sets by the kind of engine."""
    pins, same = {*THREADS, *INSTRUCTIONS}, then.profile.name == now.profile.name

    def counts(name: str, by: str) -> bool:
        return name not in OF_MACHINE and (same or name in pins or by in ("step", "command line"))

    one, other = ({n: v.value for n, v in p.env.items() if counts(n, v.by)} for p in (then, now))
    return one, other


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(before.keys() | after.keys()):
        if key not in after:
            yield f"{key} was {_text(before[key])}, is not set now"
        elif key not in before:
            yield f"{key} is {_text(after[key])} now, was not set"
        elif before[key] != after[key]:
            yield f"{key} {_changed(before[key], after[key])}"

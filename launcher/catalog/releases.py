"""A step as one release of its library takes it, and what its inputs make of the configuration. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from images.locking.model import Entry
from launcher.artifacts.detection import Artifact
from launcher.catalog.commands import fits
from launcher.catalog.definitions import Input, InputChange, Parameter, Release, Step, Wire
from slipway.yamldoc import Noun


class Wired(Noun, frozen=True, kw_only=True):
    """The wires that hold, as one: `paths`: key -> input, of which `missing` are not given."""

    paths: dict[str, str] = {}
    set: dict[str, Any] = {}
    remove: list[str] = []
    notes: list[str] = []
    missing: dict[str, str] = {}


def at_release(step: Step, entry: Entry) -> Step:
    """The step with all that holds for `entry`; nothing is left in its `releases`."""
    held = [r for r in step.releases if r.flavour in (None, entry.flavour) and fits(step, r.when, entry)]
    changes: dict[str, Any] = {"releases": [], "wires": [*step.wires, *(w for r in held for w in r.wires)]}
    changes["script"] = next((r.script for r in reversed(held) if r.script), step.script)
    changes["metrics"] = next((r.metrics for r in reversed(held) if r.metrics), step.metrics)
    changes["presets"], changes["roles"] = dict(step.presets), dict(step.roles)
    changes["unsaid"] = dict(step.unsaid)
    changes["inputs"], changes["parameters"] = dict(step.inputs), dict(step.parameters)
    changes["refuses"] = dict(step.refuses)
    for release in held:
        changes["presets"] |= release.presets
        changes["unsaid"] |= release.unsaid
        changes["roles"] |= release.roles
        changes["refuses"] |= {why: [*changes["refuses"].get(why, []), *keys] for why, keys in release.refuses.items()}
        changes["inputs"] |= {n: _changed(changes["inputs"][n], c) for n, c in release.inputs.items()}
        changes["parameters"] |= dict(_parameters(changes["parameters"], release))
    return msgspec.structs.replace(step, **changes)


def _changed(before: Input, change: InputChange) -> Input:
    named = {f: getattr(change, f) for f in change.__struct_fields__ if getattr(change, f) not in ([], None, "")}
    return msgspec.structs.replace(before, **named)


def _parameters(before: dict[str, Parameter], release: Release) -> Iterator[tuple[str, Parameter]]:
    for name, means in release.parameters.items():
        keys, values = ([], means) if isinstance(means, dict) else (means, {})
        yield name, msgspec.structs.replace(before[name], keys=keys, values=values, choices=list(values))


def wired(step: Step, artifacts: dict[str, Artifact]) -> Wired:
    """What the wires of a step make of the inputs that are given."""
    held = [w for w in step.wires if _holds(w, artifacts)]
    paths = {key: name for w in held for key, name in w.paths.items()}
    return Wired(
        paths={k: n for k, n in paths.items() if n in artifacts},
        set={k: v for w in held for k, v in w.set.items()},
        remove=[key for w in held for key in w.remove],
        notes=[w.note for w in held if w.note],
        missing={k: n for k, n in paths.items() if n not in artifacts},
    )


def _holds(wire: Wire, artifacts: dict[str, Artifact]) -> bool:
    if any(name in artifacts for name in wire.absent):
        return False
    return all(name in artifacts and kind in _kinds(artifacts[name]) for name, kind in wire.given.items())


def _kinds(artifact: Artifact) -> list[str]:
    return ["any", artifact.type, *(artifact.data.columns or [])]

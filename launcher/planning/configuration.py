"""What a launch sets of its step's configuration, and what becomes of it: resolved once, before anything runs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import msgspec

from launcher.core.plan import LaunchSpec
from launcher.planning.checks.config_values import said_of, setting, value_of
from slipway import resolver
from slipway.errors import Exit
from slipway.findings import Finding, error, warning
from slipway.resolver import ABSENT, UNKNOWN, Assignment, Configuration, Impossible, Lost, Mark, Section

OUTPUT = "/output"


def resolved(spec: LaunchSpec, paths: Mapping[str, str]) -> LaunchSpec:
    """The spec with its configuration, as the step program will merge it. `paths`: input -> where it is mounted."""
    layers = [(name if n == 0 else f"-c {name}", values) for n, (name, values) in enumerate(spec.overlays)]
    found = resolver.resolve(_base(spec), layers, removed(spec), [*_resumed(spec), *assignments(spec, paths)])
    return msgspec.structs.replace(spec, config=found)


def _base(spec: LaunchSpec) -> Any:
    """What it starts from: values of ours; or those of a file in the image, or what is known of that file.

    What its record says is so in the container, where nothing else is mounted there. What step.yaml says of it counts
    where there is no such record; nothing is known of what `--code` or a mount puts there.
    """
    if "path" not in spec.base:
        return spec.base.get("values")
    if spec.hidden:
        return resolver.in_image({}, spec.hidden)
    return _recorded(spec) or resolver.in_image(spec.step.unsaid | spec.step.presets, _by(spec))


def hidden_by(spec: LaunchSpec, path: str) -> str:
    """What stands in the container where the image has `path`: a tree of --code, a mount of the profile; else nothing.

    A tree of the user's own is not read here: its configurations inherit from one another by a loader of its own.
    """
    for name, code in spec.code.items():
        if PurePosixPath(path).is_relative_to(code.path):
            return f"{path} of --code {name}"
    for mount in spec.profile.mounts:
        if PurePosixPath(path).is_relative_to(mount.target):
            return f"{path} of {mount.source}, a mount of the profile {spec.profile.name},"
    return ""


def _recorded(spec: LaunchSpec) -> Section | None:
    if spec.in_image is None or spec.in_image.values is None:
        return None
    base = Configuration()
    base.merge(spec.in_image.values, _by(spec))
    return base.root


def _by(spec: LaunchSpec) -> str:
    return f"the image's {spec.base.get('path')}"


def planned(spec: LaunchSpec, paths: Mapping[str, str]) -> dict[str, Any]:
    """The plan's `config`: base, layers, then what goes, then what is set, for the step program to merge."""
    step = spec.step
    config: dict[str, Any] = {
        "base": spec.base,
        "layers": [{"name": name, "values": values} for name, values in spec.overlays],
        "remove": removed(spec),
        "set": [[a.key, a.value] for a in assignments(spec, paths)],
    }
    if step.script:
        config["script"] = step.script
    if step.resume:  # the step program looks whether there is a checkpoint
        where = f"{OUTPUT}/{step.resume.where}"
        config["resume"] = {"where": where, "set": [[key, value] for key, value in step.resume.set.items()]}
    return config


def usual(spec: LaunchSpec, paths: Mapping[str, str]) -> Configuration:
    """The configuration with the step's default alone, and the same inputs, shape and output."""
    words = replace(spec.words, parameters={}, overrides={})
    return resolved(msgspec.structs.replace(spec, overlays=spec.overlays[:1], words=words), paths).config


def removed(spec: LaunchSpec) -> list[str]:
    """The keys that go: of inputs that are not given, and by wires."""
    absent = [i for name, i in spec.step.inputs.items() if name not in spec.words.inputs]
    return [key for i in absent for key in i.without] + spec.wired.remove


def assignments(spec: LaunchSpec, paths: Mapping[str, str]) -> list[Assignment]:
    """Wires, parameters, overrides, inputs, shape, what a rehearsal imposes, and output, in the order they are set."""
    step, gone = spec.step, tuple(f"{key}." for key in removed(spec))
    wired = [Assignment(key, value, "step.yaml") for key, value in spec.wired.set.items()]
    told = [a for a in _parameters(spec) if not a.key.startswith(gone)]
    told += [Assignment(k, v, f"{k}=", f"{k}={_text(v)}") for k, v in spec.words.overrides.items()]
    inputs = [(step.inputs[name].key, name) for name in paths if step.inputs[name].key]
    inputs += [(key, name) for key, name in spec.wired.paths.items() if name in paths]
    ours = [Assignment(key, paths[name], f"{name}=") for key, name in inputs]
    shape = {"nodes": spec.nodes, "gpus": spec.procs}
    ours += [Assignment(key, shape[name], f"--{name}") for name, key in step.shape.keys.items()]
    ours += [Assignment(key, value, "rehearse") for key, value in spec.imposed.items()]
    ours += [Assignment(step.output.key, OUTPUT, "output=")] if step.output.key else []
    return [*wired, *told, *ours]


def _resumed(spec: LaunchSpec) -> list[Assignment]:
    """Of a run that goes on, before what is set, where an override may name another checkpoint."""
    said = spec.step.resume.set if spec.resume and spec.step.resume else {}
    return [Assignment(key, value, "--resume") for key, value in said.items()]


def _parameters(spec: LaunchSpec) -> Iterator[Assignment]:
    for name, value in spec.words.parameters.items():
        for key, given in spec.step.parameters[name].sets(value).items():
            yield Assignment(key, given, f"{name}=", f"{name}={_text(value)}")


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def check(spec: LaunchSpec) -> Iterator[Finding]:
    """What cannot be set, here or in this release, and what the user has set twice."""
    for wrong in spec.config.impossible:
        yield _impossible(wrong)
    said = {a.by: a.word for a in assignments(spec, {}) if a.word}
    lost = [loss for loss in spec.config.lost if loss.by in said and loss.assignment.word]
    for loss in {(loss.by, loss.assignment.by): loss for loss in lost}.values():
        yield _twice(said[loss.by], loss)
    yield from _refused(spec)
    yield from _overruled(spec)
    yield from _otherwise(spec)


def _otherwise(spec: LaunchSpec) -> Iterator[Finding]:
    """What step.yaml says of the file in the image, and that says otherwise: what is in the image counts."""
    base = None if spec.hidden else _recorded(spec)
    if base is None:
        return
    stated = resolver.in_image(spec.step.presets, "")
    for key in spec.step.presets:
        here, there = (resolver.plain(said_of(Configuration(root), key)) for root in (base, stated))
        here = spec.step.unsaid.get(key, here) if here is ABSENT else here
        if isinstance(there, Mark) or here == there:  # of another key, which is not stated
            continue
        what = f"says that {spec.base['path']} has {key}: {_text(there)}; in this image it "
        what += "does not" if here is ABSENT else "does not say what" if here is UNKNOWN else f"is {_text(here)}"
        yield warning(f"{spec.step.folder}/step.yaml: presets", what, "what is in the image counts")


def _impossible(wrong: Impossible) -> Finding:
    what = f"cannot be set, since {wrong.where} is {_text(wrong.found.value)} and not a mapping ({wrong.found.by})"
    return error(Exit.WORDS, wrong.assignment.word or wrong.assignment.key, what, f"set it as a whole: {wrong.where}=…")


def _twice(first: str, lost: Lost) -> Finding:
    what = f"sets {lost.key}, which {first} sets, too"
    return error(Exit.WORDS, lost.assignment.word, what, "give one of them")


def _refused(spec: LaunchSpec) -> Iterator[Finding]:
    """What somebody sets, and the release cannot take; null is what it is without the key."""
    said = [a.key for a in assignments(spec, {}) if a.value is not None]
    for why, keys in spec.step.refuses.items():
        for key, _, value in (named.partition("=") for named in keys):
            if value:
                if str(value_of(spec, key)) == value:
                    yield error(Exit.WORDS, setting(spec, key), f"{spec.entry.name} cannot take it: {why}")
                continue
            below = next((name for name in said if f"{name}.".startswith(f"{key}.")), "")
            if below or _set_over_base(spec, key):
                yield error(Exit.WORDS, below or key, f"{spec.entry.name} cannot take it: {why}")


def _overruled(spec: LaunchSpec) -> Iterator[Finding]:
    """What a file of the user's own says, and a wire of the step sets or removes after it; a class is no small matter.

    The step's own files are not looked at: they are for every release, and wires make of them what one takes.
    """
    for name, values in spec.overlays[1:]:
        if not name.endswith((".yaml", ".yml")):
            continue
        for key in dict.fromkeys([*spec.wired.set, *spec.wired.remove]):
            said, counts = _said(values, key), value_of(spec, key)
            if said is None or said == counts:
                continue
            ours = f"is {_text(counts)}" if counts is not msgspec.UNSET else "is left out"
            what = f"{_text(said)} does not count: with these inputs it {ours} in {spec.entry.name} (step.yaml)"
            if key.endswith(f".{resolver.TARGET}") or (isinstance(said, dict) and resolver.TARGET in said):
                yield error(Exit.CONFIG, f"{name}: {key}", what, "leave it out, or take a --release that has it")
            else:
                yield warning(f"{name}: {key}", what, f"leave it out, or say it as a word, which counts last: {key}=…")


def _said(values: Any, key: str) -> Any:
    """What a layer says at a dotted key; None where it says nothing."""
    for name in key.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _set_over_base(spec: LaunchSpec, key: str) -> bool:
    """Whether somebody sets the key, or one below it: what the image's own base has, its library can take."""
    return any(f.by != _by(spec) and f.value is not None for _, f in resolver.leaves(spec.config.at(key)))

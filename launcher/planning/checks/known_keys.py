"""Configuration keys that the library in the image does not have, by what its own classes take. Pure.

Where nothing is known, nothing is claimed: of an image whose record does not say it, of a class that takes any key, of
a section without a `_target_` that is not always of one class, and of everything where `--code` brings another tree.
Types (`config_class` of a step) do not name all that a library reads: what the base in the image says is known, too,
and a key by whose name the library's sources look something up.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from images.building.identity import Classes, Taken
from launcher.core.plan import LaunchSpec
from launcher.planning.checks.config_values import setting
from slipway import resolver
from slipway.errors import Exit, nearest
from slipway.findings import Finding, error
from slipway.resolver import TARGET, Leaf, Node, Section

OF_LOADERS = {TARGET, "_args_", "_call_", "_partial_", "_convert_", "_recursive_"}  # what makes objects of sections


def check(spec: LaunchSpec, classes: Classes | None) -> Iterator[Finding]:
    """What somebody sets, and the library's class does not take."""
    if classes is None or spec.code:
        return
    for key, node in spec.config.root.items.items():
        if isinstance(node, Section):
            yield from _section(spec, classes, key, node, classes.sections.get(key, ""))
    base = spec.in_image.values if spec.in_image else None
    for strange in strange_keys(classes, spec.step.config_class, spec.config.root, base or {}):
        what = f"{strange.of} of {_library(spec)} {strange.what}"
        yield from _wrong(spec, strange.key, strange.node, what, strange.remedy)


class Strange(NamedTuple):
    """A key that a type does not have. `of`: the type, or its key."""

    key: str
    node: Node
    of: str
    what: str
    remedy: str = ""


def strange_keys(classes: Classes, whole: str, config: Section, base: dict[str, Any]) -> Iterator[Strange]:
    """What the types that a configuration is of do not know; `whole`: its class, `base`: what the image's file says."""
    if taken := classes.known.get(classes.targets.get(whole, "")):
        for key, node in config.items.items():
            if isinstance(node, Section) and (parts := _parts(classes, [taken], key)):
                yield from _mapping(classes, key, node, parts, base.get(key))


def _mapping(classes: Classes, key: str, section: Section, of: list[Taken], base: Any) -> Iterator[Strange]:
    """A section that is of one of these types. What it holds is theirs, or read by its name."""
    known = list(dict.fromkeys(name for taken in of for name in taken.keys))
    anything, said = any(taken.open for taken in of), base if isinstance(base, dict) else {}
    for name, item in section.items.items():
        place = f"{key}.{name}"
        if parts := _parts(classes, of, name):
            if isinstance(item, Section):
                yield from _mapping(classes, place, item, parts, said.get(name))
        elif name in said or not {name, f"{key.rpartition('.')[2]}.{name}"}.isdisjoint(classes.read):
            continue
        elif name not in known and not anything:
            what = "has no such key, and nothing reads one of this name"
            yield Strange(place, item, of[0].name, what, nearest(name, known))
        elif isinstance(item, Section) and any(name in taken.plain for taken in of):
            yield Strange(place, item, f"{of[0].name}.{name}", "is no section")


def _parts(classes: Classes, of: list[Taken], name: str) -> list[Taken]:
    """The types that a section below may be of."""
    names = dict.fromkeys(part for taken in of for part in taken.keys.get(name, ()))
    return [classes.known[part] for part in names if part in classes.known]


def _section(spec: LaunchSpec, classes: Classes, key: str, section: Section, name: str = "") -> Iterator[Finding]:
    """`name`: of the class that takes it, where that is not what its `_target_` says."""
    taken = classes.known.get(name) or _target(classes, section)
    if taken is None:
        return
    also = spec.entry.configurations.also.get(key, []) if spec.entry.configurations else []
    for name, item in section.items.items():
        place = f"{key}.{name}"
        if name in OF_LOADERS or name in also:
            continue
        if name not in taken.keys and not taken.open:
            what = f"{taken.name} of {_library(spec)} has no such argument"
            yield from _wrong(spec, place, item, what, nearest(name, [*taken.keys, *also]))
        elif isinstance(item, Section) and TARGET in item.items:
            yield from _section(spec, classes, place, item)
        elif isinstance(item, Section) and name in taken.plain:
            yield from _wrong(spec, place, item, f"{taken.name}.{name} of {_library(spec)} is no section", "")


def _target(classes: Classes, section: Section) -> Taken | None:
    """What is known of a section's `_target_`, under the name that was asked for, its own, or one that is only once."""
    target = section.get(TARGET)
    if not isinstance(target, Leaf) or not isinstance(target.value, str):
        return None
    if found := classes.known.get(classes.targets.get(target.value, target.value)):
        return found
    short = target.value.rpartition(".")[2]
    alike = [taken for taken in classes.known.values() if taken.name == short]
    return alike[0] if len(alike) == 1 else None


def _wrong(spec: LaunchSpec, key: str, node: Node, what: str, remedy: str) -> Iterator[Finding]:
    """A finding where the key is said: a word, or a file."""
    files = {f"-c {name}": name for name, _ in spec.overlays if name.endswith((".yaml", ".yml"))}
    for place, leaf in list(resolver.leaves(node, key))[:1]:
        if leaf.by in files:
            yield error(Exit.CONFIG, f"{files[leaf.by]}: {place}", what, remedy)
        elif place in spec.words.overrides:
            yield error(Exit.WORDS, setting(spec, place), what, remedy)
        else:
            yield error(Exit.CONFIG, f"{place} ({leaf.by})", what, remedy)


def _library(spec: LaunchSpec) -> str:
    return f"{spec.entry.library} {spec.entry.release}"

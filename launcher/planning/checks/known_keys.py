"""Configuration keys that the library in the image does not have, by what its own classes take. Pure.

Where nothing is known, nothing is claimed: of an image whose record does not say it, of a class that takes any key, of
a section without a `_target_` that is not always of one class, and of everything where `--code` brings another tree.
"""

from __future__ import annotations

from collections.abc import Iterator

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

"""Which of a step's commands, and which base configuration, an entry takes, by its versions of components."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from images.locking.model import Entry
from launcher.catalog.definitions import Command, Step, beside
from slipway import yamldoc
from slipway.errors import Exit, SlipwayError
from slipway.files import read_text
from slipway.trust import trusted


def base_config(step: Step, entry: Entry) -> dict[str, Any]:
    """`{"path": …}` inside the image or `{"values": …}`. Raises SlipwayError 78 where the step has none."""
    if not step.base:  # a command of the user's own
        return {"values": {}}
    for base in step.base:
        if base.flavour not in (None, entry.flavour) or not fits(step, base.when, entry):
            continue
        if base.path:
            return {"path": base.path}
        if base.file:
            file = beside([Path(folder) for folder in (step.folder, *step.inherited)], base.file)
            file = trusted(file, file.parent)
            return {"values": yamldoc.parse_plain(read_text(file), str(file))}
    flavours = dict.fromkeys(b.flavour for b in step.base if b.flavour)
    remedy = f"it runs in flavour {' or '.join(flavours)}: {step.title}" if flavours else ""
    what = f"{step.id} has no base configuration for flavour {entry.flavour}"
    if any(base.flavour in (None, entry.flavour) for base in step.base):
        what, remedy = f"{step.id} has no base configuration for {entry.name}", ""
    raise SlipwayError(Exit.CONFIG, what, remedy=remedy)


def fits(step: Step, when: dict[str, str], entry: Entry) -> bool:
    """Whether all components of `when` are in `entry`, in such versions."""
    return all(matches(entry.components.get(name), _specifiers(step, spec)) for name, spec in when.items())


def choose_command(step: Step, entry: Entry) -> Command:
    """The first command whose components match what `entry` carries. Raises SlipwayError 78 naming what would match."""
    packages = entry.components
    for command in step.commands:
        if command.flavour in (None, entry.flavour) and fits(step, command.when, entry):
            return command
    wanted = " or ".join(", ".join(f"{n} {s}" for n, s in c.when.items()) for c in step.commands)
    asked = dict.fromkeys(n for c in step.commands for n in c.when)
    has = ", ".join(f"{n} {packages.get(n, 'unknown')}" for n in asked)
    remedy = f"it has commands for {wanted}{f': {step.why}' if step.why else ''}"
    raise SlipwayError(Exit.CONFIG, f"{step.id} has no command for {entry.name} ({has})", remedy=remedy)


def _specifiers(step: Step, text: str) -> Any:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        return SpecifierSet(text)
    except InvalidSpecifier as e:
        file = Path(step.folder) / "step.yaml"
        raise SlipwayError(
            Exit.CONFIG, f"commands.when: {text!r} is no version specifier such as '>=0.5,<0.7'",
            where=f"{file}:{yamldoc.line_of(file, 'commands')}",
        ) from e  # fmt: skip


def matches(claim: str | None, specifiers: Any) -> bool:
    """Whether a version claim (exact, or specifiers such as `>=0.5`: then the versions they name) is among them."""
    versions = re.findall(r"(?:^|[=<>~!]=?|,)\s*([0-9][^,\s]*)", claim or "")
    return bool(versions) and all(specifiers.contains(v.removesuffix(".*"), prereleases=True) for v in versions)

"""`launch profiles`: which there are, and what each says and where, for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from launcher.catalog import profiles
from slipway import canonical, tables
from slipway.errors import SlipwayError
from slipway.project import Root
from slipway.yamldoc import Noun


class Key(Noun, frozen=True, kw_only=True):
    """One key of a profile, such as `sbatch.comment`. `origin`: file:line:column that says it; empty for a default."""

    name: str
    value: Any
    origin: str = ""


class Listed(Noun, frozen=True, kw_only=True):
    """One profile. `error`: why it cannot be used."""

    name: str
    file: str
    kind: str = ""
    flavour: str = ""
    extends: str | None = None
    error: str = ""


def all_profiles(root: Root) -> list[Listed]:
    """Every profile, by name; one whose file is wrong is listed with its error, and hides no other."""
    return [_listed(root, name, files[0]) for name, files in sorted(profiles.profile_files(root).items())]


def _listed(root: Root, name: str, file: Path) -> Listed:
    try:
        found = profiles.find_profile(root, name)
    except SlipwayError as e:
        return Listed(name=name, file=str(file), error=str(e).replace("\n ", ";"))
    return Listed(name=name, file=str(file), kind=found.kind, flavour=found.flavour, extends=found.extends)


def keys(root: Root, name: str) -> list[Key]:
    """Every key that a profile of this kind may have, its value, and where that was said. Raises as find_profile."""
    profile, origins = profiles.with_origins(root, name)
    values = {"kind": profile.kind} | msgspec.to_builtins(profile)
    for by_place in ("name", "file"):
        del values[by_place]
    found = []
    for key, value in values.items():
        inner = value if isinstance(value, dict) else {}
        parts = {f"{key}.{k}": v for k, v in inner.items() if f"{key}.{k}" in origins} or {key: value}
        found += [Key(name=k, value=v, origin=profiles.place(origins, k)) for k, v in parts.items()]
    return found


def table(found: list[Listed]) -> str:
    """One line a profile, under a heading."""
    rows = [(p.name, p.kind or "wrong", p.flavour or "-", p.extends or "-", p.error or p.file) for p in found]
    return tables.columns([("PROFILE", "KIND", "FLAVOUR", "EXTENDS", "FILE"), *rows])


def details(found: list[Key]) -> str:
    """One line a key: its value as JSON where it is no text, and where it was said."""
    return tables.columns((k.name, _text(k.value), k.origin or "default") for k in found)


def _text(value: Any) -> str:
    plain = isinstance(value, str) and value.strip() == value != ""
    return "-" if value is None else value if plain else canonical.dumps(value)

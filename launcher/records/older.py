"""Plans and records that an earlier version of this program wrote, as this one reads them.

Schema 1 of a plan had one mapping of `facts` for each input; since 2 they are groups by what they are
(artifacts/nouns.py). What a run was given is the same, so records are read as they lie, and never written again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from slipway import inbox
from slipway.inbox import Damaged

T = TypeVar("T")
_TOP = ("hub", "blobs", "taken", "expected", "checked")
_GROUPS = {
    "data": ("files", "rows", "sequences", "columns", "grammar", "tools", "zstd"),
    "sizes": (
        "architecture", "dtype", "layers", "hidden", "vocab", "heads", "kv_heads", "head_size", "intermediate",
        "experts", "experts_per_token", "expert_intermediate", "tied", "positions", "per_token_loss",
    ),
    "weights": ("quantized", "iteration"),
    "adapter": ("layout", "base", "rank"),
    "tokenizer": ("template", "tekken"),
}  # fmt: skip
_RENAMED = {
    "named": ("data", "names"), "pack_size": ("packing", "size"), "padded_to": ("packing", "multiple"),
    "tokenizer": ("tokenizer", "vocabulary"), "tokenizer_class": ("tokenizer", "needs_class"),
    "template_tools": ("tokenizer", "renders_tools"), "generation": ("tokenizer", "marks_learned"),
    "weight_bytes": ("weights", "bytes"), "weights": ("weights", "format"), "adapter": ("adapter", "beyond"),
}  # fmt: skip
_PACKED = {"tokenizer": ("packing", "tokenizer"), "template": ("packing", "template")}
_FLAGS = frozenset({"tools", "zstd", "tied", "per_token_loss", "tekken", "renders_tools", "marks_learned"})


def decode(data: bytes, type_: type[T], where: Path | str) -> T:
    """Strict JSON as a plan, or as what holds one under `plan`, of this schema or an older one. Raises Damaged."""
    try:
        return inbox.decode(data, type_, where)
    except Damaged:
        try:
            value = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError):
            value = None
        plan = value.get("plan", value) if isinstance(value, dict) else None
        if not isinstance(plan, dict) or plan.get("schema") != 1:
            raise
    plan["schema"] = 2
    inputs = plan.get("inputs")
    for found in inputs.values() if isinstance(inputs, dict) else ():
        if isinstance(found, dict) and isinstance(facts := found.pop("facts", None), dict):
            found |= _groups(facts, found.get("type") == "packed_parquet")
    try:
        return msgspec.convert(value, type_)
    except (msgspec.ValidationError, RecursionError) as e:
        raise Damaged(str(e), where) from e


def _groups(facts: dict[str, Any], packed: bool) -> dict[str, Any]:
    """What one mapping said, by group. What no version has written stays, and is refused as unknown."""
    places = {name: (group, name) for group, names in _GROUPS.items() for name in names}
    places |= {name: ("", name) for name in _TOP} | _RENAMED | (_PACKED if packed else {})
    found: dict[str, Any] = {}
    for name, value in facts.items():
        group, field = places.get(name, ("", name))
        if field == "columns":
            value = [c for c in str(value).split(",") if c]
        elif field == "names":
            value = json.loads(str(value))
        elif field in _FLAGS:
            value = bool(value)
        (found.setdefault(group, {}) if group else found)[field] = value
    return found

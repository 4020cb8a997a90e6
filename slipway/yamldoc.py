"""YAML into typed nouns, with the line and column of whatever is wrong.

Files become msgspec Structs in one step (`load`): types, unknown keys and missing keys are checked there and trusted
afterwards. A file that fails is read a second time for its positions, so the good path costs only the C loader.
"""

from __future__ import annotations

import copy
import functools
import math
import operator
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from slipway.errors import Exit, SlipwayError, nearest
from slipway.files import read_text

T = TypeVar("T")


class Noun(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every noun that is read from or written to a file; immutable, and unknown keys are refused."""


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _StrictLoader(_Loader):  # type: ignore[misc]
    """Refuses a key that stands twice in one mapping, which YAML forbids and PyYAML lets pass."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)  # type: ignore[no-any-return]


def parse(text: str, where: str) -> Any:
    """The value of one YAML document. Raises SlipwayError 78 with line and column."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        at = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise SlipwayError(Exit.CONFIG, f"not valid YAML: {getattr(e, 'problem', None) or e}", where=at) from e


def parse_plain(text: str, where: str) -> Any:
    """`parse` for what becomes JSON: raises SlipwayError 78 for dates, NaN, infinity and keys that are no text, too."""
    value = parse(text, where)
    try:
        found = _beyond_json(value, ())
    except RecursionError as e:
        raise SlipwayError(Exit.CONFIG, "an anchor stands inside itself", where=where) from e
    if found:
        path, what = found
        raise SlipwayError(Exit.CONFIG, what, where=f"{where}:{_position(text, path)}", remedy="write it in quotes")
    return value


def _beyond_json(value: Any, path: tuple[Any, ...]) -> tuple[tuple[Any, ...], str] | None:
    """Where in `value` the first thing is that JSON does not have, and what it is."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict) and not isinstance(key, str):
                return (*path, key), f"the key {key!r} is no text"
            if found := _beyond_json(item, (*path, key)):
                return found
        return None
    good = isinstance(value, str | int | None) or (isinstance(value, float) and math.isfinite(value))
    return None if good else (path, f"{value} is neither text nor a finite number")


def load(path: Path, type_: type[T]) -> T:
    """Reads `path` as a `type_`. Raises SlipwayError 66 (cannot be read) or 78 (wrong, with line and column)."""
    return convert(read_text(path), type_, str(path))


def convert(text: str, type_: type[T], where: str) -> T:
    """`load` for a text that is already here; `where` names it in errors."""
    return typed(parse(text, where), type_, lambda path: (text, where, path))


def typed(value: Any, type_: type[T], place: Callable[[list[Any]], tuple[str, str, Sequence[Any]]]) -> T:
    """`convert` for a value that is here. `place`: a path of it -> the text in which it stands, its name, the path."""
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as e:
        raise _positioned(value, place, type_, str(e)) from e


def dump(value: Any) -> str:
    """Stable YAML text: sorted keys, block style, no wrapping of long lines."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=True, default_flow_style=False, width=10_000, allow_unicode=True)
    return str(text)


def flow(value: Any) -> str:
    """A value on one line, as YAML reads it back."""
    text = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=2**31 - 1, allow_unicode=True
    )
    return str(text).removesuffix("\n").removesuffix("\n...")


def _positioned(value: Any, place: Callable[..., Any], type_: Any, message: str) -> SlipwayError:
    """msgspec says `… - at `$.a[0].b``; finds that place in its text, and the nearest of the words allowed there."""
    what, _, at = message.partition(" - at `")
    is_key, at = at.startswith("key` in `"), at.removeprefix("key` in `")
    path: list[Any] = [int(i) if i.isdigit() else i or k for i, k in re.findall(r"\[(\d+|\.{3})\]|([^.\[\]$`]+)", at)]
    path = _named(value, type_, [*path, "..."] if is_key else path, message)
    info = _info_at(type_, path, is_key)
    remedy = ""
    if unknown := re.search(r"contains unknown field `(.*)`", what):
        remedy = nearest(unknown[1], [f.encode_name for f in getattr(info, "fields", ())])
        what, path = f"unknown key {unknown[1]!r}", [*path, unknown[1]]
    elif refused := re.fullmatch(r"Invalid enum value '?(.*?)'?", what):
        what, remedy = f"{refused[1]!r} is not allowed", nearest(refused[1], map(str, getattr(info, "values", ())))
    elif re.match(r"Expected `str.*, got `(int|float|bool|date)", what):
        remedy = "write it in quotes"
    key = ".".join(str(p) for p in path)
    text, where, inside = place(path)
    return SlipwayError(
        Exit.CONFIG,
        f"{key}: {what}" if key and not unknown else what,
        where=f"{where}:{_position(text, inside)}",
        remedy=remedy,
    )


def _named(value: Any, type_: Any, path: list[Any], message: str) -> list[Any]:
    """msgspec writes `[...]` for some key of a mapping: which one is found by leaving all others out."""
    value = copy.deepcopy(value)
    for place, part in enumerate(path):
        if part != "...":
            continue
        mapping = functools.reduce(operator.getitem, path[:place], value)
        for key, item in list(mapping.items()):
            mapping.clear()
            mapping[key] = item
            try:
                msgspec.convert(value, type_)
            except msgspec.ValidationError as e:
                if str(e) == message:
                    path = [*path[:place], key, *path[place + 1 :]]
                    break
    return path


def _info_at(type_: Any, path: list[Any], is_key: bool) -> Any:
    """What msgspec knows of the type at `path` inside `type_`; of the last key's own where `is_key`."""
    info = _strip(msgspec.inspect.type_info(type_))
    for place, step in enumerate(path, 1):
        if isinstance(info, msgspec.inspect.StructType):
            info = next((f.type for f in info.fields if f.encode_name == step), None)
        elif isinstance(info, msgspec.inspect.DictType):
            info = info.key_type if is_key and place == len(path) else info.value_type
        elif isinstance(info, msgspec.inspect.ListType):
            info = info.item_type
        info = _strip(info)
    return info


def _strip(info: Any) -> Any:
    """`X | None` without the None; of a mapping of known keys or something else, that mapping."""
    if isinstance(info, msgspec.inspect.UnionType):
        rest = [t for t in info.types if not isinstance(t, msgspec.inspect.NoneType)]
        mappings = [t for t in rest if isinstance(t, msgspec.inspect.StructType)]
        return rest[0] if len(rest) == 1 else mappings[0] if len(mappings) == 1 else info
    return info


def _position(text: str, path: Sequence[Any]) -> str:
    """`line:column` of the key (or list item) at `path`, as near as it is written; `1:1` where nothing is."""
    node, mark = yaml.compose(text, Loader=_Loader), None
    for step in path:
        if isinstance(node, yaml.MappingNode):
            pair = next((p for p in node.value if p[0].value == str(step) or _scalar(p[0]) == step), None)
            if pair is None:
                break
            mark, node = pair[0].start_mark, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
            mark = node.start_mark
    return f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"


def _scalar(node: Any) -> Any:
    """The key that a node stands for: `26.10` without quotes is the number 26.1."""
    return yaml.load(node.value, Loader=_Loader) if isinstance(node, yaml.ScalarNode) else None


def line_of(path: Path, *keys: str | int) -> str:
    """`line:column` of the key or item that `keys` lead to, for errors found later; as near as it is written."""
    return _position(read_text(path), keys)

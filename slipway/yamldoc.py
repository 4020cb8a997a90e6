"""YAML into typed nouns, with the line and column of whatever is wrong.

Files become msgspec Structs in one step (`load`): types, unknown keys and missing keys are checked there and trusted
afterwards. A file that fails is read a second time for its positions, so the good path costs only the C loader.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from slipway.errors import Exit, SlipwayError, nearest
from slipway.files import read_text

T = TypeVar("T")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _StrictLoader(_Loader):  # type: ignore[misc]
    """Refuses a key that stands twice in one mapping, which YAML forbids and PyYAML lets pass."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
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


def load(path: Path, type_: type[T]) -> T:
    """Reads `path` as a `type_`. Raises SlipwayError 66 (cannot be read) or 78 (wrong, with line and column)."""
    return convert(read_text(path), type_, str(path))


def convert(text: str, type_: type[T], where: str) -> T:
    """`load` for a text that is already here; `where` names it in errors."""
    value = parse(text, where)
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as e:
        raise _positioned(text, where, type_, str(e)) from e


def dump(value: Any) -> str:
    """Stable YAML text: sorted keys, block style, no wrapping of long lines."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=True, default_flow_style=False, width=10_000, allow_unicode=True)
    return str(text)


def _positioned(text: str, where: str, type_: Any, message: str) -> SlipwayError:
    """msgspec says `… - at `$.a[0].b``; finds that place in the text, and for an unknown key the nearest known one."""
    what, _, at = message.partition(" - at `")
    path = [int(i) if i else k for k, i in re.findall(r"([^.\[\]$]+)|\[(\d+)\]", at.rstrip("`"))]
    path = path[: path.index("...")] if "..." in path else path  # msgspec's "some key or value of this mapping"
    remedy = ""
    unknown = re.search(r"contains unknown field `(.*)`", what)
    if unknown:
        path = [*path, unknown[1]]
        what = f"unknown key {unknown[1]!r}"
        remedy = nearest(unknown[1], _fields_at(type_, path[:-1]))
    node, mark = yaml.compose(text, Loader=_Loader), None
    for step in path:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(step)), None)
            if pair is None:
                break
            mark, node = pair[0].start_mark, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
            mark = node.start_mark
    place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else f"{where}:1:1"
    key = ".".join(str(p) for p in path)
    return SlipwayError(Exit.CONFIG, f"{key}: {what}" if key and not unknown else what, where=place, remedy=remedy)


def _fields_at(type_: Any, path: list[Any]) -> list[str]:
    """The keys that a Struct allows at `path` inside `type_`."""
    info = msgspec.inspect.type_info(type_)
    for step in path:
        info = _strip(info)
        if isinstance(info, msgspec.inspect.StructType):
            found = next((f for f in info.fields if f.encode_name == step), None)
            if found is None:
                return []
            info = found.type
        elif isinstance(info, msgspec.inspect.DictType):
            info = info.value_type
        elif isinstance(info, msgspec.inspect.ListType):
            info = info.item_type
    info = _strip(info)
    return [f.encode_name for f in info.fields] if isinstance(info, msgspec.inspect.StructType) else []


def _strip(info: Any) -> Any:
    """`X | None` without the None."""
    if isinstance(info, msgspec.inspect.UnionType):
        rest = [t for t in info.types if not isinstance(t, msgspec.inspect.NoneType)]
        return rest[0] if len(rest) == 1 else info
    return info


def line_of(path: Path, key: str) -> str:
    """`line:column` of a top-level key, for errors found after loading; `1:1` where it is not written."""
    node = yaml.compose(read_text(path), Loader=_Loader)
    for k, _ in getattr(node, "value", []):
        if k.value == str(key):
            return f"{k.start_mark.line + 1}:{k.start_mark.column + 1}"
    return "1:1"

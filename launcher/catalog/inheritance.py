"""`extends:` of a step.yaml: what several steps have in common stands once, in files beside them or in another step.

`extends: [rl/nemo_rl/common, rl/nemo_rl/grpo]` names files below a folder of steps, without `.yaml`, or steps. A later
one wins over an earlier one, and the step over all of them. Mappings merge key by key, at every depth; `wires`,
`releases` and `conflicts` follow each other, the inherited ones first, since all that match apply in order; anything
else replaces. A step's `aliases` are its own, and so is what it extends.

Steps of one library may differ in no more than a word: `words: {section: dpo}` says what stands for `<section>` in all
that the step extends, in keys and in texts; who extends such a step has its words, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from slipway import yamldoc
from slipway.errors import Exit, SlipwayError, nearest
from slipway.files import read_text
from slipway.trust import trusted

T = TypeVar("T")
JOINED = ("wires", "releases", "conflicts")
_OWN = ("extends", "aliases")
_WORD = re.compile(r"<([a-z_]+)>")


@dataclass(frozen=True)
class Part:
    """One file that a step is made of: its text, what it says, and its folder if it is a step's."""

    path: Path
    text: str
    value: Any

    @property
    def step(self) -> Path | None:
        return self.path.parent if self.path.name == "step.yaml" else None


def load(folder: Path, places: Sequence[Path], type_: type[T]) -> tuple[T, list[Path]]:
    """The step in `folder` with what it extends, and the folders of the steps among that, the nearest first.

    `places`: folders of steps, the nearest first. Raises SlipwayError 66 (a file cannot be read) or 78: a file is
    wrong, with the line; it extends what is not there, with the nearest; or itself.
    """
    parts = _parts(folder / "step.yaml", places, ())
    own = parts[-1].value
    if not isinstance(own, dict) or "extends" not in own:
        return yamldoc.convert(parts[-1].text, type_, str(parts[-1].path)), []
    merged: Any = {}
    parts = [_said(part, _words(parts)) for part in parts]
    for part in parts:
        merged = _over(merged, part.value)
    merged |= {key: own[key] for key in _OWN if key in own}
    value = yamldoc.typed(merged, type_, lambda path: _place(parts, path))
    return value, [step for part in reversed(parts[:-1]) if (step := part.step)]


def _parts(path: Path, places: Sequence[Path], inside: tuple[Path, ...]) -> list[Part]:
    """What a file extends, in order, and then the file itself; what comes by two ways counts where it comes first."""
    top = next(p.parent for p in places if path.is_relative_to(p))  # which has steps/
    text = read_text(trusted(path, top))
    value = yamldoc.parse(text, str(path))
    wanted = value.get("extends", []) if isinstance(value, dict) else []
    above: list[Part] = []
    for number, name in enumerate(wanted if isinstance(wanted, list) else []):
        at = f"{path}:{yamldoc.line_of(path, 'extends', number)}"
        file = find(name, places) if isinstance(name, str) else None
        if not file:
            raise SlipwayError(Exit.CONFIG, f"extends the unknown {name!r}", where=at, remedy=_nearest(name, places))
        if file in (path, *inside):
            raise SlipwayError(Exit.CONFIG, "extends itself", where=at)
        above += [p for p in _parts(file, places, (path, *inside)) if p.path not in {a.path for a in above}]
    return [*above, Part(path, text, _with_list(value, str(path)))]


def _words(parts: Sequence[Part]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in parts:
        words = part.value.get("words") if isinstance(part.value, dict) else None
        found |= words if isinstance(words, dict) else {}
    return found


def _said(part: Part, words: dict[str, Any]) -> Part:
    """The part with words in place of their names. Raises SlipwayError 78 where one is missing."""
    return replace(part, value=worded(part.value, words, str(part.path)))


def worded(value: Any, words: dict[str, Any], where: str) -> Any:
    """A value with words in place of their names. Raises SlipwayError 78 where one is missing."""

    def word(match: re.Match[str]) -> str:
        if isinstance(words.get(match[1]), str):
            return str(words[match[1]])
        what = f"stands for a word that the step does not say: words: {{{match[1]}: …}} in its step.yaml"
        raise SlipwayError(Exit.CONFIG, f"{match[0]} {what}", where=where)

    def said(value: Any) -> Any:
        if isinstance(value, dict):
            return {said(key): said(item) for key, item in value.items()}
        if isinstance(value, list):
            return [said(item) for item in value]
        return _WORD.sub(word, value) if isinstance(value, str) else value

    return said(value)


def _with_list(value: Any, where: str) -> Any:
    if isinstance(value, dict) and not isinstance(value.get("extends", []), list):
        raise SlipwayError(Exit.CONFIG, "extends: expected a list of names", where=where)
    return value


def find(name: str, places: Sequence[Path]) -> Path | None:
    """The file that a name stands for, below one of these folders of steps; None where there is none."""
    files = (p / name / "step.yaml" for p in places), (p / f"{name}.yaml" for p in places)
    inside = not Path(name).is_absolute() and ".." not in Path(name).parts
    return next((f for each in files for f in each if f.is_file()), None) if inside else None


def _nearest(name: Any, places: Sequence[Path]) -> str:
    known: set[str] = set()
    for place in places:
        files = sorted(place.rglob("*.yaml"))
        steps = {f.parent for f in files if f.name == "step.yaml"}
        common = {f.with_suffix("") for f in files if f.parent not in steps}
        known |= {path.relative_to(place).as_posix() for path in steps | common}
    return nearest(str(name), sorted(known))


def _over(below: Any, above: Any) -> Any:
    """What a file says over what it extends."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    found = _deep({key: value for key, value in below.items() if key not in _OWN}, above)
    for key in JOINED:
        if isinstance(below.get(key), list) and isinstance(above.get(key), list):
            found[key] = [*below[key], *above[key]]
    return found


def _deep(below: Any, above: Any) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return below | {key: _deep(below[key], value) if key in below else value for key, value in above.items()}


def _place(parts: Sequence[Part], path: Sequence[Any]) -> tuple[str, str, list[Any]]:
    """The text, the name and the place in it of what stands at `path` of the merged value."""
    path = list(path)
    if len(path) > 1 and path[0] in JOINED and isinstance(path[1], int):
        for part in parts:
            count = len(part.value.get(path[0], []) if isinstance(part.value, dict) else [])
            if path[1] < count:
                return part.text, str(part.path), path
            path[1] -= count
    best = max(reversed(parts), key=lambda part: _depth(part.value, path))
    return best.text, str(best.path), path


def _depth(value: Any, path: Sequence[Any]) -> int:
    """How much of `path` stands in a value."""
    for depth, key in enumerate(path):
        try:
            value = value[key]
        except (LookupError, TypeError):
            return depth
    return len(path)


def beside(folders: list[Path], name: str) -> Path:
    """The file of that name beside a step.yaml, else beside one that it extends."""
    return next((path for folder in folders if (path := folder / name).is_file()), folders[0] / name)

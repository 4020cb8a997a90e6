"""Tables of what a library refuses by itself, once a run has its GPUs: combinations of settings, row by row.

A step names its tables (`conflicts:`), files below a folder of steps. A row counts at the releases of its `when`, where
all conditions of its `if` hold. What a condition can say is closed: a value on the left, one comparison, a value on the
right. `<word>` stands for what the step says in `words:`, and a row with `<policy>` counts once for each of the step's
`policies:`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from images.locking.model import Entry
from launcher.catalog import inheritance
from launcher.catalog.commands import fits
from launcher.catalog.definitions import Step
from slipway import yamldoc
from slipway.errors import Exit, SlipwayError
from slipway.files import read_text
from slipway.project import Root, user_dirs
from slipway.trust import trusted
from slipway.yamldoc import Noun

# Numbers that no key says. `training`, `generating`: GPUs that train, that answer prompts; `data`: data parallel ones.
Size = Literal["nodes", "gpus", "world", "training", "generating", "data"]
SIZES = Size.__args__  # type: ignore[attr-defined]
# A number; a configuration key; a size; or a product of such.
Amount = int | float | str | list[int | str]
POLICY = "policy"
_LEFT = ("key", "variable", "input", "any")
_COMPARISONS = ("is_", "is_not", "given", "above", "below", "multiple_of", "no_multiple_of", "differs_from", "has")


class Condition(Noun, frozen=True, kw_only=True):
    """One thing that is so. On the left: a `key` (an Amount), a container's `variable`, an `input` (a `size` of it,
    of artifacts/nouns.py).

    `is`, `is_not`: a value, or one of several; null is what nothing says. `given`: whether it is said, and not null.
    `above`, `below`, `multiple_of`, `no_multiple_of`, `differs_from`: an Amount. `has`: a part of a text.
    `any`: one of these conditions, in place of all that.
    """

    key: Amount = ""
    variable: str = ""
    input: str = ""
    size: str = ""
    any: list[Condition] = []
    is_: Any = msgspec.field(name="is", default=msgspec.UNSET)
    is_not: Any = msgspec.UNSET
    given: bool | msgspec.UnsetType = msgspec.UNSET
    above: Amount | msgspec.UnsetType = msgspec.UNSET
    below: Amount | msgspec.UnsetType = msgspec.UNSET
    multiple_of: Amount | msgspec.UnsetType = msgspec.UNSET
    no_multiple_of: Amount | msgspec.UnsetType = msgspec.UNSET
    differs_from: Amount | msgspec.UnsetType = msgspec.UNSET
    has: str | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        left = [name for name in _LEFT if getattr(self, name)]
        if len(left) != 1 or (self.size and not self.input):
            raise ValueError(f"expected one of {', '.join(_LEFT)}, found {' and '.join(left) or 'none'}")
        compared = [n for n in _COMPARISONS if getattr(self, n) is not msgspec.UNSET]
        if len(compared) != (0 if self.any else 1):
            names = ", ".join(n.rstrip("_") for n in _COMPARISONS)
            raise ValueError(f"expected {'none' if self.any else 'one'} of {names}, found {len(compared)}")
        for amount in (self.key, *(getattr(self, n) for n in compared if n not in ("is_", "is_not", "given", "has"))):
            for factor in factors(amount):
                if isinstance(factor, str) and factor and "." not in factor and factor not in SIZES:
                    raise ValueError(f"{factor!r} is neither a configuration key nor one of {', '.join(SIZES)}")

    @property
    def comparison(self) -> tuple[str, Any]:
        """Its name, and what stands on the right."""
        return next((n.rstrip("_"), v) for n in _COMPARISONS if (v := getattr(self, n)) is not msgspec.UNSET)


class Source(Noun, frozen=True, kw_only=True):
    """Where the library refuses it: `files` of its repository that may hold it, and what `says` it there.

    `only_said`: a test cannot try the check out, since it asks for what only a run has; it looks for its words.
    `judged`: it is no check of the library's, and why it is known all the same.
    """

    files: list[str] = []
    says: str = ""
    only_said: bool = False
    judged: str = ""


class Example(Noun, frozen=True, kw_only=True):
    """A launch that the row refuses, by `words` beside the step's inputs; and its nearest neighbour, which passes.

    `env`: variables of the first alone. `passes`: the words of the second; where none are said, it has those of the
    first without what else is particular there: inputs not given (`without`), the model's architecture, `gpus`.
    """

    step: str
    words: list[str] = []
    passes: list[str] | None = None
    env: list[str] = []
    without: list[str] = []
    model: str = ""
    gpus: int = 8


class Conflict(Noun, frozen=True, kw_only=True):
    """`what` the library says where all conditions of `if` hold, at the releases `when`; `remedy`: what to do then."""

    if_: list[Condition] = msgspec.field(name="if")
    what: str
    remedy: str
    source: Source
    example: Example
    when: dict[str, str] = {}
    severity: Literal["error", "warning"] = "error"
    name: str = ""  # its own in the table; never written in the file


def table(root: Root, step: Step) -> dict[str, Conflict]:
    """Every row of the step's tables, at all releases, with the step's words. Raises SlipwayError 78."""
    found: dict[str, Conflict] = {}
    places = [base / "steps" for base in user_dirs(root)]
    for named in step.conflicts:
        file = inheritance.find(named, places)
        if file is None:
            where = f"{Path(step.folder) / 'step.yaml'}: conflicts"
            raise SlipwayError(Exit.CONFIG, f"there is no table {named!r}", where=where)
        text = read_text(trusted(file, next(p.parent for p in places if file.is_relative_to(p))))
        rows = yamldoc.parse(text, str(file))
        yamldoc.typed(rows, dict[str, Conflict], lambda path, t=text, f=file: (t, str(f), path))  # type: ignore[misc]
        for name, row in rows.items():
            found |= _rows(step, name, row, str(file))
    return found


def at_release(root: Root, step: Step, entry: Entry) -> list[Conflict]:
    """The rows that count for an entry. Raises SlipwayError 78: a table is missing, or wrong."""
    return [row for row in table(root, step).values() if fits(step, row.when, entry)]


def _rows(step: Step, name: str, row: Any, where: str) -> dict[str, Conflict]:
    """The row with words in place of their names; one for each policy, where it speaks of any."""
    policies: list[str] = step.policies if f"<{POLICY}>" in str(row["if"]) else [""]
    found = {}
    for policy in policies:
        said = inheritance.worded(row, step.words | ({POLICY: policy} if policy else {}), where)
        key = name if policy in ("", policies[0]) else f"{name}, {policy}"
        found[key] = msgspec.structs.replace(msgspec.convert(said, Conflict), name=key)
    return found


def factors(amount: Amount) -> list[int | float | str]:
    """What an amount is the product of."""
    return list(amount) if isinstance(amount, list) else [amount]

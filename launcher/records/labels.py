"""What its user calls a run: `--name` and `--tag`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from slipway.errors import Exit, SlipwayError
from slipway.yamldoc import Noun

LABEL = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
LONGEST = 200  # characters of a tag's value


class Labels(Noun, frozen=True, kw_only=True):
    """What its user calls a run: a name by which commands find it while no other has it, and tags."""

    name: str = ""
    tags: dict[str, str] = {}


def said(name: str, tags: Iterable[str]) -> Labels:
    """Of `--name NAME` and `--tag KEY[=VALUE]`. Raises SlipwayError 64."""
    pairs = dict(tag.partition("=")[::2] for tag in tags)
    for option, word in (("--name", name), *(("--tag", key) for key in pairs)):
        if (word or option == "--tag") and not LABEL.fullmatch(word):
            remedy = "begin with a letter; up to 64 letters, digits, '.', '_' and '-' may stand there"
            raise SlipwayError(Exit.WORDS, f"{word!r} is no {option[2:]}", where=option, remedy=remedy)
    if name == "last":
        raise SlipwayError(Exit.WORDS, "'last' is the newest run", where="--name", remedy="take another name")
    if odd := next((value for value in pairs.values() if not value.isprintable() or len(value) > LONGEST), None):
        what = f"{odd[:LONGEST]!r} is no value: expected at most {LONGEST} characters that can be printed"
        raise SlipwayError(Exit.WORDS, what, where="--tag")
    return Labels(name=name, tags=pairs)

"""What a rendered Dockerfile adds to an official base, instruction by instruction, for where nothing can build it.

Only what templates/official.Dockerfile.j2 and Dockerfile.j2 write is known: a text of ours, not anybody's Dockerfile.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

from slipway.errors import Exit, SlipwayError

# How the Dockerfile runs its verify: as somebody whom the image does not know.
NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups"
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_SOURCE = "source-"  # the stages that hold repositories


@dataclass(frozen=True)
class Set:
    """ENV (`env`) and LABEL (`labels`): variables as they are written, `${NAME}` for what was set before."""

    env: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """RUN: a line for /bin/sh. `brought`: path in the image -> file of the context that is seen there meanwhile."""

    line: str
    network: bool = True
    brought: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Copy:
    """COPY: a file of the context with its `mode`, or the whole tree of the `repository`."""

    target: str
    file: str = ""
    mode: str = ""
    repository: str = ""


Instruction = Set | Run | Copy


def read(dockerfile: str) -> list[Instruction]:
    """What the last stage does, in its order. Raises SlipwayError 70 for what no template of ours writes."""
    lines = [line for line in dockerfile.splitlines() if line and not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", "").splitlines()
    last = max(number for number, line in enumerate(whole) if line.startswith("FROM "))
    return [_one(line) for line in whole[last + 1 :]]


def expanded(variables: dict[str, str], before: dict[str, str]) -> dict[str, str]:
    """`variables` with what was set before in place of `${NAME}`; nothing where it was not set."""
    return {name: _VARIABLE.sub(lambda m: before.get(m[1], ""), value) for name, value in variables.items()}


def _one(line: str) -> Instruction:
    word, _, rest = line.partition(" ")
    options: dict[str, str] = {}
    while found := re.match(r"\s*--([a-z]+)=(\S+)\s+", rest):
        if found[1] in options:
            raise _unknown(line)
        options[found[1]], rest = found[2], rest[found.end() :]
    rest = rest.strip()
    if word in ("ENV", "LABEL") and not options:
        given = dict(pair.split("=", 1) for pair in shlex.split(rest))
        return Set(env=given) if word == "ENV" else Set(labels=given)
    if word == "RUN" and options.keys() <= {"network", "mount"} and options.get("network", "none") == "none":
        return Run(rest, "network" not in options, _bound(line, options["mount"]) if "mount" in options else {})
    if word == "COPY" and len(words := rest.split()) == 2:
        if options.keys() == {"chmod"}:
            return Copy(words[1], file=words[0], mode=options["chmod"])
        if options.keys() == {"from"} and options["from"].startswith(_SOURCE) and words[0] == "/tree/":
            return Copy(words[1], repository=options["from"].removeprefix(_SOURCE))
    raise _unknown(line)


def _bound(line: str, mount: str) -> dict[str, str]:
    words = dict(word.split("=", 1) for word in mount.split(","))
    if words.keys() != {"type", "source", "target"} or words["type"] != "bind":
        raise _unknown(line)
    return {words["target"]: words["source"]}


def _unknown(line: str) -> SlipwayError:
    what = f"only a build engine knows this instruction: {line}"
    return SlipwayError(Exit.INTERNAL, what, where="Dockerfile", remedy="where an engine is, run: images build")

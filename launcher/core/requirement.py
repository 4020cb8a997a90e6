"""What has to be there before a run starts, and how it is made. Where it is now, and who makes it: records/store.py."""

from __future__ import annotations

from slipway.yamldoc import Noun


class Requirement(Noun, frozen=True, kw_only=True):
    """A folder that a step makes of an input, for whoever needs it.

    `input`: of the run that needs it; `type`: what it will be; `source` and `fingerprint`: of what it is made; `by`:
    the step, with its `words` and on this many `nodes`, `gpus` and `procs` of each; `place`: the folder on the host;
    `key`: what it is made of and with, where that names the folder.
    """

    input: str
    type: str
    source: str
    fingerprint: str
    by: str
    place: str
    words: list[str] = []
    nodes: int = 1
    gpus: int = 0
    procs: int = 1
    key: str = ""

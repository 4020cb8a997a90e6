"""What `launch selftest` takes for a step's `tiny` configuration: `selftest:` of step.yaml."""

from __future__ import annotations

from typing import Annotated

import msgspec

from slipway.yamldoc import Noun


class Selftest(Noun, frozen=True, kw_only=True):
    """`inputs`: input -> what it gets, a material (`launcher/selftest/materials.py`) or the step whose output it is.

    `words`: further words; `gpus`: how many it takes; `procs`: processes on the cpu flavour.
    """

    inputs: dict[str, str] = {}
    words: list[str] = []
    gpus: Annotated[int, msgspec.Meta(ge=0)] = 1
    procs: Annotated[int, msgspec.Meta(ge=1)] = 1

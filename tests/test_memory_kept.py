"""launcher/planning/checks/memory_kept.py: what a run keeps of its estimate."""

from __future__ import annotations

import itertools

import msgspec
import rl
from helpers import SpecOf
from test_memory import LARGE, LLAMA_8B
from test_memory_rl import start
from test_parallelism import SFT, Found

from launcher.catalog.profiles import Gpu, Profile
from launcher.planning.checks import memory, memory_kept


def test_the_estimate_is_kept_with_the_next_shape_that_takes_less(spec_of: SpecOf, profile: Profile) -> None:
    """Also where it fits by far, as was thought: it is kept for the case that it does not."""
    for size in ("80GiB", "28GiB", "12GiB"):
        here = msgspec.structs.replace(profile, gpu=Gpu(model="H100", memory=size))
        found = Found(spec_of, SFT, profile=here, given=[LARGE])
        kept = memory_kept.of(found.spec, found.seen)
        assert kept["estimate"].startswith(f"about 24.8 of {size[:2]} GiB a GPU: weights 3.7")
        smaller = Found(spec_of, SFT, *_words(kept["smaller"]), profile=here, given=[LARGE], **_shape(kept["smaller"]))
        sized = memory.sized(smaller.spec, smaller.seen)
        assert sized and sum(memory.estimate(*sized[:2]).values()) < 0.85 * 24.9 * memory.GIB


def _words(said: str) -> list[str]:
    return [word for word in said.split() if "=" in word]


def _shape(said: str) -> dict[str, int]:
    words = said.split()
    shape = dict(itertools.pairwise(words))
    nodes, gpus = int(shape.get("--nodes", 1)), int(shape.get("--gpus", 8))
    return {"nodes": nodes, "gpus": gpus, "procs": gpus}


def test_of_reinforcement_learning_the_largest_phase_is_kept(spec_of: SpecOf, profile: Profile) -> None:
    here = msgspec.structs.replace(profile, gpu=Gpu(model="H100", memory="80GiB"))
    found = start(spec_of, here, "grpo", rl.RELEASES[-1], policy=LLAMA_8B)
    assert "GiB a GPU, most in" in memory_kept.of(found.spec, found.seen)["estimate"]


def test_of_what_is_not_known_nothing_is_kept(spec_of: SpecOf, profile: Profile) -> None:
    found = Found(spec_of, SFT, profile=profile, given=[LARGE])
    assert memory_kept.of(found.spec, found.seen) == {}

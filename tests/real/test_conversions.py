"""A model is converted into NRL_MEGATRON_CHECKPOINT_DIR once, before the step that reads it; on a real engine."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import cache as cache_steps
from .cache import conversions, converted, leftovers, model, reads
from .conftest import Work
from .support import Run, Tree, until

pytestmark = pytest.mark.real
NAME = "NRL_MEGATRON_CHECKPOINT_DIR"


@pytest.fixture
def cache(place: Path) -> Path:
    return place / "cache"


@pytest.fixture
def before(tree: Tree) -> Iterator[list[Run]]:
    yield tree.all_runs()
    tree.end_all()


def seen(output: Path) -> dict[str, Any]:
    return dict(json.loads((output / "seen.json").read_text()))


def reached(cache: Path, stage: str) -> Path:
    """The folder that a converter fills, once it stands at a stage."""

    def look() -> Path | None:
        return next((p.parent for p in cache.glob("*/model_*/reached") if p.read_text() == stage), None)

    return until(f"the converter at {stage}", look)


def test_first_it_is_converted_and_the_next_launch_finds_it(
    tree: Tree, work: Work, place: Path, cache: Path, before: list[Run]
) -> None:
    words = reads(model(work.model, place), place / "one")
    planned = tree.launch(*words, "--dry-run", **{NAME: str(cache)})
    assert planned.code == 0 and not cache.exists(), planned
    assert planned.out.index("test/converts") < planned.out.index("test/reads")
    checked = tree.launch("check", *words, **{NAME: str(cache)})
    assert checked.code == 0 and "policy: first test/converts, into " in checked.err, checked
    first = tree.launch(*words, **{NAME: str(cache)})
    assert first.code == 0 and "policy: first test/converts, into " in first.err, first
    (made,) = converted(tree, cache)
    (conversion,) = conversions(tree, before)
    assert (made["state"], made["run"], made["model"]) == ("whole", conversion.id, str(place / "model"))
    assert seen(place / "one")["place"] == f"/cache/megatron/{made['folder']}"
    assert seen(place / "one")["found"] == ["iter_0000000", "latest_checkpointed_iteration.txt", "slipway.json"]
    again = tree.launch(*reads(place / "model", place / "two"), **{NAME: str(cache)})
    assert again.code == 0 and "test/converts" not in again.err
    assert len(conversions(tree, before)) == 1 and leftovers(cache) == []


def test_a_second_launch_waits_for_the_first_ones_conversion(
    tree: Tree, work: Work, place: Path, cache: Path, before: list[Run]
) -> None:
    kept = model(work.model, place, "half")
    launched = [tree.start("launch", *reads(kept, place / "one"), **{NAME: str(cache)})]
    at = reached(cache, "half")
    launched.append(tree.start("launch", *reads(kept, place / "two"), **{NAME: str(cache)}))
    launched[1].await_told("waiting for run ")
    assert [i["state"] for i in converted(tree, cache)] == ["being made"]
    (at / "go").touch()
    assert [command.finish().code for command in launched] == [0, 0]
    assert len(conversions(tree, before)) == 1 and leftovers(cache) == []
    assert seen(place / "one") == seen(place / "two")


def race(tree: Tree, kept: Path, place: Path, cache: Path) -> None:
    before = tree.all_runs()
    both = [tree.start("launch", *reads(kept, place / name), **{NAME: str(cache)}) for name in ("one", "two")]
    assert [command.finish().code for command in both] == [0, 0]
    assert len(conversions(tree, before)) == 1 and leftovers(cache) == []


def test_two_launches_at_once(tree: Tree, work: Work, place: Path, cache: Path) -> None:
    race(tree, model(work.model, place), place, cache)


@pytest.mark.long
@pytest.mark.parametrize("_number", range(20))
def test_two_launches_at_once_again(tree: Tree, work: Work, place: Path, cache: Path, _number: int) -> None:
    race(tree, model(work.model, place), place, cache)


@pytest.mark.parametrize(
    "stage", [pytest.param("start", marks=pytest.mark.long), pytest.param("half", marks=pytest.mark.long), "end"]
)
def test_a_converter_that_was_killed_is_no_converter(
    tree: Tree, work: Work, place: Path, cache: Path, before: list[Run], stage: str
) -> None:
    """What it has left, complete to the eye of NeMo RL as it may be, goes aside, and is made anew."""
    kept = model(work.model, place, stage)
    launched = tree.start("launch", *reads(kept, place / "one"), **{NAME: str(cache)})
    at = reached(cache, stage)
    (conversion,) = until("the conversion", lambda: conversions(tree, before) or None)
    tree.container(conversion).kill()
    assert launched.finish().code == 137 and not (place / "one" / "seen.json").exists()
    assert [i["state"] for i in converted(tree, cache)] == ["unfinished"] and leftovers(cache) == []
    again = tree.start("launch", *reads(kept, place / "two"), **{NAME: str(cache)})
    again.await_told("was not whole: it is in ")
    reached(cache, stage)
    (at / "go").touch()
    assert again.finish().code == 0 and len(conversions(tree, before)) == 2
    assert sorted(i["state"] for i in converted(tree, cache)) == ["quarantined", "whole"]
    pruned = tree.launch("cache", "prune", "--megatron-cache", str(cache))
    assert pruned.code == 0 and [i["state"] for i in converted(tree, cache)] == ["whole"], pruned


def test_a_launcher_that_was_killed_leaves_a_conversion_that_goes_on(
    tree: Tree, work: Work, place: Path, cache: Path, before: list[Run]
) -> None:
    kept = model(work.model, place, "half")
    launched = tree.start("launch", *reads(kept, place / "one"), **{NAME: str(cache)})
    at = reached(cache, "half")
    launched.kill()
    second = tree.start("launch", *reads(kept, place / "two"), **{NAME: str(cache)})
    second.await_told("waiting for run ")
    (at / "go").touch()
    assert second.finish().code == 0
    assert len(conversions(tree, before)) == 1 and leftovers(cache) == []


def test_a_converter_that_fails_ends_the_launch(
    tree: Tree, work: Work, place: Path, cache: Path, before: list[Run]
) -> None:
    done = tree.launch(*reads(model(work.model, place, "fault"), place / "one"), **{NAME: str(cache)})
    assert done.code == 3 and len(conversions(tree, before)) == len(tree.all_runs()) - len(before) == 1
    assert [i["state"] for i in converted(tree, cache)] == ["unfinished"] and leftovers(cache) == []


# From here on, --convert: a step that takes Megatron's checkpoints is given a model of Hugging Face.


@pytest.fixture
def own_steps(tree: Tree, place: Path) -> Tree:
    """The project of a user with a converter that waits where it is told to, and a step that takes what that makes."""
    cache_steps.takes(place / "config")
    runs, env = place / "runs", {"XDG_CONFIG_HOME": str(place / "config"), "SLIPWAY_RUNS": str(place / "runs")}
    return dataclasses.replace(tree, runs=runs, env=tree.env | env, prefix=[], _started=[])


def takes(model: Path, output: Path) -> tuple[str, ...]:
    return ("a/takes", "--convert", "--flavour", "cpu", f"policy={model}", f"output={output}")


def of(runs: list[Run]) -> list[str]:
    return [run.record["plan"]["step"] for run in runs]


def stage_of(tree: Tree, stage: str) -> Path:
    def look() -> Path | None:
        there = (tree.runs / ".converted").glob("*/reached")
        return next((p.parent for p in there if p.read_text() == stage), None)

    return until(f"the converter at {stage}", look)


def test_a_conversion_that_failed_is_made_anew_by_the_next_launch(own_steps: Tree, work: Work, place: Path) -> None:
    kept = model(work.model, place, "half")
    first = own_steps.start("launch", *takes(kept, place / "one"))
    stage_of(own_steps, "half")
    own_steps.container(own_steps.all_runs()[0]).kill()
    assert first.finish().code == 137
    again = own_steps.start("launch", *takes(kept, place / "one"))
    again.await_told("was not whole: it is in ")
    (stage_of(own_steps, "half") / "go").touch()
    done = again.finish()
    assert done.code == 0 and of(own_steps.all_runs()) == ["a/converts", "a/converts", "a/takes"], done
    assert list((own_steps.runs / ".converted" / ".leases").glob("*")) == []


def test_one_launch_converts_and_the_other_waits(own_steps: Tree, work: Work, place: Path) -> None:
    """The first one's launcher is killed meanwhile: the conversion is its run's, not the launcher's."""
    kept = model(work.model, place, "half")
    first = own_steps.start("launch", *takes(kept, place / "one"))
    at = stage_of(own_steps, "half")
    first.kill()
    second = own_steps.start("launch", *takes(kept, place / "two"))
    second.await_told("waiting for run ")
    assert (at / "iter_0000000").is_dir(), "what is being made stays"
    (at / "go").touch()
    done = second.finish()
    assert done.code == 0 and of(own_steps.all_runs()) == ["a/converts", "a/takes"], done
    third = own_steps.launch(*takes(kept, place / "three"))
    assert third.code == 0 and f"policy: a/converts has made {at} before" in third.err, third

"""An input of the hub, for real: fetched from a hub on loopback, trained in a container that has no network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hubs import Hub, hub_in

from .conftest import Work
from .support import Tree

pytestmark = pytest.mark.real


@pytest.fixture
def hub(place: Path) -> Iterator[Hub]:
    with hub_in(place / "hub") as found:
        yield found


def test_a_step_trains_a_model_of_the_hub(tree: Tree, work: Work, place: Path, hub: Hub) -> None:
    commit = hub.add("org/tiny", work.model, "main")
    data = place / "data"
    data.mkdir()
    (data / "train.jsonl").write_bytes(work.train.read_bytes())
    chats = hub.add("org/chats", data, "main", kind="datasets")
    profile = tree.path / "slipway.d" / "profiles" / f"{place.name}.yaml"
    profile.parent.mkdir(parents=True, exist_ok=True)
    profile.write_text("schema: 1\nkind: docker\nextends: docker\nnetwork: none\n")
    step = ("sft/automodel", "--flavour", "cpu", "-c", "tiny", "--profile", place.name, "max_steps=2")
    inputs = ("train=hf://datasets/org/chats/train.jsonl", "model=hf://org/tiny")
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(place / "hf")}
    done = tree.launch(*step, *inputs, f"output={place / 'out'}", **env)
    assert done.code == 0, (done.out[-3000:], done.err)
    assert f"hf://org/tiny@{commit}: fetching" in done.err
    run = tree.run_of(done)
    plan, seen = run.record["plan"], run.record["config"]
    model, train = (plan["inputs"][name]["fingerprint"] for name in ("model", "train"))
    assert f"/inputs/model-{model[:8]}/snapshots/{commit}" in seen
    assert f"/inputs/train-{train[:8]}/snapshots/{chats}/train.jsonl" in seen
    assert run.outcome["result"]["steps"] == 2 and (Path(run.outcome["checkpoint"]) / "config.json").is_file()

    hub.forget()
    again = ("train=" + plan["inputs"]["train"]["hub"], "model=" + plan["inputs"]["model"]["hub"])
    done = tree.launch(*step, *again, f"output={place / 'out'}", "-o", str(place / "again"), **env)
    assert done.code == 73, "the output of the first run is there"
    (place / "out").rename(place / "first")
    done = tree.launch(*step, *again, f"output={place / 'out'}", "-o", str(place / "again"), **env)
    assert done.code == 0, done
    assert json.loads((place / "again" / "plan.json").read_text()) == plan
    assert hub.asked == [], "recorded commits that are in the cache need no hub"

"""What a container gets of the caller's HF_HOME, for real: the hub's snapshots to read, and no login."""

from __future__ import annotations

from pathlib import Path

import pytest
from hubs import hub_in

from . import hf_home
from .conftest import Work, toy
from .support import Tree

pytestmark = pytest.mark.real

LIBRARIES = """
import datasets, os, transformers
model = transformers.AutoModelForCausalLM.from_pretrained("org/tiny")
print("loaded", type(model).__name__, len(transformers.AutoTokenizer.from_pretrained("org/tiny")) > 0)
rows = datasets.load_dataset("json", data_files=os.environ["ROWS"], split="train")
print("prepared", rows.num_rows, rows.map(lambda row: {"n": 1}).cache_files[0]["filename"])
"""


def test_a_login_is_hidden_and_the_hubs_cache_cannot_be_changed(tree: Tree, place: Path) -> None:
    home = place / "hf"
    before = hf_home.log_in(home)
    done = tree.launch(*toy(place / "out"), *hf_home.told(), HF_HOME=str(home))
    assert done.code == 0, done
    assert hf_home.seen(done.out) == hf_home.HIDDEN
    assert hf_home.content(home) == before, "what the step wrote into its HF_HOME is the run's"
    assert (home / "datasets" / "by-the-toy").is_file(), "what datasets prepares is there for the next run"
    assert (tree.run_of(done).path / "hf" / "by-the-toy").is_file()


def test_a_home_that_has_never_been_used(tree: Tree, place: Path) -> None:
    done = tree.launch(*toy(place / "out"), *hf_home.told(), HF_HOME=str(place / "hf"))
    assert done.code == 0, done
    assert [p.name for p in (place / "hf").iterdir()] == ["datasets"]


def test_the_libraries_read_the_cache_and_keep_what_they_prepare(tree: Tree, work: Work, place: Path) -> None:
    """By the model's id, offline; rows that the second run finds prepared."""
    home, rows = place / "hf", place / "rows"
    rows.mkdir()
    (rows / "a.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    with hub_in(place / "hub") as hub:
        hub.add("org/tiny", work.model, "main")
        assert tree.launch("fetch", "hf://org/tiny", HF_ENDPOINT=hub.url, HF_HOME=str(home)).code == 0
    profile = tree.path / "slipway.d" / "profiles" / f"{place.name}.yaml"
    profile.parent.mkdir(parents=True, exist_ok=True)
    mounts = f"mounts: [{{source: {rows}, target: /rows}}]"
    profile.write_text(f"schema: 1\nkind: docker\nextends: docker\nnetwork: none\n{mounts}\n")
    words = ("--profile", place.name, *hf_home.told(LIBRARIES), "--env", "ROWS=/rows/a.jsonl")
    first = tree.launch(*toy(place / "one"), *words, HF_HOME=str(home))
    assert first.code == 0, first
    assert "loaded LlamaForCausalLM True" in first.out and "prepared 2 /cache/datasets/json/" in first.out
    prepared = sorted(p for p in (home / "datasets").rglob("*.arrow"))
    times = [p.stat().st_mtime_ns for p in prepared]
    again = tree.launch(*toy(place / "two"), *words, HF_HOME=str(home))
    assert again.code == 0 and prepared
    assert [p.stat().st_mtime_ns for p in prepared] == times
    assert "Generating train split" in first.out and "Generating train split" not in again.out

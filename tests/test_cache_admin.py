"""`launch cache` on folders without an engine: what is listed, verified, removed and adopted, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import Done, Project, write_checkpoint
from test_checkpoints import write_megatron
from test_store import run_of, whole

from launcher.artifacts import marker
from launcher.records import store


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """One whole, one unfinished, one that went aside, one whose run never began, and a lock of the library's own."""
    libraries = tmp_path / "cache" / "v0.7.0-1-2"
    write_megatron(whole(libraries / "model_whole"), iteration=0)
    (libraries / "model_half" / "iter_0000000").mkdir(parents=True)
    (libraries / ".quarantine" / "model_old.run").mkdir(parents=True)
    (libraries / ".quarantine" / "model_old.run" / "w").write_text("12345")
    (libraries / "configs").mkdir()
    store.take(libraries / "model_dead", run_of(tmp_path, "dead"), "docker")
    return tmp_path / "cache"


def cache(project: Project, home: Path, verb: str, *words: str) -> Done:
    return project.launch("cache", verb, *words, "--megatron-cache", str(home))


def test_list(project: Project, home: Path) -> None:
    found = json.loads(cache(project, home, "list", "--json").stdout)
    assert [(i["folder"], i["state"]) for i in found] == [
        ("model_dead", "unfinished"), ("model_half", "unfinished"), ("model_whole", "whole"),
        ("model_old.run", "quarantined"),
    ]  # fmt: skip
    assert {i["libraries"] for i in found} == {"v0.7.0-1-2"}
    shown = cache(project, home, "list")
    assert shown.code == 0 and "model_whole  of /m, run r, 2026-11-22T00:00:00Z\n" in shown.stdout
    nothing = cache(project, home / "elsewhere", "list")
    assert (nothing.code, nothing.stdout) == (0, "nothing has been converted there\n")


def test_prune_leaves_what_is_whole(project: Project, home: Path) -> None:
    done = cache(project, home, "prune")
    assert done.code == 0 and len(done.stdout.splitlines()) == 3
    found = json.loads(cache(project, home, "list", "--json").stdout)
    assert [i["folder"] for i in found] == ["model_whole"]
    assert not list(home.glob("*/.leases/*")) and (home / "v0.7.0-1-2" / "configs").is_dir()
    assert cache(project, home, "prune", "model_whole").code == 0
    assert json.loads(cache(project, home, "list", "--json").stdout) == []


def test_prune_of_what_is_not_there(project: Project, home: Path) -> None:
    done = cache(project, home, "prune", "model_hole")
    assert done.code == 66 and "there is no 'model_hole' in the cache" in done.stderr and "model_whole" in done.stderr


def test_verify(project: Project, home: Path) -> None:
    done = cache(project, home, "verify", "model_whole")
    assert (done.code, done.stdout) == (0, ""), done
    assert cache(project, home, "verify").code == 65  # the others are not whole
    (shard, _) = sorted((home / "v0.7.0-1-2" / "model_whole" / "iter_0000000").glob("*.distcp"))
    shard.unlink()
    done = cache(project, home, "verify", "model_whole")
    assert done.code == 65 and f"{shard}: a shard of .metadata is missing" in done.stdout


def adopt(project: Project, tmp_path: Path, source: Path, word: str, step: str = "rl/grpo") -> Done:
    return cache(project, tmp_path / "cache", "adopt", str(source), step, word)


def test_adopt(project: Project, tmp_path: Path) -> None:
    source, model = write_megatron(tmp_path / "old", iteration=0), write_checkpoint(tmp_path / "model")
    done = adopt(project, tmp_path, source, f"policy={model}")
    assert done.code == 0, done
    folder = Path(done.stdout.strip())
    assert folder.name.startswith("model__inputs_policy-") and folder.parent.name.startswith("v0.7.0-")
    assert marker.read(folder)
    (item,) = json.loads(cache(project, tmp_path / "cache", "list", "--json").stdout)
    assert (item["state"], item["model"]) == ("whole", str(model))
    again = adopt(project, tmp_path, source, f"policy={model}")
    assert again.code == 73 and "is there already" in again.stderr


def test_what_is_not_adopted(project: Project, tmp_path: Path) -> None:
    source, model = write_megatron(tmp_path / "old", iteration=0), write_checkpoint(tmp_path / "model")
    told = adopt(project, tmp_path, source, f"train={model}")
    assert told.code == 64 and "keeps no converted 'train'" in told.stderr and "one of: policy" in told.stderr
    assert adopt(project, tmp_path, source, f"policy={model}", step="sft/automodel").code == 64
    told = adopt(project, tmp_path, source, f"policy={source}")
    assert told.code == 65 and "found checkpoint_megatron" in told.stderr
    told = adopt(project, tmp_path, model, f"policy={model}")
    assert told.code == 65 and "is no checkpoint_megatron: found checkpoint_hf" in told.stderr
    with (source / "iter_0000000" / "run_config.yaml").open("a") as f:
        f.write("model: {num_layers: 4}\n")
    (model / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2}')
    told = adopt(project, tmp_path, source, f"policy={model}")
    assert told.code == 65 and "layers is 4" in told.stderr
    assert not (tmp_path / "cache").exists()


def test_what_a_run_makes_that_cannot_be_seen_is_left_alone(project: Project, tmp_path: Path, home: Path) -> None:
    """A run directory of another machine: whether it lives is not known here."""
    (tmp_path / "runs" / "dead").rmdir()
    listed = cache(project, home, "list", "--json")
    states = {i["folder"]: i["state"] for i in json.loads(listed.stdout)}
    assert states["model_dead"] == "being made" and "cannot be seen from here" in listed.stderr
    assert "model_dead" not in cache(project, home, "prune").stdout
    refused = cache(project, home, "prune", "model_dead")
    assert refused.code == 75 and "run dead makes it now" in refused.stderr
    assert cache(project, home, "prune", "--force", "model_dead").code == 0
    assert "model_dead" not in cache(project, home, "list").stdout


@pytest.mark.parametrize("kind", ["marker", "lease"])
def test_one_that_cannot_be_read_hides_no_other_and_is_left_alone(project: Project, home: Path, kind: str) -> None:
    """A link to what a container must not make us read."""
    libraries = home / "v0.7.0-1-2"
    name, odd = "model_half", libraries / "model_half" / "slipway.json"
    if kind == "lease":
        name, (odd,) = "model_dead", (libraries / ".leases" / "model_dead").glob("*.json")
        odd.unlink()
    odd.symlink_to("/etc/hostname")
    listed = cache(project, home, "list")
    (row,) = (row for row in listed.stdout.splitlines() if name in row)
    assert listed.code == 0 and "unreadable" in row and str(odd) in row, listed
    assert len(listed.stdout.splitlines()) == 4
    told = cache(project, home, "verify", name)
    assert told.code == 65 and str(odd) in told.stdout
    refused = cache(project, home, "prune", name)
    assert refused.code == 65 and "remove it by hand" in refused.stderr
    assert cache(project, home, "prune").code == 0
    assert {i["folder"] for i in json.loads(cache(project, home, "list", "--json").stdout)} == {name, "model_whole"}

"""launcher/catalog/cache_location.py: which folder it is, which rule chose it, and that libraries have one each."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import REPO, Project, SpecOf, entry_of, seen_of
from rl import launch, model, usual

from images.locking import lock as locks
from images.locking.model import Environment
from launcher.catalog import cache_location, definitions
from launcher.catalog.cache_location import NAME
from launcher.planning import preparation
from launcher.planning.checks import preflight
from launcher.planning.planner import make_plan
from slipway.project import Root

MAIN = Environment(python="/opt/venv/bin/python", packages={"megatron-core": "0.15.0", "megatron-bridge": ">=0.2,<0.3"})
ENTRY = entry_of("cuda", library="nemo-rl", release="v0.7.0", environments={"main": MAIN})


@pytest.mark.parametrize(
    ("option", "profile", "environ", "folder", "rule"),
    [
        ("/o", "/p", {NAME: "/v", "HF_HOME": "/hf"}, "/o", "--megatron-cache"),
        (None, "/p", {NAME: "/v", "HF_HOME": "/hf"}, "/p", "the profile's megatron_cache"),
        (None, None, {NAME: "/v", "HF_HOME": "/hf"}, "/v", f"{NAME} of this shell"),
        (None, None, {NAME: "  ", "HF_HOME": "/hf"}, "/hf/nemo_rl", "HF_HOME"),
        (None, None, {NAME: "", "HF_HOME": " "}, "~/.cache/huggingface/nemo_rl", "the usual place"),
        (None, None, {}, "~/.cache/huggingface/nemo_rl", "the usual place"),
    ],
)
def test_the_highest_that_is_set_counts(
    option: str | None, profile: str | None, environ: dict[str, str], folder: str, rule: str
) -> None:
    found = cache_location.choose(option, profile, environ, "/hf", ENTRY)
    assert found.path == str(Path(folder).expanduser() / "v0.7.0-0.15.0-_0.2_0.3")
    assert found.rule == rule


def test_other_libraries_have_another_folder() -> None:
    other = Environment(python="/opt/venv/bin/python", packages={"megatron-core": "0.16.0"})
    keys = {cache_location.key(e) for e in (ENTRY, entry_of("cuda", environments={"main": other}), entry_of("cuda"))}
    assert len(keys) == 3 and "1.0-0.16.0-unknown" in keys


@pytest.mark.parametrize("nodes", [1, 2])
def test_it_is_mounted_exported_and_shared(spec_of: SpecOf, nodes: int) -> None:
    cache = cache_location.choose("/caches", None, {}, "/hf", ENTRY)
    plan = make_plan(spec_of(megatron_cache=cache, nodes=nodes), seen_of(), {})
    (mount,) = (m for m in plan.mounts if m.target == "/cache/megatron")
    assert (mount.source, mount.readonly) == (cache.path, False)
    assert plan.env[NAME].value == plan.env["MEGATRON_CONFIG_LOCK_DIR"].value == "/cache/megatron"
    assert plan.env["SLIPWAY_SHARED"].value == (
        "/output /cache/hf /cache/datasets /cache/megatron" if nodes > 1 else ""
    )
    without = make_plan(spec_of(), seen_of(), {})
    assert NAME not in without.env and all(m.target != "/cache/megatron" for m in without.mounts)


def test_only_steps_that_convert_have_it() -> None:
    steps = {s.id: s.caches for s in definitions.all_steps(Root(REPO))}
    have = {name for name, caches in steps.items() if caches}
    assert have == {n for n in steps if n.startswith("rl/nemo_rl/")}


def test_nobody_else_may_set_it(spec_of: SpecOf) -> None:
    spec = spec_of(env={NAME: "/elsewhere"})
    told = [(f.where, f.what) for f in preflight.check(spec, seen_of())]
    assert (f"--env: {NAME}", "is set by the launcher") in told


def test_the_launch_says_which_and_why(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, str(tmp_path / "mine"))
    rows = tmp_path / "prompts.jsonl"
    rows.write_text('{"input": "1+1", "output": "2"}\n' * 4)
    words = (f"train={rows}", f"policy={tmp_path}", "backend=megatron")
    found = preparation.prepare(project.root, preparation.Options("rl/grpo", words, flavour="cuda"))
    (note,) = (n for n in found.notes if n.startswith(NAME))
    assert note.startswith(f"{NAME}: {tmp_path}/mine/") and note.endswith(f"({NAME} of this shell)")


@pytest.mark.parametrize(
    ("step", "names"),
    [("grpo", ["policy"]), ("rm", ["model"]), ("distillation", ["student", "teacher"]), ("rlhf", ["policy"])],
)
def test_what_the_megatron_backend_reads_is_made_first(spec_of: SpecOf, step: str, names: list[str]) -> None:
    cache = cache_location.choose("/caches", None, {}, "/hf", ENTRY)
    plan = launch(spec_of, step, "v0.7.0", usual(step), "backend=megatron", megatron_cache=cache).plan
    assert [n.input for n in plan.needs] == names
    folders = [f"model__inputs_{name}-dddddddd" for name in names]
    assert [n.place for n in plan.needs] == [f"{cache.path}/{folder}" for folder in folders]
    assert {n.by for n in plan.needs} == {"convert/nemo_rl_megatron"}
    assert plan.env["SLIPWAY_CONVERTED"].value.splitlines() == [f"/cache/megatron/{folder}" for folder in folders]
    other = launch(spec_of, step, "v0.7.0", usual(step), "backend=dtensor", megatron_cache=cache).plan
    assert other.needs == [] and "SLIPWAY_CONVERTED" not in other.env


def test_a_start_from_megatron_needs_no_conversion(spec_of: SpecOf) -> None:
    cache = cache_location.choose("/caches", None, {}, "/hf", ENTRY)
    given = [*usual("grpo")[:2], model("policy", "checkpoint_megatron"), model("config")]
    plan = launch(spec_of, "grpo", "v0.7.0", given, "backend=megatron", megatron_cache=cache).plan
    assert plan.needs == []


def test_it_is_shared_by_as_many_processes_as_in_training(spec_of: SpecOf) -> None:
    cache = cache_location.choose("/caches", None, {}, "/hf", ENTRY)
    said = ("backend=megatron", "policy.megatron_cfg.tensor_model_parallel_size=4")
    (need,) = launch(spec_of, "grpo", "v0.7.0", usual("grpo"), *said, megatron_cache=cache).plan.needs
    assert need.words == ["model=/data/policy", "tensor_parallel=4"]
    assert (need.nodes, need.gpus, need.procs) == (1, 4, 4)


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("policy.megatron_cfg.force_reconvert_from_hf=true", "launch cache prune FOLDER, and leave this out"),
        ("policy.hf_config_overrides.rope_theta=1e6", "write them into the config.json of a copy of the model"),
    ],
)
def test_nothing_makes_nemo_rl_convert_by_itself(spec_of: SpecOf, said: str, remedy: str) -> None:
    found = launch(spec_of, "grpo", "v0.7.0", usual("grpo"), "backend=megatron", said).findings
    (finding,) = (f for f in found if f.severity == "error")
    assert finding.remedy == remedy and finding.code == 78
    found = launch(spec_of, "grpo", "v0.7.0", usual("grpo"), "backend=dtensor", said).findings
    assert not [f for f in found if f.severity == "error"]


def test_every_release_keeps_its_conversions_apart_by_versions_that_are_known() -> None:
    entries = [e for e in locks.load_lock(Root(REPO)).entries.values() if e.library == "nemo-rl"]
    keys = {e.name: cache_location.key(e) for e in entries}
    assert keys["nemo-rl/v0.6.0-cuda"] == "v0.6.0-0.18.0-0.5.0"
    assert len(keys) > 5 and not [name for name, key in keys.items() if "unknown" in key or "0.0.0" in key]

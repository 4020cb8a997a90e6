"""launcher/planning/planner.py: from what was wished and seen to a plan. Pure, so every test is a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import HOST, IMAGE, MODEL, TRAIN, SpecOf, engine_of, entry_of, output_of, seen_of

from images.locking.model import Environment
from launcher.catalog.definitions import Step
from launcher.catalog.profiles import ExtraMount, Profile
from launcher.core.arguments import Arguments
from launcher.core.plan import ImageInfo, Mount, Plan, Probed, Variable
from launcher.planning import planner
from launcher.planning.planner import make_plan

INPUTS = {"train": TRAIN.path, "model": MODEL.path}


def mounts(plan: Plan) -> dict[str, tuple[str, bool]]:
    return {m.target: (m.source, m.readonly) for m in plan.mounts}


def settings(plan: Plan) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in plan.config["set"]]


def test_the_same_wish_and_sight_give_the_same_plan(spec_of: SpecOf) -> None:
    one, other = (make_plan(spec_of(), seen_of(), {"entrypoint.sh": "1"}) for _ in range(2))
    assert one == other and one.hash == other.hash


def test_a_plan_is_read_back_from_its_json(spec_of: SpecOf) -> None:
    plan = make_plan(spec_of(), seen_of(), {})
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


@pytest.mark.parametrize(
    ("spec", "seen"),
    [
        ({"env": {"A": "1"}}, {}),
        ({"procs": 2}, {}),
        ({"allow_drift": True}, {}),
        ({"lock_checksum": "d" * 64}, {}),
        ({"program": "other.py"}, {}),
        ({"overlays": []}, {}),
        ({}, {"image": ImageInfo(id="sha256:other")}),
        ({}, {"artifacts": {"train": msgspec.structs.replace(TRAIN, fingerprint="e" * 64), "model": MODEL}}),
        ({}, {"output": output_of(path="/elsewhere")}),
        ({}, {"host": msgspec.structs.replace(HOST, uid=1)}),
    ],
)
def test_whatever_changes_the_run_changes_the_hash(spec_of: SpecOf, spec: dict[str, Any], seen: dict[str, Any]) -> None:
    assert make_plan(spec_of(**spec), seen_of(**seen), {}).hash != make_plan(spec_of(), seen_of(), {}).hash


@pytest.mark.parametrize(
    "seen",
    [
        {"host": msgspec.structs.replace(HOST, cpus=2, runs="/other/runs", runs_free=1)},
        {"output": output_of(free=1)},
        {"engine": engine_of(address="unix:///other.sock", version="27")},
        {"image": ImageInfo(id=IMAGE, recorded=7)},
    ],
)
def test_where_it_is_planned_does_not_change_the_hash(spec_of: SpecOf, seen: dict[str, Any]) -> None:
    assert make_plan(spec_of(), seen_of(**seen), {}).hash == make_plan(spec_of(), seen_of(), {}).hash


def test_no_run_id_is_in_a_plan(spec_of: SpecOf) -> None:
    plan = make_plan(spec_of(words=Arguments(inputs=INPUTS)), seen_of(output=None), {})
    assert plan.output == "${RUN_DIR}/output"
    assert plan.env["SLIPWAY_RUN"].value == "${RUN_ID}"
    assert {m.source for m in plan.mounts if "RUN" in m.source} == {
        "${RUN_DIR}/output", "${RUN_DIR}/slipway", "${RUN_DIR}/container", "${RUN_DIR}/hf"
    }  # fmt: skip


def test_every_path_of_the_host_has_its_place_in_the_container(spec_of: SpecOf) -> None:
    assert mounts(make_plan(spec_of(), seen_of(), {})) == {
        "/cache/datasets": ("/home/user/hf/datasets", False),
        "/cache/hf": ("${RUN_DIR}/hf", False),
        "/inputs/model-bbbbbbbb": ("/data/llama", True),
        "/inputs/train-aaaaaaaa/chats.jsonl": ("/data/chats.jsonl", True),
        "/output": ("/data/out", False),
        "/run/slipway": ("${RUN_DIR}/container", False),
        "/slipway": ("${RUN_DIR}/slipway", True),
    }


def test_of_hf_home_only_snapshots_and_prepared_data_are_mounted(spec_of: SpecOf) -> None:
    """Not the tokens of a login beside them; and nobody rewrites a snapshot."""
    plan = make_plan(spec_of(), seen_of(host=msgspec.structs.replace(HOST, hub=True)), {})
    of_home = {m.target: (m.source, m.readonly) for m in plan.mounts if m.source.startswith(HOST.hf_home)}
    assert of_home == {
        "/cache/datasets": ("/home/user/hf/datasets", False),
        "/cache/hub": ("/home/user/hf/hub", True),
    }
    assert plan.env["HF_HUB_CACHE"].value == "/cache/hub"
    assert make_plan(spec_of(), seen_of(), {}).env["HF_HUB_CACHE"].value == "/cache/hf/hub", "there is none"


def test_a_site_may_name_another_place_for_prepared_data(spec_of: SpecOf) -> None:
    for env, found in (
        ({}, ("/cache/datasets", "launcher")),
        ({"HF_DATASETS_CACHE": "/nvme"}, ("/nvme", "command line")),
    ):
        variable = make_plan(spec_of(env=env), seen_of(), {}).env["HF_DATASETS_CACHE"]
        assert (variable.value, variable.by) == found


def test_a_parent_is_mounted_before_what_lies_below_it(spec_of: SpecOf, profile: Profile) -> None:
    extra = [ExtraMount(source="/a", target="/slipway/more"), ExtraMount(source="/b", target="/", readonly=False)]
    plan = make_plan(spec_of(profile=msgspec.structs.replace(profile, mounts=extra)), seen_of(), {})
    targets = [m.target for m in plan.mounts]
    assert targets == sorted(targets)
    assert Mount(source="/a", target="/slipway/more", readonly=True) in plan.mounts
    assert Mount(source="/b", target="/", readonly=False) in plan.mounts


def test_an_image_that_is_not_there_stands_as_unresolved(spec_of: SpecOf) -> None:
    assert make_plan(spec_of(), seen_of(image=ImageInfo()), {}).image == "UNRESOLVED"
    tagged = ImageInfo(tagged=IMAGE)
    assert make_plan(spec_of(), seen_of(image=tagged), {}).image == "UNRESOLVED", "a name is no identity"


def test_the_configuration_is_base_then_layers_then_what_is_set(spec_of: SpecOf) -> None:
    words = Arguments(
        inputs=INPUTS, output="/data/out", parameters={"max_steps": 3, "seed": 7}, overrides={"optimizer.lr": 1}
    )
    overlays = [("default", {"seed": 42}), ("tiny", {"optimizer": {"lr": 3}})]
    config = make_plan(spec_of(words=words, overlays=overlays, base={"path": "/x"}), seen_of(), {}).config
    assert config["base"] == {"path": "/x"}
    assert config["layers"] == [
        {"name": "default", "values": {"seed": 42}}, {"name": "tiny", "values": {"optimizer": {"lr": 3}}}
    ]  # fmt: skip
    assert config["set"] == [
        ["step_scheduler.max_steps", 3],
        ["seed", 7],
        ["optimizer.lr", 1],
        ["dataset.path_or_dataset_id", "/inputs/train-aaaaaaaa/chats.jsonl"],
        ["model.pretrained_model_name_or_path", "/inputs/model-bbbbbbbb"],
        ["checkpoint.checkpoint_dir", "/output"],
    ]


def test_what_goes_with_an_optional_input_is_removed_and_not_set_again(spec_of: SpecOf) -> None:
    words = Arguments(inputs=INPUTS, parameters={"seq_length": 9})
    plan = make_plan(spec_of(words=words), seen_of(), {})
    assert plan.config["remove"] == ["validation_dataset", "validation_dataloader"]
    assert [key for key, _ in settings(plan) if key.startswith("validation")] == []
    assert ("dataset.seq_length", 9) in settings(plan)

    validation = msgspec.structs.replace(TRAIN, name="validation")
    words = Arguments(inputs=INPUTS | {"validation": TRAIN.path}, parameters={"seq_length": 9})
    plan = make_plan(
        spec_of(words=words), seen_of(artifacts={"train": TRAIN, "model": MODEL, "validation": validation}), {}
    )
    assert plan.config["remove"] == []
    assert ("validation_dataset.seq_length", 9) in settings(plan)
    assert ("validation_dataset.path_or_dataset_id", "/inputs/validation-aaaaaaaa/chats.jsonl") in settings(plan)


def test_wiring_comes_last_so_that_nothing_stands_above_it(spec_of: SpecOf, step: Step) -> None:
    words = Arguments(inputs=INPUTS, overrides={"model": {"pretrained_model_name_or_path": "/elsewhere"}})
    keys = [key for key, _ in settings(make_plan(spec_of(words=words), seen_of(), {}))]
    assert keys.index("model") < keys.index(step.inputs["model"].key) < len(keys)


def test_a_step_that_can_go_on_says_from_what_and_how(spec_of: SpecOf, step: Step) -> None:
    resume = {"where": "/output/LATEST", "set": [["checkpoint.restore_from", "LATEST"]]}
    for asked in (True, False):
        plan = make_plan(spec_of(resume=asked), seen_of(), {})
        assert (plan.resume, plan.config["resume"]) == (asked, resume)
    never = msgspec.structs.replace(step, resume=None)
    assert "resume" not in make_plan(spec_of(step=never), seen_of(), {}).config


def test_the_environment_goes_up_from_step_to_launcher(spec_of: SpecOf, step: Step, profile: Profile) -> None:
    names = {"A": "1", "B": "1", "C": "1", "HF_HOME": "1"}
    plan = make_plan(
        spec_of(
            step=msgspec.structs.replace(step, env=names),
            profile=msgspec.structs.replace(profile, env={n: "2" for n in names if n != "A"}),
            env={n: "3" for n in names if n not in "AB"},
        ),
        seen_of(),
        {},
    )
    assert [(n, plan.env[n].value, plan.env[n].by) for n in names] == [
        ("A", "1", "step"), ("B", "2", "profile"), ("C", "3", "command line"), ("HF_HOME", "/cache/hf", "launcher")
    ]  # fmt: skip
    assert list(plan.env) == sorted(plan.env)


def test_one_process_needs_no_torchrun(spec_of: SpecOf, step: Step) -> None:
    assert step.launcher == "torchrun"
    for procs, launcher in ((1, "python"), (2, "torchrun")):
        plan = make_plan(spec_of(procs=procs), seen_of(), {})
        assert plan.env["SLIPWAY_LAUNCHER"] == Variable(value=launcher, by="launcher")
        assert plan.env["SLIPWAY_PROCS"].value == str(procs)


def test_the_container_learns_how_the_step_is_told_to_stop(spec_of: SpecOf, step: Step) -> None:
    env = make_plan(spec_of(), seen_of(), {}).env
    told = [env[f"SLIPWAY_STOP_{n}"].value for n in ("SIGNAL", "TO", "SECONDS")]
    assert told == [step.graceful.signal, step.graceful.to, str(step.graceful.seconds)]


def test_the_command_runs_our_entrypoint_with_bash(spec_of: SpecOf) -> None:
    assert make_plan(spec_of(program="x.py"), seen_of(), {}).command == [
        "bash", "/slipway/entrypoint.sh", "python", "/slipway/steps/x.py"
    ]  # fmt: skip


def test_the_container_runs_as_the_caller(spec_of: SpecOf) -> None:
    host = msgspec.structs.replace(HOST, uid=1234, gid=99)
    assert make_plan(spec_of(), seen_of(host=host), {}).user == "1234:99"


@pytest.mark.parametrize(
    ("wanted", "hard", "given"),
    [(-1, {}, -1), (-1, {"memlock": 8}, 8), (9, {"memlock": 8}, 8), (7, {"memlock": 8}, 7), (9, {"nofile": 8}, 9)],
)
def test_a_limit_is_lowered_to_what_the_engine_can_give(
    spec_of: SpecOf, profile: Profile, wanted: int, hard: dict[str, int], given: int
) -> None:
    spec = spec_of(profile=msgspec.structs.replace(profile, ulimits={"memlock": wanted}))
    assert make_plan(spec, seen_of(engine=engine_of(hard_limits=hard)), {}).limits == {"memlock": given}


def test_the_plan_carries_what_the_entrypoint_compares(spec_of: SpecOf) -> None:
    environments = {
        "main": Environment(python="/a", packages={"x": "1"}), "worker": Environment(python="/b", packages={})
    }  # fmt: skip
    entry = entry_of("cuda", driver="570.26", environments=environments)
    plan = make_plan(spec_of(entry=entry, allow_drift=True), seen_of(), {"entrypoint.sh": "1"})
    assert (plan.entry, plan.driver, plan.allow_drift) == (entry.checksum, "570.26", True)
    assert plan.environments["main"] == {"python": "/a", "version": "3.12", "packages": {"x": "1"}}
    assert plan.environments["worker"] == {"python": "/b", "version": "3.12", "packages": {}}
    assert plan.files == {"entrypoint.sh": "1"}
    assert make_plan(spec_of(), seen_of(), {}).driver is None, "unknown is not compared"


def test_a_file_keeps_its_own_name_and_a_folder_is_its_mount() -> None:
    assert planner.container_path(TRAIN) == "/inputs/train-aaaaaaaa/chats.jsonl"
    assert planner.container_path(MODEL) == "/inputs/model-bbbbbbbb"
    assert Path(planner.container_path(TRAIN)).name == Path(TRAIN.path).name


def test_an_observation_without_an_output_is_planned_into_the_run_directory() -> None:
    seen: Probed = seen_of(output=None)
    assert planner.output_path(seen) == "${RUN_DIR}/output"


@pytest.mark.parametrize(
    ("changes", "value", "targets"),
    [
        ({"kind": "glob", "path": "/data/*.jsonl", "files": ["/data/a.jsonl", "/data/b.jsonl"]}, "*.jsonl", 2),
        ({"type": "binidx", "path": "/data/b.idx", "files": ["/data/b.bin", "/data/b.idx"]}, "b", 2),
        ({"type": "binidx", "kind": "glob", "path": "/data/b", "files": ["/data/b.bin", "/data/b.idx"]}, "b", 2),
        (
            {"type": "packed_parquet", "path": "/data/p.parquet", "files": ["/data/p.parquet", "/data/m"]},
            "p.parquet",
            2,
        ),
    ],
)
def test_files_that_belong_together_stand_side_by_side(
    spec_of: SpecOf, changes: dict[str, Any], value: str, targets: int
) -> None:
    several = msgspec.structs.replace(TRAIN, **changes)
    plan = make_plan(spec_of(), seen_of(artifacts={"train": several, "model": MODEL}), {})
    folder = "/inputs/train-aaaaaaaa"
    assert ["dataset.path_or_dataset_id", f"{folder}/{value}"] in plan.config["set"]
    mounts = {m.source: m.target for m in plan.mounts if m.target.startswith(f"{folder}/")}
    assert mounts == {f: f"{folder}/{Path(f).name}" for f in several.files} and len(mounts) == targets

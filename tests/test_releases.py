"""catalog/releases.py on the steps of NeMo RL: what each release gets, trap by trap of the table in the facts."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import SpecOf
from rl import FLAT, RELEASES, ROOT, SECTIONS, STEPS, launch, model, rows, usual

from images.locking import lock as locks
from launcher.artifacts.detection import Artifact
from launcher.catalog import commands, definitions, releases
from slipway.errors import Exit, SlipwayError

EXAMPLES = "/opt/nemo-rl/examples"
SCRIPTS = {
    "grpo": ("run_grpo_math", "run_grpo", "run_grpo", "run_grpo"),
    "dapo": ("run_grpo_math", "run_grpo", "run_grpo", "run_grpo"),
    "rlhf": ("run_grpo_rm", "run_grpo_rm", "run_grpo", "run_grpo"),
    "distillation": ("run_distillation_math", "run_distillation_math", "run_distillation", "run_distillation"),
    "dpo": ("run_dpo",) * 4, "rm": ("run_rm",) * 4, "sft": ("run_sft",) * 4,
}  # fmt: skip
TRAIN, VALIDATION = "/inputs/train-cccccccc/train.jsonl", "/inputs/validation-cccccccc/validation.jsonl"


@pytest.mark.parametrize("name", STEPS)
def test_every_release_has_its_script(spec_of: SpecOf, name: str) -> None:
    made = [launch(spec_of, name, release, usual(name)).plan for release in RELEASES]
    assert [plan.config["script"] for plan in made] == [f"{EXAMPLES}/{script}.py" for script in SCRIPTS[name]]
    assert {plan.command[-1] for plan in made} == {"/slipway/steps/nemo_rl_train.py"}
    assert {plan.env["SLIPWAY_LAUNCHER"].value for plan in made} == {"ray"}


def test_daposs_recipe_has_another_name_from_v0_7_0_on(spec_of: SpecOf) -> None:
    bases = [launch(spec_of, "dapo", release, usual("dapo")).plan.config["base"]["path"] for release in RELEASES]
    recipe = f"{EXAMPLES}/configs/recipes/llm/dapo-qwen2.5-7b"
    assert bases == [f"{recipe}.yaml"] * 3 + [f"{recipe}.v2.yaml"]


REMEDY = (
    "it has commands for nemo-rl >=0.4,<0.8: scripts, configurations and data keys of v0.8.0 have not been read; "
    "take v0.7.0 (--release v0.7.0)"
)


@pytest.mark.parametrize("name", [*(f"rl/nemo_rl/{s}" for s in STEPS), "convert/nemo_rl_to_hf"])
def test_a_release_whose_tree_nobody_has_read_is_refused(name: str) -> None:
    entry = locks.load_lock(ROOT).entries["nemo-rl/v0.8.0-cuda"]
    with pytest.raises(SlipwayError) as e:
        commands.choose_command(definitions.find_step(ROOT, name), entry)
    assert (e.value.code, e.value.remedy) == (Exit.CONFIG, REMEDY)


@pytest.mark.parametrize("name", ["rl/grpo", "rl/nemo_rl/rlvr"])
def test_grpo_has_other_names(name: str) -> None:
    assert definitions.find_step(ROOT, name).id == "rl/nemo_rl/grpo"


@pytest.mark.parametrize("name", STEPS)
def test_the_shape_and_the_folders_are_wired(spec_of: SpecOf, name: str) -> None:
    config = launch(spec_of, name, "v0.7.0", usual(name), nodes=2, gpus=4, procs=4).config
    assert (config["cluster.num_nodes"], config["cluster.gpus_per_node"]) == (2, 4)
    assert (config["checkpointing.checkpoint_dir"], config["logger.log_dir"]) == ("/output", "/output/logs")
    for key in ("cluster.num_nodes=3", "logger.log_dir=/x", "checkpointing.checkpoint_dir=/x", "policy.model_name=x"):
        with pytest.raises(SlipwayError, match="is wired by the launcher"):
            launch(spec_of, name, "v0.7.0", usual(name), key)


@pytest.mark.parametrize("name", ["grpo", "dapo", "distillation", "rlhf"])
@pytest.mark.parametrize("release", FLAT)
def test_prompts_are_one_flat_data_set_up_to_v0_5_0(spec_of: SpecOf, name: str, release: str) -> None:
    config = launch(spec_of, name, release, usual(name)).config
    assert data(config) == {
        "data.dataset_name": "ResponseDataset", "data.train_data_path": TRAIN, "data.val_data_path": VALIDATION,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["grpo", "dapo", "distillation", "rlhf"])
@pytest.mark.parametrize("release", SECTIONS)
def test_prompts_are_two_sections_from_v0_6_0_on(spec_of: SpecOf, name: str, release: str) -> None:
    made = launch(spec_of, name, release, usual(name))
    assert data(made.config) == {
        "data.train.dataset_name": "ResponseDataset", "data.train.data_path": TRAIN,
        "data.train.split_validation_size": 0, "data.validation.dataset_name": "ResponseDataset",
        "data.validation.data_path": VALIDATION,
    }  # fmt: skip
    assert made.plan.config["remove"] == []


def data(config: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k.startswith("data.")}


def test_without_a_validation_file_each_release_measures_on_what_it_has(spec_of: SpecOf) -> None:
    flat = launch(spec_of, "grpo", "v0.5.0", usual("grpo")[:1] + usual("grpo")[2:])
    assert (flat.config["grpo.val_period"], flat.config["grpo.val_at_start"]) == (0, False)  # else it asserts one
    cut = launch(spec_of, "dapo", "v0.7.0", usual("dapo")[:1] + usual("dapo")[2:])
    assert cut.config["data.train.split_validation_size"] == 0.05 and "grpo.val_period" not in cut.config
    assert cut.plan.config["remove"] == ["data.validation"]  # the recipe's is on the hub
    hub = launch(spec_of, "dapo", "v0.7.0", usual("dapo")[2:], "dataset=DAPOMath17K")
    assert hub.plan.config["remove"] == [] and hub.config["data.train.dataset_name"] == "DAPOMath17K"
    for name, after in (("dpo", True), ("rm", True), ("sft", True)):
        given = [a for a in usual(name) if a.name != "validation"]
        made = launch(spec_of, name, "v0.7.0", given)
        assert made.plan.config["remove"] == ["data.validation"] and made.config[f"{name}.val_at_end"] is not after
        assert made.config[f"{name}.val_period"] == 0 and made.config["checkpointing.metric_name"] is None


def test_a_flat_data_set_cannot_be_the_librarys_and_a_file_of_ones_own(spec_of: SpecOf) -> None:
    told = launch(spec_of, "grpo", "v0.5.0", [rows("validation"), model("policy")]).told
    assert ("error", "train=", "is needed with these inputs (data.train_data_path)") in told
    assert not launch(spec_of, "grpo", "v0.7.0", [rows("validation"), model("policy")]).spec.wired.missing


@pytest.mark.parametrize("name", STEPS)
def test_a_schedule_of_tiny_is_a_list_as_in_the_examples(name: str) -> None:
    """v0.7.0 checks it by its own types, which take no single schedule; its trainer wants milestones, too."""
    policy = definitions.overlay(definitions.find_step(ROOT, f"rl/nemo_rl/{name}"), "tiny")["policy"]
    if "scheduler" in policy:
        *schedules, milestones = policy["scheduler"]
        assert len(schedules) == len(milestones["milestones"]) + 1 and all("name" in s for s in schedules)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", ["dpo", "rm"])
def test_preferences_of_both_layouts(spec_of: SpecOf, name: str, release: str) -> None:
    ranked = [rows(n, "preference_jsonl", ["completions", "context"]) for n in ("train", "validation")]
    for given, kind in ((usual(name), "BinaryPreferenceDataset"), (ranked + usual(name)[2:], "PreferenceDataset")):
        found = data(launch(spec_of, name, release, given).config)
        if release in FLAT:
            expected = {"data.dataset_name": kind, "data.train_data_path": TRAIN, "data.val_data_path": VALIDATION}
        else:  # a local file has the split `train` alone, and the examples ask for `validation`
            expected = {
                "data.train.dataset_name": kind, "data.train.data_path": TRAIN, "data.train.split": "train",
                "data.validation.dataset_name": kind, "data.validation.data_path": VALIDATION,
                "data.validation.split": "train",
            }  # fmt: skip
        assert found == expected


def test_conversations_need_a_validation_file_up_to_v0_5_0_and_the_split_train_after(spec_of: SpecOf) -> None:
    for release in FLAT:
        found = data(launch(spec_of, "sft", release, usual("sft")).config)
        assert (found["data.dataset_name"], found["data.chat_key"]) == ("openai_format", "messages")
        assert found["data.train_data_path"], found["data.val_data_path"] == (TRAIN, VALIDATION)
        with pytest.raises(SlipwayError, match="needs validation=PATH"):
            launch(spec_of, "sft", release, [rows("train", "chat_jsonl"), model("policy")])
    for release in SECTIONS:
        found = data(launch(spec_of, "sft", release, usual("sft")).config)
        assert found["data.validation.split"] == found["data.train.split"] == "train"
        assert found["data.train.dataset_name"] == found["data.validation.dataset_name"] == "openai_format"


@pytest.mark.parametrize(
    ("name", "word", "flat", "sections"),
    [
        ("grpo", "prompt_key=Q", {"data.input_key": "Q"}, {"data.default.input_key": "Q"}),
        ("grpo", "answer_key=Q", {"data.output_key": "Q"}, {"data.default.output_key": "Q"}),
        ("rlhf", "prompt_key=Q", {"data.input_key": "Q"}, {"data.default.input_key": "Q"}),
        ("dpo", "chosen_key=Q", {"data.chosen_key": "Q"},
         {"data.train.chosen_key": "Q", "data.validation.chosen_key": "Q"}),
        ("sft", "messages_key=Q", {"data.chat_key": "Q"},
         {"data.train.chat_key": "Q", "data.validation.chat_key": "Q"}),
        ("grpo", "dataset=gsm8k", {"data.dataset_name": "gsm8k"}, {"data.train.dataset_name": "gsm8k"}),
        ("grpo", "environment=math", {"data.env_name": "math"}, {"data.default.env_name": "math"}),
        ("grpo", "environment=code",
         {"data.env_name": "code", "env.code.num_workers": 8, "env.code.terminate_on_evaluation": True},
         {"data.default.env_name": "code", "env.code.num_workers": 8, "env.code.terminate_on_evaluation": True}),
    ],
)  # fmt: skip
def test_one_word_is_the_key_of_the_release(
    spec_of: SpecOf, name: str, word: str, flat: dict[str, Any], sections: dict[str, Any]
) -> None:
    given = [a for a in usual(name) if not (word.startswith("dataset") and a.name in ("train", "validation"))]
    for release, expected in (("v0.5.0", flat), ("v0.6.0", sections), ("v0.7.0", sections)):
        config = launch(spec_of, name, release, given, word).config
        assert {k: config.get(k) for k in expected} == expected


def test_a_key_below_what_goes_is_not_set(spec_of: SpecOf) -> None:
    given = [a for a in usual("dpo") if a.name != "validation"]
    config = launch(spec_of, "dpo", "v0.7.0", given, "chosen_key=good").config
    assert config["data.train.chosen_key"] == "good" and not any(k.startswith("data.validation") for k in config)


def test_a_word_that_a_release_has_not_is_refused(spec_of: SpecOf) -> None:
    for word in ("environment=math", "environment=code"):
        with pytest.raises(SlipwayError, match="no such setting in this release") as e:
            launch(spec_of, "grpo", "v0.4.0", usual("grpo"), word)
        assert e.value.code == Exit.WORDS
    with pytest.raises(SlipwayError, match="'gym' is not allowed"):
        launch(spec_of, "grpo", "v0.7.0", usual("grpo"), "environment=gym")


def test_a_data_set_by_name_takes_the_place_of_a_file(spec_of: SpecOf) -> None:
    with pytest.raises(SlipwayError, match="dataset= takes the place of train=") as e:
        launch(spec_of, "grpo", "v0.7.0", usual("grpo"), "dataset=gsm8k")
    assert e.value.code == Exit.WORDS


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("release", RELEASES)
def test_one_word_switches_both_backends(spec_of: SpecOf, name: str, release: str) -> None:
    for backend, on in (("dtensor", True), ("megatron", False)):
        config = launch(spec_of, name, release, usual(name), f"backend={backend}").config
        sections = ("policy", "teacher") if name == "distillation" else ("policy",)
        for section in sections:
            found = config[f"{section}.dtensor_cfg.enabled"], config[f"{section}.megatron_cfg.enabled"]
            assert found == (on, not on)


def test_the_policy_is_model_and_tokenizer(spec_of: SpecOf) -> None:
    for name, word in (("grpo", "policy"), ("rm", "model"), ("distillation", "student")):
        config = launch(spec_of, name, "v0.4.0", usual(name)).config
        assert config["policy.model_name"] == config["policy.tokenizer.name"] == f"/inputs/{word}-dddddddd"
    config = launch(spec_of, "distillation", "v0.4.0", usual("distillation")).config
    assert config["teacher.model_name"] == config["teacher.tokenizer.name"] == "/inputs/teacher-dddddddd"
    config = launch(spec_of, "rlhf", "v0.4.0", usual("rlhf")).config
    assert config["env.reward_model.model_name"] == "/inputs/reward_model-dddddddd"


def test_a_megatron_policy_is_read_as_it_is_from_v0_7_0_on(spec_of: SpecOf) -> None:
    given = [rows("train"), model("policy", "checkpoint_megatron"), model("config")]
    made = launch(spec_of, "grpo", "v0.7.0", given, "backend=megatron")
    assert made.config["policy.pretrained_checkpoint.path"] == "/inputs/policy-dddddddd"
    assert made.config["policy.pretrained_checkpoint.format"] == "megatron_bridge"
    assert made.config["policy.model_name"] == made.config["policy.tokenizer.name"] == "/inputs/config-dddddddd"
    assert [f.what for f in made.findings if f.severity == "error"] == []
    assert "reads as it is (policy.pretrained_checkpoint)" in made.spec.wired.notes[0]


def test_before_that_it_is_converted_first(spec_of: SpecOf) -> None:
    given = [rows("train"), model("policy", "checkpoint_megatron"), model("config")]
    (finding,) = [f for f in launch(spec_of, "grpo", "v0.6.0", given).findings if f.severity == "error"]
    assert finding.what == (
        "is no checkpoint_hf: found checkpoint_megatron (NeMo RL starts from Megatron checkpoints from v0.7.0 on)"
    )
    assert "say --convert, or run first: launch convert/megatron_to_hf model=/data/policy" in finding.remedy


def test_cpu_images_get_what_runs_without_cuda(spec_of: SpecOf) -> None:
    config = launch(spec_of, "grpo", "v0.7.0", usual("grpo"), flavour="cpu").config
    assert config["policy.dtensor_cfg._v2"] is False and config["checkpointing.model_save_format"] is None
    assert config["policy.precision"] == "float32" and config["cluster.gpus_per_node"] == 1
    assert "policy.dtensor_cfg._v2" not in launch(spec_of, "grpo", "v0.7.0", usual("grpo")).config


def test_what_holds_for_a_release_is_all_that_is_left() -> None:
    entry = locks.load_lock(ROOT).entries["nemo-rl/v0.5.0-cuda"]
    step = definitions.find_step(ROOT, "rl/grpo")
    assert releases.at_release(step, entry).releases == []
    other = definitions.find_step(ROOT, "convert/hf_to_megatron")
    assert other.releases == []
    assert releases.at_release(other, entry) == other


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("release", RELEASES)
def test_every_key_of_a_release_is_below_a_root(spec_of: SpecOf, name: str, release: str) -> None:
    step = launch(spec_of, name, release, usual(name)).spec.step
    keys = [*step.presets, *step.roles.values(), *(k for p in step.parameters.values() for k in p.keys)]
    keys += [k for p in step.parameters.values() for sets in p.values.values() for k in sets]
    keys += [k for w in step.wires for k in (*w.paths, *w.set, *w.remove)]
    assert {k.partition(".")[0] for k in keys} <= set(step.config_roots)
    assert {n for w in step.wires for n in (*w.given, *w.absent, *w.paths.values())} <= set(step.inputs)
    assert {p for i in step.inputs.values() for p in i.columns.values()} <= set(step.parameters)


@pytest.mark.parametrize("given", [True, False])
def test_that_a_pretraining_has_no_data_is_said(given: bool) -> None:
    step = definitions.find_step(ROOT, "pretrain/megatron_bridge")
    data = Artifact(name="data", path="/data", kind="folder", type="binidx")
    notes = releases.wired(step, {"data": data} if given else {}).notes
    said = "warning: no data= is named: Megatron-Bridge trains on its mock data, from which no model learns anything"
    assert notes == ([] if given else [said])

"""The programs of Model Optimizer and of merging adapters, as far as they go without torch: what they refuse."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from helpers import REPO, safetensors, write_chats, write_checkpoint

from launcher.artifacts import detection, huggingface
from launcher.catalog import definitions
from slipway.project import Root

STEPS = REPO / "entrypoints" / "steps"
STANDIN = REPO / "tests" / "standins" / "minitron"
sys.path.insert(0, str(STEPS))

import modelopt_common  # noqa: E402
import modelopt_distill  # noqa: E402
import modelopt_prune  # noqa: E402
import modelopt_quantize  # noqa: E402
import peft_merge  # noqa: E402
import slipway_inputs  # noqa: E402
import slipway_step  # noqa: E402
from slipway_step import ConfigError  # noqa: E402

Refused = Callable[..., str]
BASE = {"fingerprint": "b" * 64, "path": "/data/llama"}


def configured(step_id: str, **paths: Any) -> dict[str, Any]:
    """The shipped configuration of a step, tiny, with dotted keys (`__` for `.`) set."""
    folder = REPO / "launcher" / "steps" / step_id
    base, *layers = (yaml.safe_load((folder / f"{n}.yaml").read_text()) for n in ("base", "default", "tiny"))
    assign = [[key.replace("__", "."), value] for key, value in paths.items()]
    named = [{"name": "", "values": values} for values in layers]
    return {"base": {"values": base}, "layers": named, "remove": [], "set": assign}


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """Runs a program on a plan, in a Python that has none of its libraries; returns the reason of its refusal."""
    (tmp_path / "slipway").mkdir()
    (tmp_path / "run" / "0" / "ranks").mkdir(parents=True)

    def run(program: str, config: dict[str, Any], inputs: dict[str, Any] | None = None, **env: str) -> str:
        plan = {"config": config, "inputs": inputs or {}}
        (tmp_path / "slipway" / "plan.json").write_text(json.dumps(plan))
        told = {"SLIPWAY_DIR": str(tmp_path / "slipway"), "SLIPWAY_STATE_DIR": str(tmp_path / "run")}
        command = [sys.executable, str(STEPS / program)]
        done = subprocess.run(command, env=os.environ | told | env, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (78, 1), done.stderr
        assert not (tmp_path / "run" / "result.json").exists() and not (tmp_path / "output").exists()
        return (tmp_path / "run" / "0" / "refused").read_text().strip()

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint whose layer has 192 input features, with head and embedding of 100."""
    folder = write_checkpoint(tmp_path / "model")
    shapes = {"model.layers.0.mlp.down_proj.weight": [64, 192], "lm_head.weight": [8, 100]}
    (folder / "model-00001-of-00002.safetensors").write_bytes(safetensors(shapes))
    (folder / "model-00002-of-00002.safetensors").write_bytes(safetensors({"model.embed_tokens.weight": [8, 100]}))
    return folder


def quantizing(model: Path, **more: Any) -> dict[str, Any]:
    output = str(model.parent / "output")
    return configured("optimize/modelopt/quantize", model__path=str(model), output__path=output, **more)


def test_the_formats_of_the_step_are_those_of_the_program() -> None:
    step = definitions.find_step(Root(REPO), "optimize/modelopt/quantize")
    assert step.parameters["format"].choices == list(modelopt_quantize.FORMATS)


@pytest.mark.parametrize("name", ["int4_awq", "w4a8_awq"])
def test_a_layer_that_cannot_be_packed_is_named(refused: Refused, model: Path, name: str) -> None:
    reason = refused("modelopt_quantize.py", quantizing(model, quantize__format=name))
    assert reason == (
        f"quantize.format: {name} takes groups of 128 input features, and model.layers.0.mlp.down_proj has 192, which "
        "is no multiple of 128"
    )


def test_only_layers_that_the_format_touches_have_to_fit(model: Path) -> None:
    modelopt_quantize.refuse_uneven(model, "nvfp4", 16)  # head and embedding have 100 features
    modelopt_quantize.refuse_uneven(model, "fp8", 1)
    for name in ("lm_head", "model.embed_tokens", "model.layers.0.mlp.gate", "model.layers.1.router"):
        assert modelopt_quantize.UNTOUCHED.search(name)
    assert not modelopt_quantize.UNTOUCHED.search("model.layers.0.mlp.gate_proj")


def test_an_unknown_format_and_an_unknown_type_are_named(refused: Refused, model: Path) -> None:
    assert refused("modelopt_quantize.py", quantizing(model, quantize__format="fp7")).startswith(
        "quantize.format: 'fp7' is none of fp8, fp8_pc_pt"
    )


def test_an_output_that_holds_something_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"output\.path: .*model already holds config\.json"):
        modelopt_common.refuse_filled(model, "output.path")


def test_what_launchers_leave_in_an_output_is_no_part_of_it(tmp_path: Path) -> None:
    assert slipway_inputs.OF_RUNS == detection.OF_RUNS
    (tmp_path / detection.OF_RUNS).mkdir()
    modelopt_common.refuse_filled(tmp_path, "output.path")


@pytest.mark.parametrize(
    ("program", "step_id"),
    [("modelopt_quantize.py", "optimize/modelopt/quantize"), ("modelopt_prune.py", "optimize/modelopt/prune")],
)
def test_a_folder_that_is_no_model_is_refused(refused: Refused, tmp_path: Path, program: str, step_id: str) -> None:
    config = configured(step_id, model__path=str(tmp_path), output__path=str(tmp_path / "output"))
    assert refused(program, config).endswith("is no Hugging Face model: it has no config.json")


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8", None])
def test_a_number_that_is_none_is_named(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"calibration\.samples: .* is no whole number of 1 or more"):
        modelopt_common.number({"calibration": {"samples": value}}, "calibration.samples")


@pytest.mark.parametrize("line", ["[1]", "{}", "3", "{"])
def test_a_line_without_messages_is_named(tmp_path: Path, line: str) -> None:
    path = write_chats(tmp_path / "chats.jsonl", "", line)
    with pytest.raises(ConfigError, match=r"calibration\.path: .*: line 4 is no JSON object with `messages`"):
        list(modelopt_common.conversations(path, "calibration.path"))


class Tokenizer:
    """As transformers': three tokens of a question, then three of an answer that the template marks."""

    def apply_chat_template(self, messages: Any, **options: Any) -> dict[str, list[int]]:
        masks = {"assistant_masks": [0, 0, 0, 1, 1, 1]} if options.get("return_assistant_tokens_mask") else {}
        return {"input_ids": [1, 2, 3, 4, 5, 6], **masks} if messages else {"input_ids": []}


@pytest.mark.parametrize(
    ("length", "marked", "labels"),
    [(9, True, [-100, -100, -100, 4, 5, 6]), (4, True, [-100, -100, -100, 4]), (3, True, None),
     (3, False, [1, 2, 3]), (1, False, None)],
)  # fmt: skip
def test_the_answer_is_learnt_or_all_where_nothing_is_marked(length: int, marked: bool, labels: Any) -> None:
    row = modelopt_distill.one_row([{}], Tokenizer(), length, marked)
    assert row == (None if labels is None else {"input_ids": [1, 2, 3, 4, 5, 6][:length], "labels": labels})


@pytest.mark.parametrize(
    ("template", "marks"),
    [("{% generation %}x{% endgeneration %}", True), ("{%- generation -%}x", True), ("generation", False), ("", False)],
)
def test_a_template_may_mark_the_answer(tmp_path: Path, template: str, marks: bool) -> None:
    (tmp_path / "chat_template.jinja").write_text(template)
    assert modelopt_distill.marks_answers(tmp_path) is marks


def test_the_global_batch_is_shared_by_the_processes() -> None:
    config = {"distill": {"global_batch_size": 16, "local_batch_size": 4}}
    assert [modelopt_distill.accumulation_steps(config, world) for world in (1, 2, 4)] == [4, 2, 1]
    with pytest.raises(ConfigError, match=r"16 is no multiple of distill\.local_batch_size=4 times 3 processes"):
        modelopt_distill.accumulation_steps(config, 3)


def test_distilling_needs_a_chat_template(refused: Refused, model: Path) -> None:
    config = configured(
        "optimize/modelopt/distill", teacher__path=str(model), student__path=str(model), train__path=str(model),
        output__path=str(model.parent / "output"),
    )  # fmt: skip
    assert refused("modelopt_distill.py", config).endswith("has no chat template, which conversations need")


class Module:
    """A model as far as the program handles it; `said`: what was done to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.said: list[Any] = []

    def to(self, where: Any) -> Module:
        self.said.append(("to", where))
        return self

    def save_pretrained(self, output: Path, **options: Any) -> None:
        self.said.append(("saved", output, options))


class DistillationModel(Module):
    """A student that holds its teacher, as Model Optimizer's."""


def model_optimizer(monkeypatch: pytest.MonkeyPatch, keyword: str) -> None:
    """Stand-ins of torch, transformers and Model Optimizer, whose KDTrainer takes its teacher by `keyword`."""

    class KDTrainer:
        def __init__(self, **given: Any) -> None:
            self.given = given

    class Old(KDTrainer):
        def __init__(self, *, distill_config: Any = None, **given: Any) -> None:
            super().__init__(distill_config=distill_config, **given)

    class New(KDTrainer):
        def __init__(self, *, distill_args: Any = None, **given: Any) -> None:
            super().__init__(distill_args=distill_args, **given)

    plugin: dict[str, Any] = {"KDTrainer": New}
    if keyword == "distill_config":
        plugin = {"KDTrainer": Old, "LMLogitsLoss": lambda temperature: ("logits", temperature)}
    kept = {"DistillationModel": DistillationModel}
    config = {"AutoConfig": SimpleNamespace(from_pretrained=lambda _: SimpleNamespace(dtype="bfloat16"))}
    stands = {
        "torch": {"dtype": str}, "transformers": config, "modelopt": {}, "modelopt.torch": {},
        "modelopt.torch.distill": kept, "modelopt.torch.distill.plugins": {},
        "modelopt.torch.distill.plugins.huggingface": plugin,
    }  # fmt: skip
    for name, members in stands.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
        above, _, last = name.rpartition(".")
        if above:
            monkeypatch.setattr(sys.modules[above], last, module, raising=False)


def taught(monkeypatch: pytest.MonkeyPatch, keyword: str) -> tuple[Any, Module, SimpleNamespace]:
    """A trainer, its teacher and its arguments."""
    model_optimizer(monkeypatch, keyword)
    teacher = Module("teacher")
    arguments = SimpleNamespace(device="cuda:3", average_tokens_across_devices=True)
    trainer = modelopt_distill.taught_by(teacher, 2.0, args=arguments, model=Module("student"))
    return trainer, teacher, arguments


def test_model_optimizer_0_44_takes_the_teacher_with_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, teacher, arguments = taught(monkeypatch, "distill_config")
    assert trainer.given["distill_config"] == {"teacher_model": teacher, "criterion": ("logits", 2.0)}
    assert trainer.given["model"].name == "student" and trainer.given["args"] is arguments
    assert teacher.said == [("to", "cuda:3")]
    assert arguments.average_tokens_across_devices is False, "the loss is not multiplied by the processes"
    assert not hasattr(trainer, "_teacher_prepared"), "the teacher is a part of the student"


def test_from_0_45_on_it_takes_the_teacher_beside_the_student(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, teacher, arguments = taught(monkeypatch, "distill_args")
    assert trainer.given["distill_args"] == {"teacher_model": teacher, "temperature": 2.0}
    assert trainer._teacher_prepared is True and teacher.said == [("to", "cuda:3")]
    assert arguments.average_tokens_across_devices is True


def test_a_student_is_saved_without_the_teacher_that_it_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model_optimizer(monkeypatch, "distill_config")
    holding, student, tokenizer = DistillationModel("holding"), Module("student"), Module("tokenizer")
    alone = {id(holding): student}
    monkeypatch.setattr(sys.modules["modelopt.torch.distill"], "export", lambda m: alone[id(m)], raising=False)
    modelopt_distill.save(holding, tokenizer, tmp_path, tmp_path / "output")
    assert holding.said == []
    assert student.said == [("to", "bfloat16"), ("saved", tmp_path / "output", {"save_modelopt_state": False})]
    assert tokenizer.said == [("saved", tmp_path / "output", {})]


def test_a_student_that_holds_none_is_saved_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model_optimizer(monkeypatch, "distill_args")
    student = Module("student")
    modelopt_distill.save(student, Module("tokenizer"), tmp_path, tmp_path / "output")
    assert student.said == [("to", "bfloat16"), ("saved", tmp_path / "output", {})]


def test_pruning_needs_a_target(refused: Refused, model: Path) -> None:
    paths = {"model__path": str(model), "output__path": str(model.parent / "output")}
    nothing = {"prune__ffn_hidden_size": None, "prune__num_layers": None}
    config = configured("optimize/modelopt/prune", **paths, **nothing)
    assert "neither prune.ffn_hidden_size nor prune.num_layers is set" in refused("modelopt_prune.py", config)
    assert modelopt_prune.targets({"prune": {"num_layers": 2}}) == (None, 2)


def test_what_is_no_minitron_says_so() -> None:
    assert "not Minitron" in modelopt_prune.METHOD
    step = definitions.find_step(Root(REPO), "optimize/modelopt/prune")
    assert "on CPU by importance hooks (not Minitron)" in step.title


@pytest.mark.parametrize(
    ("world", "said"),
    [
        ("1", "prune.hidden_size: cannot be cut on CPU, only ffn_hidden_size and num_layers can: Minitron needs CUDA"),
        ("2", "--procs: 2 processes; on CPU one prunes the model"),
    ],
)
def test_what_only_minitron_does_is_refused_on_cpu(refused: Refused, model: Path, world: str, said: str) -> None:
    paths = {"model__path": str(model), "output__path": str(model.parent / "output")}
    config = configured("optimize/modelopt/prune", prune__hidden_size=64, **paths)
    assert refused("modelopt_prune.py", config, WORLD_SIZE=world) == said


class Minitron:
    """A run of the step program with stand-ins for transformers and for the repository's script."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model, self.output = folder, model, folder / "out"
        (folder / "slipway").mkdir()
        (folder / "run" / "0" / "ranks").mkdir(parents=True)
        self.layers(32)

    def layers(self, number: int) -> None:
        (self.model / "config.json").write_text(json.dumps({"num_hidden_layers": number}))
        (self.model / "chat_template.jinja").write_text("{{ messages }}")

    def run(self, repository: Path = STANDIN, world: str = "1", **values: Any) -> tuple[int, str]:
        paths = {"model__path": str(self.model), "output__path": str(self.output)}
        paths["calibration__path"] = str(write_chats(self.folder / "chats.jsonl"))
        nothing = {"prune__ffn_hidden_size": None, "prune__num_layers": None}
        config = configured("optimize/modelopt/prune", **(nothing | paths | values))
        plan = {"config": config, "inputs": {}, "repositories": {"modelopt": {"path": str(repository)}}}
        (self.folder / "slipway" / "plan.json").write_text(json.dumps(plan))
        env = {"SLIPWAY_DIR": str(self.folder / "slipway"), "SLIPWAY_STATE_DIR": str(self.folder / "run")}
        env |= {"PYTHONPATH": str(STANDIN)} | ({"WORLD_SIZE": world, "MASTER_PORT": "1"} if world != "1" else {})
        command = [sys.executable, str(STEPS / "modelopt_minitron.py")]
        done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    @property
    def told(self) -> dict[str, Any]:
        return dict(json.loads((self.output / "config.json").read_text()))


@pytest.fixture
def minitron(tmp_path: Path, model: Path) -> Minitron:
    return Minitron(tmp_path, model)


def test_minitrons_script_is_told_sizes_stages_and_conversations_as_text(minitron: Minitron) -> None:
    assert minitron.run(prune__ffn_hidden_size=128, prune__num_layers=2) == (0, "")
    told = minitron.told
    assert told["prune_export_config"] == {"ffn_hidden_size": 128, "num_layers": 2}
    assert (told["hf_model_name_or_path"], told["pp_size"]) == (str(minitron.model), 1)
    assert (told["calib_num_samples"], told["seq_length"]) == (16, 128)
    assert told["calibration"] and all(list(row) == ["text"] and "user: " in row["text"] for row in told["calibration"])
    assert told["first_on_path"] == str(STANDIN) and not Path(told["calib_dataset_name"]).exists()
    result = json.loads((minitron.folder / "run" / "result.json").read_text())
    assert (result["method"], result["checkpoint"]) == ("Minitron", str(minitron.output))


@pytest.mark.parametrize(
    ("layers", "world", "stages"),
    [(32, 2, (None, None)), (33, 2, (17, 16)), (36, 8, (3, 3)), (10, 4, (2, 2)), (9, 8, (2, 1)), (5, 4, (2, 1))],
)
def test_layers_that_the_processes_cannot_share_evenly(
    minitron: Minitron, layers: int, world: int, stages: tuple[int | None, int | None]
) -> None:
    minitron.layers(layers)
    assert minitron.run(world=str(world), prune__ffn_hidden_size=128) == (0, "")
    told = minitron.told
    found = (told["num_layers_in_first_pipeline_stage"], told["num_layers_in_last_pipeline_stage"])
    assert found == stages
    if world > 2 and stages[0]:
        assert (layers - sum(s or 0 for s in stages)) % (world - 2) == 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "prune: no size is set; there is nothing to prune."),
        ({"prune__ffn_hidden_size": 100}, "prune.ffn_hidden_size: 100 is not a multiple of 64"),
        ({"prune__dtype": "bfloat16"}, "prune.dtype: Minitron cuts no such thing; expected one of hidden_size, "),
        ({"prune__num_layers": 2, "world": "40"}, "--gpus: 40 processes share the model by layers, and it has 32"),
        (
            {"prune__num_layers": 2, "repository": Path("/nowhere")},
            "/nowhere/examples/megatron_bridge/prune_minitron.py",
        ),
    ],
)
def test_what_minitron_cannot_do_is_refused(minitron: Minitron, values: dict[str, Any], said: str) -> None:
    code, told = minitron.run(**values)
    assert code == 78 and told.startswith(f"slipway: refused: {said}") and not minitron.output.exists()


PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "use_dora": False}


@pytest.mark.parametrize(
    ("options", "scale"),
    [({}, 2.0), ({"r": 16, "use_rslora": True}, 2.0), ({"rank_pattern": {}, "modules_to_save": None}, 2.0)],
)
def test_the_scale_is_alpha_by_rank(options: dict[str, Any], scale: float) -> None:
    assert peft_merge.scale_of(PLAIN | options, Path("/a")) == scale


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only LORA"),
        ({"use_dora": True}, "use_dora is True; only a plain LoRA"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is ['lm_head']"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern is {'q_proj': 8}"),
        ({"r": 0}, "r is 0 and lora_alpha 8"),
        ({"lora_alpha": None}, "r is 4 and lora_alpha None"),
    ],
)
def test_what_is_more_than_a_plain_lora_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        peft_merge.scale_of(PLAIN | options, Path("/a"))
    assert huggingface.beyond_lora(PLAIN | options), "the launcher knows it before"


def test_the_launcher_and_the_program_call_the_same_adapters_plain() -> None:
    assert huggingface.LORA == peft_merge.PLAIN
    assert not huggingface.beyond_lora(PLAIN)


def merging(model: Path, base: str | None = None, **options: Any) -> dict[str, Any]:
    """A plan's configuration, with an adapter that records `base`."""
    adapter = model.parent / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps(PLAIN | options))
    (adapter / "adapter_model.safetensors").write_bytes(safetensors({"base_model.model.a.lora_A.weight": [4, 3]}))
    if base:
        (adapter / "slipway.json").write_text(json.dumps({"base": base, "base_path": "/data/other"}))
    paths = {"adapter__path": str(adapter), "base__path": str(model), "output__path": str(model.parent / "output")}
    return configured("convert/merge_lora_hf", **paths)


def test_another_base_than_the_recorded_one_is_refused(refused: Refused, model: Path) -> None:
    assert refused("peft_merge.py", merging(model, "a" * 64), {"base": BASE}) == (
        f"base.path: /data/llama is not what the adapter was trained on: it has the fingerprint {'b' * 12}, the "
        f"adapter records {'a' * 12} (/data/other)"
    )


def test_the_recorded_base_is_taken_and_none_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert peft_merge.refuse_other_base(tmp_path, BASE) is False
    assert "does not record its base" in capsys.readouterr().out
    (tmp_path / "slipway.json").write_text(json.dumps({"base": BASE["fingerprint"], "base_path": "/elsewhere"}))
    assert peft_merge.refuse_other_base(tmp_path, BASE) is True


def test_an_adapter_of_another_layout_is_sent_to_the_other_step(refused: Refused, model: Path) -> None:
    config = merging(model)
    (model.parent / "adapter" / "adapter_config.json").unlink()
    assert refused("peft_merge.py", config).endswith(
        "no adapter_config.json; for Megatron's layout: convert/merge_lora"
    )


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["base_model.model.a.lora_A.weight"], "holds one half of a.weight alone"),
        (["base_model.model.a.lora_A.weight", "a.weight"], "holds a.weight, which is no"),
        (["base_model.model.a.lora_magnitude_vector"], "which is no"),
        ([], "holds no tensors"),
    ],
)
def test_tensors_that_are_no_pairs_are_named(names: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        peft_merge.pairs_of(dict.fromkeys(names, 0))


def test_pairs_are_named_as_in_the_base() -> None:
    halves = {f"base_model.model.model.layers.0.q_proj.lora_{h}.weight": h for h in "BA"}
    assert peft_merge.pairs_of(halves) == {"model.layers.0.q_proj.weight": ("A", "B")}


def test_everything_but_the_weights_is_copied(model: Path, tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()
    peft_merge.copy_rest(model, tmp_path / "merged")
    copied = sorted(p.name for p in (tmp_path / "merged").iterdir())
    assert copied == ["config.json", "model.safetensors.index.json", "tokenizer.json"]
    assert [p.name for p in peft_merge.shards_of(model)] == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]


@pytest.mark.parametrize("step_id", ["peft/automodel"])
def test_the_configurations_of_lora_fit_those_of_full_fine_tuning(step_id: str) -> None:
    folder, sft = (REPO / "launcher" / "steps" / i for i in (step_id, "sft/automodel"))
    layers = [yaml.safe_load(p.read_text()) for p in (sft / "base.yaml", folder / "default.yaml", folder / "tiny.yaml")]
    named = [{"name": "", "values": values} for values in layers[1:]]
    plan = {"base": {"values": layers[0]}, "layers": named, "remove": [], "set": []}
    merged = slipway_step.merge_config(plan)
    assert merged["peft"] == {
        "_target_": "nemo_automodel.components._peft.lora.PeftConfig", "match_all_linear": False,
        "target_modules": "*_proj", "dim": 4, "alpha": 8, "dropout": 0.0,
    }  # fmt: skip
    assert merged["checkpoint"]["save_consolidated"] is True and merged["dataset"]["seq_length"] == 128

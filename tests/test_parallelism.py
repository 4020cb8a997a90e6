"""parallelism.py: whether inputs, configuration and shape fit each other. Pure, on the catalogue's own steps."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from helpers import MODEL, REPO, SpecOf, described, entry_of, seen_of

from launcher.artifacts.detection import Artifact
from launcher.artifacts.nouns import Sizes
from launcher.catalog import commands, definitions
from launcher.catalog.profiles import Gpu, GpuModel, Profile
from launcher.catalog.releases import Wired
from launcher.core import arguments
from launcher.core.plan import LaunchSpec
from launcher.planning.checks import config_values, parallelism, preflight
from slipway.findings import Finding
from slipway.project import Root

ROOT = Root(REPO)
SFT, MERGE = "sft/megatron_bridge", "convert/merge_lora"
TOKENIZER = {"tokenizer": "a" * 64, "template": "b" * 64}
SIZES: dict[str, str | int] = {"layers": 32, "hidden": 4096, "heads": 32, "vocab": 128256, "intermediate": 14336}


def artifact(name: str, type_: str, digit: str = "c", **facts: str | int) -> Artifact:
    return Artifact(
        name=name,
        path=f"/{name}",
        kind="folder",
        type=type_,
        fingerprint=digit * 64,
        **described(type_ == "packed_parquet", **facts),
    )


PACKED = artifact("train", "packed_parquet", size=2048, **TOKENIZER)
BASE = artifact("model", "checkpoint_megatron", **SIZES)
GIVEN = {
    SFT: [PACKED, BASE, artifact("tokenizer", "checkpoint_hf", layers=9, heads=7, **TOKENIZER)],
    "sft/automodel": [artifact("train", "chat_jsonl"), artifact("model", "checkpoint_hf", **SIZES)],
    "peft/automodel": [artifact("train", "chat_jsonl"), artifact("model", "checkpoint_hf", **SIZES)],
    "pretrain/automodel": [artifact("data", "binidx"), artifact("model", "checkpoint_hf", **SIZES)],
    "peft/megatron_bridge": [PACKED, BASE, artifact("tokenizer", "checkpoint_hf", layers=9, heads=7, **TOKENIZER)],
    MERGE: [artifact("adapter", "checkpoint_lora"), artifact("base", "checkpoint_megatron")],
    "pretrain/megatron_bridge": [],
    "convert/hf_to_megatron": [artifact("model", "checkpoint_hf", **SIZES)],
    "optimize/modelopt/distill": [
        artifact("train", "chat_jsonl"),
        artifact("teacher", "checkpoint_hf", **SIZES | {"layers": 64}),
        artifact("student", "checkpoint_hf", **SIZES),
    ],
    "optimize/modelopt/quantize": [artifact("model", "checkpoint_hf", **SIZES)],
}


class Found:
    """What fit finds of a step with CUDA, with the inputs of GIVEN or others, on `procs` processes."""

    def __init__(self, spec_of: SpecOf, name: str, *said: str, **facts: Any) -> None:
        step = definitions.find_step(ROOT, name)
        artifacts = {a.name: a for a in [*GIVEN[name], *facts.pop("given", [])]}
        named = tuple(f"{a.name}={a.path}" for a in artifacts.values())
        flavour = facts.pop("flavour", "cuda")
        overlays = [("default", definitions.overlay(step, "default")), *facts.pop("over", [])]
        entry = entry_of(flavour, library=step.library)
        self.spec: LaunchSpec = spec_of(
            step=step, entry=entry, base=commands.base_config(step, entry), overlays=overlays,
            words=arguments.parse(step, (*named, *said)), **({"gpus": 8, "procs": 8} | facts),
        )  # fmt: skip
        self.seen = seen_of(artifacts=artifacts)
        self.findings: list[Finding] = parallelism.check(self.spec, self.seen)

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(f.where, f.what) for f in self.findings]


def test_what_fits_is_not_mentioned(spec_of: SpecOf) -> None:
    for name in GIVEN:
        assert Found(spec_of, name).findings == [], name


@pytest.mark.parametrize(
    ("found", "wanted", "command"),
    [
        ("checkpoint_hf", ["checkpoint_megatron"], "launch convert/hf_to_megatron model=/x output=NEW"),
        ("checkpoint_megatron", ["checkpoint_hf"], "launch convert/megatron_to_hf model=/x config=PATH output=NEW"),
        ("checkpoint_lora", ["checkpoint_hf"], "launch convert/merge_lora adapter=/x base=PATH output=NEW"),
        ("chat_jsonl", ["packed_parquet"], "launch data_prep/sft_packing train=/x tokenizer=PATH output=NEW"),
        ("chat_jsonl", ["checkpoint_megatron"], ""),
        ("packed_parquet", ["chat_jsonl"], ""),
    ],
)
def test_the_step_that_converts_is_computed_from_the_catalogue(found: str, wanted: list[str], command: str) -> None:
    there = Artifact(name="in", path="/x", kind="folder", type=found)
    said = parallelism.converter(definitions.all_steps(ROOT), there, wanted)
    permits = "say --convert, or " if "convert/" in command else ""  # how data are packed is a choice
    assert said == (f"{permits}run first: {command}; then say in=NEW" if command else "")


def test_an_adapter_goes_to_the_step_that_reads_its_layout() -> None:
    there = artifact("model", "checkpoint_lora", layout="hf_peft")
    assert "launch convert/merge_lora_hf adapter=" in parallelism.converter(
        definitions.all_steps(ROOT), there, ["checkpoint_hf"]
    )


def test_a_wrong_type_is_answered_with_the_command_to_run_first(spec_of: SpecOf) -> None:
    found = Found(spec_of, SFT, given=[artifact("model", "checkpoint_hf", **SIZES)])
    (finding,) = preflight.check(found.spec, found.seen, definitions.all_steps(ROOT))[:1]
    assert finding.what == "is no checkpoint_megatron: found checkpoint_hf"
    assert (
        finding.remedy
        == "say --convert, or run first: launch convert/hf_to_megatron model=/model output=NEW; then say model=NEW"
    )
    assert preflight.check(found.spec, found.seen)[0].remedy.startswith("expected: a folder with latest_checkpointed")


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"tokenizer": "d" * 64}, "another tokenizer: sha256 aaaaaaaaaaaa, here dddddddddddd"),
        ({"template": "d" * 64}, "another chat template: sha256 bbbbbbbbbbbb, here dddddddddddd"),
    ],
)  # fmt: skip
def test_rows_are_trained_with_the_tokenizer_they_were_packed_with(
    spec_of: SpecOf, changed: dict[str, str], what: str
) -> None:
    given = [artifact("tokenizer", "tokenizer_hf", **(TOKENIZER | changed))]
    assert Found(spec_of, SFT, given=given).told == [("tokenizer=/tokenizer", f"train=/train was packed with {what}")]


def test_a_missing_template_is_another_one_and_unknown_packing_none(spec_of: SpecOf) -> None:
    bare = [artifact("tokenizer", "tokenizer_hf", tokenizer="a" * 64)]
    assert Found(spec_of, SFT, given=bare).told[0][1].endswith("sha256 bbbbbbbbbbbb, here none")
    assert Found(spec_of, SFT, given=[*bare, artifact("train", "packed_parquet", size=2048)]).told == []


@pytest.mark.parametrize(
    ("layout", "base", "name", "type_", "what"),
    [
        ("megatron_bridge", "/inputs/model-cccccccc", MERGE, "checkpoint_megatron", ""),
        ("megatron_bridge", "/inputs/model-cccccccc/iter_0000004", MERGE, "checkpoint_megatron", ""),
        ("megatron_bridge", "/ckpt/base", MERGE, "checkpoint_megatron", ""),
        ("megatron_bridge", "/inputs/model-dddddddd", MERGE, "checkpoint_hf", ""),
        ("megatron_bridge", "/inputs/model-dddddddd", MERGE, "checkpoint_megatron",
         "was trained on the model dddddddd, base=/base is cccccccc"),
        ("hf_peft", "/ckpt/base", MERGE, "checkpoint_hf",
         "is an adapter of layout hf_peft; convert/merge_lora reads megatron_bridge"),
        ("hf_peft", "c" * 64, "convert/merge_lora_hf", "checkpoint_hf", ""),
        ("hf_peft", "d" * 64, "convert/merge_lora_hf", "checkpoint_hf",
         "was trained on the model dddddddd, base=/base is cccccccc"),
    ],
)  # fmt: skip
def test_an_adapter_is_merged_into_the_base_it_was_trained_on(
    spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch, layout: str, base: str, name: str, type_: str, what: str
) -> None:
    monkeypatch.setitem(GIVEN, "convert/merge_lora_hf", GIVEN[MERGE])
    given = [artifact("adapter", "checkpoint_lora", layout=layout, base=base), artifact("base", type_)]
    assert Found(spec_of, name, given=given).told == ([("adapter=/adapter", what)] if what else [])


PACK = "train=/train was packed with 2048 tokens a row"


@pytest.mark.parametrize(
    ("said", "over", "where"),
    [
        (["seq_length=1024"], {}, "seq_length=1024"),
        (["dataset.seq_length=1024"], {}, "seq_length=1024"),
        ([], {"dataset": {"seq_length": 512}}, "seq_length=512"),
        (["seq_length=2048"], {"dataset": {"seq_length": 512}}, ""),
        (["seq_length=512", "dataset.seq_length=2048"], {}, ""),
    ],
)
def test_the_length_of_a_row_comes_from_the_highest_that_says_it(
    spec_of: SpecOf, said: list[str], over: dict[str, Any], where: str
) -> None:
    found = Found(spec_of, SFT, *said, over=[("mine", over)])
    assert found.told == ([(where, PACK)] if where else [])
    assert [f.code for f in found.findings] == [65] * bool(where)


def test_packed_rows_are_trained_one_by_one(spec_of: SpecOf) -> None:
    told = Found(spec_of, SFT, "train.micro_batch_size=2").told
    assert told == [("train.micro_batch_size=2", "train=/train: packed rows are trained one by one")]
    assert Found(spec_of, SFT, "train.micro_batch_size=2", given=[artifact("train", "chat_jsonl")]).told == []


SP, PER_TOKEN = "model.sequence_parallel", "model.calculate_per_token_loss=true"
MOE = artifact("model", "checkpoint_megatron", **SIZES, experts=64)


@pytest.mark.parametrize(
    ("said", "facts", "told"),
    [
        (["tensor_parallel=3"], {}, [
            ("shape", "8 processes cannot be shared by tensor 3 x pipeline 1 x context 1 = 3"),
            ("tensor_parallel=3", "does not divide the model's 32 attention heads"),
        ]),
        (["tensor_parallel=2", "pipeline_parallel=2", "context_parallel=2", PER_TOKEN], {}, []),
        (["pipeline_parallel=2", "context_parallel=2", PER_TOKEN], {}, [
            ("shape", "8 processes cannot be shared by tensor 4 x pipeline 2 x context 2 = 16"),
        ]),
        (["pipeline_parallel=2", "context_parallel=2", PER_TOKEN], {"nodes": 2}, []),
        (["tensor_parallel=4"], {"gpus": 1, "procs": 1}, [
            ("shape", "1 process cannot be shared by tensor 4 x pipeline 1 x context 1 = 4"),
        ]),
        (["tensor_parallel=0"], {}, [("tensor_parallel=0", "is no whole number from 1 on")]),
        (["model.tensor_model_parallel_size=[2]"], {}, [("tensor_parallel=[2]", "is no whole number from 1 on")]),
        (["tensor_parallel=1"], {}, [(f"{SP}=true", "needs a tensor parallel size above 1")]),
        (["tensor_parallel=1", f"{SP}=false"], {}, []),
        (["expert_parallel=2"], {}, [("expert_parallel=2", "model=/model has no experts")]),
        (["expert_parallel=8"], {"given": [MOE]}, []),
        (["expert_parallel=16"], {"given": [MOE]}, [
            ("expert_parallel=16", "8 processes cannot be shared by expert 16 x pipeline 1 = 16"),
        ]),
        (["expert_parallel=4", "model.expert_tensor_parallel_size=4"], {"given": [MOE]}, [
            ("expert_parallel=4", "8 processes cannot be shared by expert 16 x pipeline 1 = 16"),
        ]),
        (["expert_parallel=3"], {"given": [MOE], "procs": 12}, [
            ("expert_parallel=3", "does not divide the model's 64 experts"),
            ("global_batch_size=128", "is no multiple of 1 (batch of a process) x 3 (data parallel) = 3"),
        ]),
        ([f"{SP}=false"], {"given": [MOE]}, [
            (f"{SP}=false", "cannot be for a model with experts and a tensor parallel size above 1"),
        ]),
        (["context_parallel=2", "seq_length=2046", PER_TOKEN], {"given": [artifact("train", "chat_jsonl")]}, [
            ("seq_length=2046", "is no multiple of 2 x the context parallel size = 4"),
        ]),
    ],
)  # fmt: skip
def test_the_shape_is_shared_evenly(
    spec_of: SpecOf, said: list[str], facts: dict[str, Any], told: list[tuple[str, str]]
) -> None:
    found = Found(spec_of, SFT, *said, **facts)
    assert found.told == told
    assert {f.code for f in found.findings} <= {64}


CONTEXT = ["context_parallel=2"]
NEEDS = (
    "context_parallel=2",
    "needs model.calculate_per_token_loss=true in fine-tuning: a process's part of a row may have no token to learn",
)
PADDED = "train=/train was packed with conversations of a multiple of 1 tokens, expected 4"
A2A, LEVELS = "model.cp_comm_type=a2a+p2p", "model.hierarchical_context_parallel_sizes"


@pytest.mark.parametrize(
    ("said", "given", "told"),
    [
        (CONTEXT, [], [NEEDS]),
        ([*CONTEXT, "model.calculate_per_token_loss=false"], [], [NEEDS]),
        ([*CONTEXT, PER_TOKEN], [], []),
        (CONTEXT, [msgspec.structs.replace(BASE, sizes=Sizes(**SIZES, per_token_loss=True))], []),
        (CONTEXT, [artifact("model", "checkpoint_megatron")], []),  # what the checkpoint says is not known
        ([], [], []),
        ([*CONTEXT, PER_TOKEN, "ddp.average_in_collective=true"], [], [
            ("context_parallel=2",
             "cannot be with ddp.average_in_collective=true, a mean over processes, in fine-tuning"),
        ]),
        (["ddp.average_in_collective=true"], [], []),
        ([*CONTEXT, PER_TOKEN], [artifact("train", "packed_parquet", size=2048, multiple=1, **TOKENIZER)],
         [("context_parallel=2", PADDED)]),
        ([*CONTEXT, PER_TOKEN], [artifact("train", "packed_parquet", size=2048, multiple=8, **TOKENIZER)], []),
        ([], [artifact("train", "packed_parquet", size=2048, multiple=1, **TOKENIZER)], []),
        ([*CONTEXT, PER_TOKEN, A2A], [], [(A2A, f"needs {LEVELS}, sizes of both")]),
        ([*CONTEXT, PER_TOKEN, A2A, f"{LEVELS}=[2,2]"], [], [
            (f"{LEVELS}=[2, 2]", "has the product 4, expected the context parallel size = 2"),
        ]),
        ([*CONTEXT, PER_TOKEN, A2A, f"{LEVELS}=[2,1]"], [], []),
        ([*CONTEXT, PER_TOKEN, "model.cp_comm_type=p2p"], [], []),
        ([*CONTEXT, PER_TOKEN, "model.cp_comm_type=[p2p,a2a]"], [], [
            ("model.cp_comm_type=['p2p', 'a2a']", "names 2 of the model's 32 layers"),
        ]),
        (["model.cp_comm_type=[p2p,a2a]"], [], []),
        ([*CONTEXT, PER_TOKEN, f"model.cp_comm_type=[{','.join(['p2p'] * 32)}]"], [], []),
    ],
)  # fmt: skip
def test_rows_are_shared_as_the_library_asserts_it(
    spec_of: SpecOf, said: list[str], given: list[Artifact], told: list[tuple[str, str]]
) -> None:
    for step in (SFT, "peft/megatron_bridge"):
        found = Found(spec_of, step, *said, given=given)
        assert found.told == told, step
        assert all(f.remedy for f in found.findings)
    (finding,) = Found(spec_of, SFT, *CONTEXT).findings
    assert (finding.code, finding.remedy) == (64, PER_TOKEN)


def test_a_pretraining_needs_no_loss_per_token(spec_of: SpecOf) -> None:
    assert Found(spec_of, "pretrain/megatron_bridge", *CONTEXT).told == []
    assert Found(spec_of, "pretrain/megatron_bridge", *CONTEXT, A2A).told == [(A2A, f"needs {LEVELS}, sizes of both")]


def test_a_batch_is_shared_evenly_and_the_nearest_are_named(spec_of: SpecOf) -> None:
    (finding,) = Found(spec_of, SFT, "global_batch_size=7").findings
    assert finding.what == "is no multiple of 1 (batch of a process) x 2 (data parallel) = 2"
    assert finding.remedy == "such as global_batch_size=6 or global_batch_size=8"
    (finding,) = Found(spec_of, SFT, "global_batch_size=1").findings
    assert finding.remedy == "such as global_batch_size=2"
    evaluated = "validation.eval_global_batch_size=3"
    assert Found(spec_of, SFT, evaluated).findings == [], "without validation= it is not used"
    rows = [msgspec.structs.replace(PACKED, name="validation")]
    assert Found(spec_of, SFT, evaluated, given=rows).told[0][0] == evaluated
    said = {"given": rows, "over": [("mine", {"validation": {"eval_global_batch_size": 3}})]}
    assert len(Found(spec_of, SFT, **said).findings) == 1
    gone = Wired(remove=["validation.eval_global_batch_size"])
    assert Found(spec_of, SFT, **said, wired=gone).findings == [], "a release without that key"


def test_what_only_the_image_knows_is_said_and_not_guessed(spec_of: SpecOf) -> None:
    said = ("global_batch_size=7", "local_batch_size=2")
    found = Found(spec_of, "sft/automodel", *said)
    assert found.findings == []
    _, note = parallelism.notes(found.spec)
    assert note.endswith(".yaml may say it: distributed.tp_size, distributed.pp_size, distributed.cp_size")
    sizes = [("mine", {"distributed": {"tp_size": 1, "pp_size": 1, "cp_size": 1}})]
    known = Found(spec_of, "sft/automodel", *said, over=sizes)
    assert len(parallelism.notes(known.spec)) == 1
    assert known.told == [("global_batch_size=7", "is no multiple of 2 (batch of a process) x 8 (data parallel) = 16")]
    ours = Found(spec_of, "sft/automodel", *said, flavour="cpu", gpus=0, procs=2)
    assert ours.told == [("global_batch_size=7", "is no multiple of 2 (batch of a process) x 2 (data parallel) = 4")]
    assert len(parallelism.notes(ours.spec)) == 1
    assert len(parallelism.notes(Found(spec_of, SFT).spec)) == 1, (
        "what our own base leaves out is the library's default"
    )


def test_it_is_said_what_became_of_the_shape(spec_of: SpecOf) -> None:
    sizes = [("mine", {"distributed": {"tp_size": 2, "pp_size": 1, "cp_size": 1}})]
    said = ("global_batch_size=64", "local_batch_size=2")
    found = Found(spec_of, "sft/automodel", *said, over=sizes, nodes=2)
    assert parallelism.notes(found.spec) == [
        "shape: torchrun --nnodes=2 --nproc-per-node=8: 16 processes; distributed.tp_size=2, distributed.pp_size=1, "
        "distributed.cp_size=1; data parallel 8; a batch of 64 is 8 x 2 x 4 accumulated"
    ]
    assert parallelism.notes(Found(spec_of, "sft/automodel", *said, flavour="cpu", gpus=0, procs=1).spec) == []


@pytest.mark.parametrize("name", ["sft/automodel", "peft/automodel", "pretrain/automodel"])
def test_automodels_batches_are_shared_by_what_the_parallel_sizes_leave(spec_of: SpecOf, name: str) -> None:
    sizes = [("mine", {"distributed": {"tp_size": 2, "pp_size": 2, "cp_size": 1}})]
    said = ("local_batch_size=2", "seq_length=1024")
    assert Found(spec_of, name, *said, "global_batch_size=8", over=sizes).told == []
    told = Found(spec_of, name, *said, "global_batch_size=6", over=sizes).told
    assert told == [("global_batch_size=6", "is no multiple of 2 (batch of a process) x 2 (data parallel) = 4")]


def test_a_mapping_for_another_target_replaces_the_one_below(spec_of: SpecOf) -> None:
    other = [("mine", {"dataset": {"_target_": "my.Dataset"}})]
    found = Found(spec_of, SFT, over=other)
    assert "sequence_length" not in config_values.settings(found.spec)
    assert (
        config_values.settings(Found(spec_of, SFT, over=[("mine", {"dataset": {"seed": 1}})]).spec)["sequence_length"]
        == 2048
    )


HOPPER, BLACKWELL = "Ada, Hopper or newer", "Blackwell"


@pytest.mark.parametrize(
    ("gpu", "precision", "needs"),
    [
        ("A100", "bf16_mixed", ""),
        ("A100", "bf16_with_fp8_current_scaling_mixed", HOPPER),
        ("L40S", "bf16_with_fp8_current_scaling_mixed", ""),
        ("H100", "bf16_with_fp8_current_scaling_mixed", ""),
        ("H100", "bf16_with_mxfp8_mixed", BLACKWELL),
        ("H200", "bf16_with_nvfp4_mixed", BLACKWELL),
        ("B200", "bf16_with_nvfp4_mixed", ""),
        ("A100", {"_target_": "x.MixedPrecisionConfig", "bf16": True, "fp8": None, "fp8_recipe": "tensorwise"}, ""),
        ("A100", {"_target_": "x.MixedPrecisionConfig", "bf16": True, "fp8": "hybrid"}, HOPPER),
        ("H100", {"_target_": "x.MixedPrecisionConfig", "fp8": "hybrid", "fp8_recipe": "mxfp8"}, BLACKWELL),
    ],
)
def test_the_profiles_gpu_has_to_know_the_format(
    spec_of: SpecOf, profile: Profile, gpu: GpuModel, precision: Any, needs: str
) -> None:
    here = msgspec.structs.replace(profile, gpu=Gpu(model=gpu))
    findings = Found(spec_of, SFT, profile=here, over=[("mine", {"mixed_precision": precision})]).findings
    assert [f.severity for f in findings] == ["warning"] * bool(needs)
    assert not needs or findings[0].what.endswith(f" needs {needs}; the profile's GPU is {gpu}")


def test_a_format_is_known_below_its_section_too(spec_of: SpecOf, profile: Profile) -> None:
    here = msgspec.structs.replace(profile, gpu=Gpu(model="A100"))
    recipe = {"mixed_precision": {"_target_": "megatron.bridge.training.mixed_precision.MixedPrecisionConfig"}}
    (finding,) = Found(spec_of, SFT, "mixed_precision.fp8=hybrid", profile=here, over=[("mine", recipe)]).findings
    assert finding.what == "mixed_precision=fp8 hybrid needs Ada, Hopper or newer; the profile's GPU is A100"


def test_a_quantization_is_warned_of_too_and_only_with_cuda(spec_of: SpecOf, profile: Profile) -> None:
    here = msgspec.structs.replace(profile, gpu=Gpu(model="H100"))
    name, said = "optimize/modelopt/quantize", "format=nvfp4"
    (finding,) = Found(spec_of, name, said, profile=here).findings
    assert finding.what == "quantize.format=nvfp4 needs Blackwell; the profile's GPU is H100"
    assert Found(spec_of, name, said, profile=here, flavour="cpu", gpus=0, procs=1).findings == []
    assert Found(spec_of, name, said).findings == [], "no GPU in the profile"


@pytest.mark.parametrize(("gpu", "warned"), [("A100", True), ("L40S", False), ("L4", False), ("H100", False)])
def test_fp8_is_for_ada_too(spec_of: SpecOf, profile: Profile, gpu: GpuModel, warned: bool) -> None:
    here = msgspec.structs.replace(profile, gpu=Gpu(model=gpu))
    for name, said in (("sft/automodel", "fp8.enabled=true"), ("optimize/modelopt/quantize", "format=fp8")):
        found = Found(spec_of, name, said, profile=here).findings
        assert [f.severity for f in found] == ["warning"] * warned
        assert all(f.what.endswith(f" needs {HOPPER}; the profile's GPU is {gpu}") for f in found)


def test_every_gpu_of_a_profile_has_its_capability() -> None:
    assert set(get_args(GpuModel)) == set(parallelism.CAPABILITY)


def test_of_a_model_without_known_sizes_nothing_is_said(spec_of: SpecOf) -> None:
    assert Found(spec_of, "convert/hf_to_megatron", "tensor_parallel=8", given=[MODEL]).findings == []
    told = Found(spec_of, "convert/hf_to_megatron", "tensor_parallel=3").told
    assert ("tensor_parallel=3", "does not divide the model's 32 attention heads") in told


@pytest.mark.parametrize(("name", "tensor", "data"), [("1b", 2, 4), ("3b", 2, 4), ("8b", 4, 2)])
def test_the_shipped_starts_fit_one_node_of_eight(spec_of: SpecOf, name: str, tensor: int, data: int) -> None:
    over = [(name, definitions.overlay(definitions.find_step(ROOT, SFT), name))]
    found = Found(spec_of, SFT, over=over)
    shape = config_values.sizes(found.spec, config_values.settings(found.spec))
    assert shape == {"tensor": tensor, "pipeline": 1, "context": 1}
    assert config_values.world_size(found.spec) // tensor == data and found.findings == []


def test_a_step_without_inputs_converts_nothing() -> None:
    (step,) = [s for s in definitions.all_steps(ROOT) if s.id == "sft/automodel"]
    alone = msgspec.structs.replace(step, inputs={})
    assert parallelism.converter([alone], artifact("model", "checkpoint_lora"), ["checkpoint_hf"]) == ""

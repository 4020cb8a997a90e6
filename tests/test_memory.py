"""launcher/planning/checks/memory.py: the estimate against what others count, and what a launch says of it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest
from helpers import REPO, SpecOf
from test_parallelism import BASE, SFT, SIZES, Found, artifact

from launcher.artifacts.nouns import Sizes
from launcher.catalog import definitions
from launcher.catalog.profiles import Gpu, Profile
from launcher.planning.checks import config_values, memory, preflight
from launcher.planning.checks.memory import BYTES, GIB, Layout, Model
from slipway.project import Root

# Sizes as in the models' config.json on the hub.
LLAMA_1B = Model(
    layers=16, hidden=2048, vocab=128256, heads=32, kv_heads=8, head_size=64, intermediate=8192, tied=True
)  # fmt: skip
LLAMA_3B = Model(
    layers=28, hidden=3072, vocab=128256, heads=24, kv_heads=8, head_size=128, intermediate=8192, tied=True
)  # fmt: skip
LLAMA_8B = Model(layers=32, hidden=4096, vocab=128256, heads=32, kv_heads=8, head_size=128, intermediate=14336)
QWEN_30B_A3B = Model(
    layers=48, hidden=2048, vocab=151936, heads=32, kv_heads=4, head_size=128, intermediate=6144, experts=128,
    experts_per_token=8, expert_intermediate=768,
)  # fmt: skip
# No model's: 120B weights, 12B of them active, almost all in experts.
LARGE_120B_A12B = Model(
    layers=64, hidden=4096, vocab=131072, heads=32, kv_heads=2, head_size=128, intermediate=8192, experts=128,
    experts_per_token=8, expert_intermediate=1152, parameters=120_000_000_000,
)  # fmt: skip
MIXED, PLAIN = BYTES["mixed"], BYTES["bfloat16"]


def layout(world: int, **facts: Any) -> Layout:
    facts = {"micro": 1, "sequence": 2048, "bytes": MIXED, "sharding": 1, **facts}
    return Layout(world=world, sequence_parallel=facts.get("tensor", 1) > 1, **facts)


def share(model: Model, spread: Layout) -> float:
    """Part of 80 GiB."""
    return sum(memory.estimate(model, spread).values()) / (80 * GIB)


@pytest.mark.parametrize(
    ("model", "published"),
    [(LLAMA_1B, 1_235_814_400), (LLAMA_3B, 3_212_749_824), (LLAMA_8B, 8_030_261_248), (QWEN_30B_A3B, 30_532_122_624)],
)
def test_the_weights_are_those_of_the_published_model(model: Model, published: int) -> None:
    assert abs(model.total - published) <= 2 * model.head_size * model.layers * bool(model.experts), "norms of q and k"


@pytest.mark.parametrize(
    ("model", "gpus", "spread", "states", "kept"),
    [
        (LLAMA_8B, 8, {}, 56.1, 9.0),
        (LLAMA_8B, 8, {"tensor": 2}, 33.7, 4.5),
        (LLAMA_8B, 8, {"tensor": 4}, 22.4, 2.3),
        (LLAMA_8B, 8, {"tensor": 2, "pipeline": 2}, 22.4, 4.0),
        (LLAMA_1B, 8, {"tensor": 2}, 5.2, 1.6),
        # Of experts its activations leave out the copies of every token.
        (QWEN_30B_A3B, 8, {"tensor": 4, "expert": 8}, 65.2, None),
        (QWEN_30B_A3B, 16, {"tensor": 4, "expert": 8}, 43.8, None),
    ],
)
def test_it_agrees_with_megatrons_own_calculator(
    model: Model, gpus: int, spread: dict[str, int], states: float, kept: float | None
) -> None:
    """GiB by megatron.training.theoretical_memory_usage of Megatron-Core 0.19.2, distributed optimizer."""
    terms = memory.estimate(model, layout(gpus, **spread))
    assert (sum(terms.values()) - terms["activations"]) / GIB == pytest.approx(states, abs=0.15)
    assert kept is None or terms["activations"] / GIB == pytest.approx(kept, rel=0.08)


def test_a_layer_is_what_korthikanti_et_al_count() -> None:
    """34 bytes a token and hidden unit, 10 and 24 of them with and without sequence parallelism; less dropout masks."""
    plain = Model(layers=1, hidden=768, vocab=1, heads=12, intermediate=2048, parameters=1)  # 3 x 8/3 h is 2 x 4 h
    tokens, head = 2048, 4 * 2048 * (768 + 1)
    for spread, each in (({}, 34 - 2), ({"tensor": 4}, (34 - 2) / 4)):
        assert memory.activations(plain, layout(4, **spread)) == tokens * 768 * each + head / spread.get("tensor", 1)
    apart = msgspec.structs.replace(layout(4, tensor=4), sequence_parallel=False)
    assert memory.activations(plain, apart) == tokens * 768 * (10 - 2 + 24 / 4) + head / 4


@pytest.mark.parametrize(
    ("model", "spread", "fits"),
    [  # facts: 30B-A3B 8, 120B-A12B 32, 7B to 8B: SFT 2 to 4, LoRA 1 to 2, all of 80 GB
        (QWEN_30B_A3B, layout(8, tensor=4, expert=8, recompute=True), True),
        (QWEN_30B_A3B, layout(4, tensor=4, expert=4, recompute=True), False),
        (LARGE_120B_A12B, layout(32, tensor=4, expert=32, recompute=True), True),
        (LARGE_120B_A12B, layout(16, tensor=4, expert=16, recompute=True), False),
        (LLAMA_8B, layout(4, tensor=4), True),
        (LLAMA_8B, layout(2, tensor=2), True),
        (LLAMA_8B, layout(1), False),
        (LLAMA_8B, layout(4, sharding=3, bytes=PLAIN), True),
        (LLAMA_8B, layout(2, sharding=3, bytes=PLAIN), True),
        (LLAMA_8B, layout(1, rank=32), True),
        (LLAMA_8B, layout(1, rank=32, bytes=PLAIN, sharding=3), True),
    ],
)
def test_it_agrees_with_the_least_number_of_gpus_that_is_known(model: Model, spread: Layout, fits: bool) -> None:
    assert share(model, spread) < 1 if fits else share(model, spread) >= memory.REFUSE


def test_where_it_does_not_agree_with_what_is_known() -> None:
    """Two are asked for; weights and optimizer all in bfloat16 would leave room on one, if little."""
    assert memory.WARN < share(LLAMA_8B, layout(1, sharding=3, bytes=PLAIN)) < 1


@pytest.mark.parametrize("sharding", [0, 1, 3])
def test_zero_divides_by_the_data_parallel_size(sharding: Literal[0, 1, 3]) -> None:
    one, four = (memory.estimate(LLAMA_8B, layout(n, sharding=sharding)) for n in (1, 4))
    ratios = {name: round(one[name] / four[name], 1) for name in ("weights", "gradients", "optimizer")}
    assert ratios["optimizer"] == (4 if sharding else 1)
    assert ratios["gradients"] == (4 if sharding == 3 else 1)
    assert (ratios["weights"] > 3) == (sharding == 3), "two layers are gathered"


def test_context_recomputation_and_adapters_save_what_they_are_for() -> None:
    whole, shared = layout(8, tensor=2), layout(8, tensor=2, context=4)
    assert memory.activations(LLAMA_8B, shared) == memory.activations(LLAMA_8B, whole) / 4
    assert memory.activations(LLAMA_8B, layout(8, tensor=2, recompute=True)) < memory.activations(LLAMA_8B, whole) / 3
    adapter = memory.estimate(LLAMA_8B, layout(8, tensor=2, rank=16))
    assert 0 < adapter["weights"] - LLAMA_8B.total < 0.02 * LLAMA_8B.total, "two bytes each, on two GPUs"
    # 41.9M weights: 16 x the inputs and outputs of qkv, proj, gate and up, down, in 32 layers
    assert adapter["gradients"] == 4 * 16 * 32 * (4096 + 6144 + 4096 + 4096 + 4096 + 28672 + 14336 + 4096)


def test_the_next_fit_takes_the_fewest_gpus() -> None:
    found = memory.next_fit(LLAMA_8B, layout(1), 80 * GIB)
    assert found is not None and (found.world, found.tensor, found.pipeline) == (4, 2, 1)
    assert share(LLAMA_8B, found) < memory.WARN and found.possible(LLAMA_8B)
    large = memory.next_fit(LARGE_120B_A12B, layout(8, tensor=4, expert=8, recompute=True), 80 * GIB)
    assert large is not None and large.world == 32 and large.expert > 1
    odd = msgspec.structs.replace(LLAMA_8B, heads=7)
    assert (only := memory.next_fit(odd, layout(1), 80 * GIB)) is None or only.tensor == 1
    small = memory.next_fit(LLAMA_8B, layout(8, tensor=4, micro=64), 80 * GIB)
    assert small is not None and (small.world, small.micro) == (8, 1)
    assert memory.next_fit(LLAMA_8B, layout(1), GIB) is None
    sharded = memory.next_fit(LLAMA_8B, layout(1, sharding=3, bytes=PLAIN), 20 * GIB)
    assert sharded is not None and (sharded.world, sharded.tensor, sharded.pipeline) == (16, 1, 1)
    row = memory.next_fit(LLAMA_8B, layout(1, batch=1), 80 * GIB)
    assert row is not None and (row.world, row.tensor) == (4, 4), "one row is not shared by two"


# GiB at the largest moment of a step after the first, by torch.cuda.max_memory_allocated: `make test-gpu` on an NVIDIA
# H200 (docs/gpu.md; torch 2.11, transformers 5.18): Llama in bfloat16, AutoModel 0.7, FSDP2 with one process, AdamW.
DISTILL = "optimize/modelopt/distill"
MEASURED = [
    (LLAMA_1B, {"micro": 1, "sequence": 2048}, 13.57), (LLAMA_1B, {"micro": 1, "sequence": 4096}, 20.41),
    (LLAMA_1B, {"micro": 4, "sequence": 2048}, 33.35),
    (LLAMA_1B, {"micro": 4, "sequence": 2048, "recompute": True}, 19.35),
    (LLAMA_1B, {"micro": 4, "sequence": 2048, "rank": 16}, 23.69),
    (LLAMA_1B, {"micro": 1, "sequence": 4096, "recompute": True, "rank": 16}, 8.60),
    (LLAMA_3B, {"micro": 1, "sequence": 2048}, 29.99),
    (LLAMA_3B, {"micro": 1, "sequence": 4096, "recompute": True}, 29.99),
    (LLAMA_3B, {"micro": 1, "sequence": 2048, "rank": 16}, 14.38),
]  # fmt: skip


@pytest.mark.parametrize(("model", "facts", "measured"), MEASURED)
def test_it_agrees_with_what_a_gpu_has_measured(model: Model, facts: dict[str, Any], measured: float) -> None:
    sample = definitions.find_step(Root(REPO), "sft/automodel").sample
    own = {"logit": sample.logit_bytes, "frees": sample.frees, "plain": True, "batch": facts["micro"]}
    spread = layout(1, sharding=3, bytes=PLAIN, **own, **facts)
    assert sum(memory.estimate(model, spread).values()) / GIB == pytest.approx(measured, rel=0.05)


def test_gradients_stay_where_a_step_has_several_backward_passes() -> None:
    """Of one alone they come as activations go. The optimizer's step, which finds none of these, is another moment."""
    own = {"sharding": 3, "bytes": PLAIN, "frees": True, "micro": 4, "sequence": 2048}
    once, several = (memory.estimate(LLAMA_1B, layout(1, **own, batch=n)) for n in (4, 8))
    assert several.pop("gradients") == 2 * LLAMA_1B.total and once == several
    short = memory.estimate(LLAMA_1B, layout(1, **own | {"micro": 1, "sequence": 16}, batch=1))
    assert short["update"] == 2 * LLAMA_1B.total and "activations" not in short


@pytest.fixture
def h100(profile: Profile) -> Profile:
    return msgspec.structs.replace(profile, gpu=Gpu(model="H100", memory="80GiB"))


LARGE = artifact("model", "checkpoint_megatron", **(SIZES | {"kv_heads": 8, "head_size": 128}))


def test_a_launch_says_its_terms_in_one_line(spec_of: SpecOf, h100: Profile) -> None:
    found = Found(spec_of, SFT, profile=h100, given=[LARGE])
    (note,) = memory.notes(found.spec, found.seen)
    assert note == (
        "note: memory: about 24.8 of 80 GiB a GPU: weights 3.7, gradients 7.5, optimizer 11.2, activations 2.4 "
        "(estimated; tensor 4 x pipeline 1 x context 1 x data 2, expert 1)"
    )
    assert memory.check(found.spec, found.seen) == []


@pytest.mark.parametrize(
    ("said", "size", "severity", "fits"),
    [
        (["tensor_parallel=2"], "40GiB", "warning", "would fit: tensor_parallel=4"),
        (["tensor_parallel=2"], "32GiB", "error", "would fit: tensor_parallel=4"),
        (["tensor_parallel=8"], "16GiB", "warning", "would fit: --nodes 2 --gpus 8"),
        (["tensor_parallel=8"], "12GiB", "error", "would fit: --nodes 2 --gpus 8 pipeline_parallel=2"),
        (["tensor_parallel=8"], "1GiB", "error", "no shape fits: shorten the sequences"),
    ],
)
def test_too_much_is_said_with_what_would_fit(
    spec_of: SpecOf, profile: Profile, said: list[str], size: str, severity: str, fits: str
) -> None:
    here = msgspec.structs.replace(profile, gpu=Gpu(model="H100", memory=size))
    found = Found(spec_of, SFT, *said, profile=here, given=[LARGE])
    (finding,) = [f for f in preflight.check(found.spec, found.seen) if f.where == "memory"]
    assert (finding.severity, finding.code) == (severity, 78 if severity == "error" else 0)
    assert finding.remedy == fits and memory.notes(found.spec, found.seen) == []


def test_a_pretraining_is_sized_by_its_configuration(spec_of: SpecOf, h100: Profile) -> None:
    found = Found(spec_of, "pretrain/megatron_bridge", profile=h100)
    known = memory.settings(found.spec)
    model = memory.model_of(found.spec, found.seen, known)
    assert model is not None and (model.layers, model.hidden, model.vocab, model.kv_heads) == (16, 2048, 32000, 8)
    named = Found(
        spec_of,
        "pretrain/megatron_bridge",
        profile=h100,
        given=[artifact("tokenizer", "checkpoint_hf", layers=9, vocab=9)],
    )
    assert (model := memory.model_of(named.spec, named.seen, known)) is not None and model.vocab == 9
    assert len(memory.notes(found.spec, found.seen)) == 1


def test_sizes_on_the_command_line_count_as_those_of_a_file_do(spec_of: SpecOf, h100: Profile) -> None:
    sizes = {"num_layers": 160, "hidden_size": 16384}
    said = [f"model.{name}={size}" for name, size in sizes.items()]
    ways = (
        Found(spec_of, "pretrain/megatron_bridge", *said, profile=h100),
        Found(spec_of, "pretrain/megatron_bridge", profile=h100, over=[("mine", {"model": sizes})]),
    )
    told = [[f.what for f in memory.check(found.spec, found.seen)] for found in ways]
    assert told[0] == told[1] != []


def test_the_weights_that_were_counted_win_over_the_sizes(spec_of: SpecOf) -> None:
    counted = msgspec.structs.replace(LARGE, parameters=7)
    found = Found(spec_of, SFT, given=[counted])
    model = memory.model_of(found.spec, found.seen, {})
    assert model is not None and model.total == 7


UNKNOWN = "note: memory: not estimated, since nothing here says "


@pytest.mark.parametrize(
    ("facts", "missing"),
    [
        ({"flavour": "cpu", "gpus": 0, "procs": 8}, None),
        ({"given": [artifact("model", "checkpoint_megatron")]}, "the model's sizes"),
        ({"given": [LARGE], "over": [("mine", {"mixed_precision": "own"})]}, "the type behind mixed_precision=own"),
        ({"given": [LARGE], "over": [("mine", {"train": {"micro_batch_size": None}})]}, "train.micro_batch_size"),
        ({"given": [LARGE], "procs": 3}, None),  # the shape is wrong, which is a finding
    ],
)
def test_of_what_is_unknown_nothing_is_estimated_and_that_is_said(
    spec_of: SpecOf, h100: Profile, facts: dict[str, Any], missing: str | None
) -> None:
    found = Found(spec_of, SFT, profile=h100, **facts)
    assert memory.check(found.spec, found.seen) == []
    assert memory.notes(found.spec, found.seen) == ([UNKNOWN + missing] if missing else [])


def test_without_a_memory_in_the_profile_nothing_is_estimated(spec_of: SpecOf, profile: Profile) -> None:
    for gpu in (None, Gpu(model="H100")):
        found = Found(spec_of, SFT, profile=msgspec.structs.replace(profile, gpu=gpu), given=[LARGE])
        assert memory.notes(found.spec, found.seen) == [f"{UNKNOWN}the GPU's memory ({profile.file}: gpu.memory)"]


@pytest.mark.parametrize(("dtype", "width"), [("bfloat16", (2, 2, 4)), ("float32", (4, 4, 8)), ("", None)])
def test_a_precision_that_is_left_to_the_checkpoint_is_its(
    spec_of: SpecOf, dtype: str, width: tuple[int, int, int] | None
) -> None:
    sizes = msgspec.structs.replace(LARGE.sizes, dtype=dtype)
    given = [msgspec.structs.replace(LARGE, type="checkpoint_hf", sizes=sizes)]
    found = Found(spec_of, "sft/automodel", given=given, over=[("mine", {"model": {"torch_dtype": "auto"}})])
    known: Any = memory.settings(found.spec) | {"micro_batch": 1, "sharding": "fsdp2"}
    spread = memory.layout_of(found.spec, found.seen, known | dict.fromkeys(config_values.PARALLEL, 1))
    assert (spread and spread.bytes) == width


@pytest.mark.parametrize(
    ("said", "whole"), [(True, True), ("full", True), ("On", True), ("selective", False), (False, False), (None, False)]
)
@pytest.mark.parametrize("name", ["sft/automodel", "peft/automodel", "pretrain/automodel"])
def test_what_automodel_calls_activation_checkpointing(spec_of: SpecOf, name: str, said: Any, whole: bool) -> None:
    over: dict[str, Any] = {"model": {"torch_dtype": "bfloat16"}, "step_scheduler": {"local_batch_size": 2}}
    sizes = {"tp_size": 1, "pp_size": 1, "cp_size": 1}
    over["distributed"] = {"strategy": "fsdp2", "activation_checkpointing": said, **sizes}
    found = Found(spec_of, name, over=[("mine", over)])
    spread = memory.layout_of(found.spec, found.seen, memory.settings(found.spec))
    assert spread is not None and spread.recompute is whole and spread.logit == 12


@pytest.mark.parametrize(
    ("start", "dtype", "optimizer", "width"),
    [
        ("random", "float32", {}, (2, 2, 4)),  # AutoModel makes new weights in bfloat16
        ("weights", "float32", {}, (4, 4, 8)),
        ("weights", "bfloat16", {}, (2, 2, 4)),
        ("random", "float32", {"master_weights": True}, (2, 2, 12)),
        ("random", "float32", {"master_weights": True, "store_param_remainders": True}, (2, 2, 10)),
        ("random", "float32", {"master_weights": False, "store_param_remainders": True}, (2, 2, 4)),
        ("weights", "float32", {"master_weights": True}, (4, 4, 8)),
    ],
)
def test_what_a_pretraining_keeps_of_a_weight(
    spec_of: SpecOf, start: str, dtype: str, optimizer: dict[str, Any], width: tuple[int, int, int]
) -> None:
    over: dict[str, Any] = {"model": {"torch_dtype": "auto"}, "pretrain": {"start": start}, "optimizer": optimizer}
    over["distributed"] = {"strategy": "fsdp2", "tp_size": 1, "pp_size": 1, "cp_size": 1}
    given = [artifact("model", "checkpoint_hf", **SIZES, dtype=dtype)]
    found = Found(spec_of, "pretrain/automodel", given=given, over=[("mine", over)])
    spread = memory.layout_of(found.spec, found.seen, memory.settings(found.spec))
    assert spread is not None and (spread.bytes, spread.micro) == (width, 4)


def test_a_teacher_is_held_whole_and_the_student_is_what_trains(spec_of: SpecOf, h100: Profile) -> None:
    facts = SIZES | {"kv_heads": 8, "head_size": 128}
    student = msgspec.structs.replace(artifact("student", "checkpoint_hf", **facts), bytes=2_000, parameters=1_000)
    teacher = msgspec.structs.replace(artifact("teacher", "checkpoint_hf", **facts), bytes=14_000, parameters=7_000)
    found = Found(spec_of, DISTILL, profile=h100, given=[student, teacher])
    known = memory.settings(found.spec)
    spread = memory.layout_of(found.spec, found.seen, known)
    assert spread is not None and (spread.sharding, spread.alone) == (0, True)
    assert spread.bytes == (4 + 2, 2 * 4, 8), "with copies to compute, and buckets of gradients"
    assert spread.frozen == 4 * 7_000
    assert (model := memory.model_of(found.spec, found.seen, known)) is not None and model.total == 1_000
    assert preflight.checkpoint_bytes(found.spec, found.seen) == 2_000, "no optimizer, and nothing of the teacher"
    one = Found(spec_of, DISTILL, profile=h100, given=[student, teacher], gpus=1, procs=1)
    alone = memory.layout_of(one.spec, one.seen, memory.settings(one.spec))
    assert alone is not None and alone.bytes == (6, 4, 8)
    half = Found(spec_of, DISTILL, "distill.dtype=bfloat16", profile=h100, given=[student, teacher])
    narrow = memory.layout_of(half.spec, half.seen, memory.settings(half.spec))
    assert narrow is not None and (narrow.bytes, narrow.frozen) == ((2, 4, 4), 2 * 7_000)
    unknown = Found(spec_of, DISTILL, "distill.dtype=null", profile=h100, given=[student, teacher])
    assert memory.notes(unknown.spec, unknown.seen) == [f"{UNKNOWN}distill.dtype"]


def test_a_step_without_another_parallelism_is_offered_none(spec_of: SpecOf, h100: Profile) -> None:
    large = [msgspec.structs.replace(artifact(n, "checkpoint_hf", **SIZES), parameters=1_500_000_000)
             for n in ("student", "teacher")]  # fmt: skip
    found = Found(spec_of, DISTILL, "local_batch_size=16", "global_batch_size=128", profile=h100, given=large)
    (finding,) = memory.check(found.spec, found.seen)
    assert finding.severity == "error" and finding.remedy == "would fit: local_batch_size=1"


def test_a_precision_that_is_written_out(spec_of: SpecOf, h100: Profile) -> None:
    for precision, width in (({"fp32": True}, (4, 4, 8)), ({"bf16": True}, (2, 4, 12))):
        found = Found(spec_of, SFT, profile=h100, given=[LARGE], over=[("mine", {"mixed_precision": precision})])
        spread = memory.layout_of(found.spec, found.seen, memory.settings(found.spec))
        assert spread is not None and spread.bytes == width


@pytest.mark.parametrize(("name", "model"), [("1b", LLAMA_1B), ("3b", LLAMA_3B), ("8b", LLAMA_8B)])
def test_the_shipped_starts_fit_80_gib(spec_of: SpecOf, h100: Profile, name: str, model: Model) -> None:
    facts = {f: getattr(model, f) for f in Model.__struct_fields__ if f != "parameters" and getattr(model, f)}
    over = [(name, definitions.overlay(definitions.find_step(Root(REPO), SFT), name))]
    given = [msgspec.structs.replace(BASE, sizes=Sizes(**facts))]
    found = Found(spec_of, SFT, profile=h100, over=over, given=given)
    assert preflight.check(found.spec, found.seen) == [] or {
        f.where for f in preflight.check(found.spec, found.seen)
    } == {"unix:///engine.sock (from DOCKER_HOST)"}, "the engine of this test has no GPUs"
    assert len(memory.notes(found.spec, found.seen)) == 1


@pytest.mark.parametrize("value", [None, 0, -1, 1.5, True, "words", [1], {"a": 1}, 16, 10**30])
@pytest.mark.parametrize("name", [SFT, "pretrain/megatron_bridge", "sft/automodel"])
def test_no_value_of_a_configuration_makes_it_fail(spec_of: SpecOf, h100: Profile, name: str, value: Any) -> None:
    step = definitions.find_step(Root(REPO), name)
    for key in step.roles.values():
        over: Any = value
        for part in reversed(key.split(".")):
            over = {part: over}
        found = Found(spec_of, name, profile=h100, over=[("mine", over)])
        assert isinstance(preflight.check(found.spec, found.seen), list)
        assert isinstance(memory.notes(found.spec, found.seen), list)

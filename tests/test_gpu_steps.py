"""Steps on GPUs over the whole catalogue, as a user launches them: what is found, and what is estimated, of each."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from helpers import INDEX, SHARDS, Done, Inputs, Project, record_image, squash
from test_binidx import write_tokens
from test_checkpoints import write_megatron

from images.building.identity import Layer
from images.locking import lock as locks
from images.squashing import sidecar
from launcher.catalog import commands, definitions
from launcher.catalog.definitions import Step
from launcher.planning.checks.memory import Model

SITE = "schema: 1\nkind: slurm\nextends: slurm-pyxis\ngpu: {model: H100, memory: 80GiB}\n"
BRIDGE = ("26.04", "26.04.01", "26.06", "26.06.01", "26.08.01")  # that have commands
BEFORE_0_6 = BRIDGE[:4]
CHAT_CLASS = "megatron.bridge.data.builders.gpt_sft.GPTSFTDatasetConfig"
OLD_CLASS = "megatron.bridge.training.config.FinetuningDatasetConfig"
MODEL = """model:
  num_layers: 32
  hidden_size: 4096
  vocab_size: 128256
  num_attention_heads: 32
  num_query_groups: 8
  ffn_hidden_size: 14336
"""


class Site:
    """A project in which every cuda entry of the lock is a recorded .sqsh, and inputs for every step that trains."""

    def __init__(self, project: Project, inputs: Inputs, folder: Path) -> None:
        self.project, self.inputs, self.folder = project, inputs, folder
        self.lock = locks.load_lock(project.root)
        for entry in self.lock.entries.values():
            if entry.flavour == "cuda":
                squash(sidecar.folder(project.root), record_image(project.root, entry))
        project.write("slipway.d/profiles/site.yaml", SITE)
        self.megatron = write_megatron(folder / "megatron")
        self.run_config = next(self.megatron.glob("iter_*/run_config.yaml"))
        self.run_config.write_text(self.run_config.read_text() + MODEL)
        self.documents = write_tokens(folder, (3,) * 20)
        self.prompts, self.pairs = folder / "prompts.jsonl", folder / "pairs.jsonl"
        self.prompts.write_text('{"input": "2 + 2", "output": "4"}\n')
        self.pairs.write_text('{"prompt": "2 + 2", "chosen": "4", "rejected": "5"}\n')

    def dry(self, step: str, *words: str) -> Done:
        given = {
            "pretrain/automodel": [f"data={self.documents}", f"model={self.inputs.model}"],
            "pretrain/megatron_bridge": [],
            "optimize/modelopt/distill": [
                f"train={self.inputs.train}", f"teacher={self.inputs.model}", f"student={self.inputs.model}"
            ],
        }.get(step, [f"train={self.inputs.train}", f"model={self.inputs.model}"])  # fmt: skip
        if step.startswith("rl/"):
            model = f"{'model' if step.endswith('/rm') else 'policy'}={self.inputs.model}"
            rows = {"dpo": self.pairs, "rm": self.pairs, "sft": self.inputs.train}
            given = [model, f"train={rows.get(step.rpartition('/')[2], self.prompts)}"]
            if step.endswith("/distillation"):
                given = [f"student={self.inputs.model}", f"teacher={self.inputs.model}", f"train={self.prompts}"]
            if step.endswith("/rlhf"):
                given.append(f"reward_model={self.inputs.model}")
        if step in ("sft/megatron_bridge", "peft/megatron_bridge"):
            given = [f"train={self.inputs.train}", f"model={self.megatron}", f"tokenizer={self.inputs.model}"]
        command = ("--profile", "site", step, "--flavour", "cuda", *given, f"output={self.folder}/out", "--dry-run")
        return self.project.launch(*command, *words)


@pytest.fixture
def site(project: Project, inputs: Inputs, tmp_path: Path) -> Site:
    return Site(project, inputs, tmp_path)


def said(done: Done, of: str) -> list[str]:
    return [line for line in done.stderr.splitlines() if of in line]


@pytest.mark.parametrize("step", ["sft/megatron_bridge", "peft/megatron_bridge"])
def test_a_dataset_class_of_ones_own_is_no_longer_overruled_in_silence(site: Site, step: str) -> None:
    """Below 0.6 the step has one class for all; a file that names another is refused with its line."""
    mine = site.folder / "mine.yaml"
    mine.write_text(f"train:\n  train_iters: 8\ndataset:\n  _target_: {CHAT_CLASS}\n")
    for release in BRIDGE:
        done = site.dry(step, "--release", release, "-c", str(mine))
        assert done.code == (78 if release in BEFORE_0_6 else 0), done.stderr
        lines = said(done, "dataset._target_")
        assert len(lines) == (release in BEFORE_0_6)
        if lines:
            name = f"megatron-bridge/{release}-cuda"
            assert lines[0] == (
                f"error: {mine}:4:3: dataset._target_: {CHAT_CLASS} does not count: with these inputs it is "
                f"{OLD_CLASS} in {name} (step.yaml)"
            )
            assert "leave it out, or take a --release that has it" in done.stderr


def test_what_a_file_of_ones_own_says_for_nothing_is_warned_of_and_the_steps_own_files_are_not(site: Site) -> None:
    mine = site.folder / "mine.yaml"
    mine.write_text("dataset:\n  dataset_kwargs: {chat: false}\nvalidation: {eval_global_batch_size: 2}\n")
    old = site.dry("sft/megatron_bridge", "--release", "26.04", "-c", str(mine))
    assert old.code == 0, old.stderr
    kept = "does not count: with these inputs it is"
    assert said(old, "does not count") == [
        f"warning: {mine}:2:20: dataset.dataset_kwargs.chat: false {kept} true in megatron-bridge/26.04-cuda "
        "(step.yaml)",
        f"warning: {mine}:3:14: validation.eval_global_batch_size: 2 {kept} left out in megatron-bridge/26.04-cuda "
        "(step.yaml)",
    ]
    word = site.dry("sft/megatron_bridge", "--release", "26.04", "-c", str(mine), "dataset.dataset_kwargs.chat=false")
    assert not said(word, "dataset_kwargs.chat: false"), "a word counts last, and says the same"
    mine.write_text(f"dataset: {{_target_: {OLD_CLASS}}}\nvalidation: {{eval_iters: 2}}\n")
    for words in (("-c", str(mine)), ("-c", "tiny")):
        done = site.dry("sft/megatron_bridge", "--release", "26.04", *words)
        assert done.code == 0 and not said(done, "does not count"), done.stderr


def test_a_shared_row_is_checked_with_the_checkpoints_own_word(site: Site) -> None:
    words = ("sft/megatron_bridge", "tensor_parallel=1", "model.sequence_parallel=false", "context_parallel=2")
    done = site.dry(*words)
    assert done.code == 64 and "needs model.calculate_per_token_loss=true in fine-tuning" in done.stderr, done.stderr
    assert site.dry(*words, "model.calculate_per_token_loss=true").code == 0
    site.run_config.write_text(f"{site.run_config.read_text()}  calculate_per_token_loss: true\n")
    assert site.dry(*words).code == 0


def write_model(folder: Path, sizes: dict[str, Any]) -> None:
    """A checkpoint of these sizes: a header with one tensor of all weights, and a file as long with holes."""
    config = {"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", **sizes}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    names = {"layers": "num_hidden_layers", "hidden": "hidden_size", "vocab": "vocab_size",
             "heads": "num_attention_heads", "kv_heads": "num_key_value_heads",
             "intermediate": "intermediate_size"}  # fmt: skip
    model = Model(**{name: sizes[key] for name, key in names.items()})
    for name in (*SHARDS, INDEX):
        (folder / name).unlink(missing_ok=True)
    header = json.dumps({"w": {"dtype": "BF16", "shape": [model.total], "data_offsets": [0, 2 * model.total]}}).encode()
    with (folder / "model.safetensors").open("wb") as f:
        f.write(struct.pack("<Q", len(header)) + header)
        f.truncate(8 + len(header) + 2 * model.total)


def training(project: Project) -> list[Step]:
    """The catalogue's steps that train: those whose batches the rules know, of any backend."""
    steps = definitions.all_steps(project.root)
    return [
        s for s in steps if any("micro_batch" in roles for roles in (s.roles, *(b.roles for b in s.backends.values())))
    ]


TINY = {"num_hidden_layers": 2, "hidden_size": 64, "vocab_size": 512, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 128}  # fmt: skip
LLAMA_8B = {"num_hidden_layers": 32, "hidden_size": 4096, "vocab_size": 128256, "num_attention_heads": 32,
            "num_key_value_heads": 8, "intermediate_size": 14336}  # fmt: skip
TRAINING = {
    "sft/automodel", "peft/automodel", "pretrain/automodel", "sft/megatron_bridge", "peft/megatron_bridge",
    "pretrain/megatron_bridge", "optimize/modelopt/distill", "rl/nemo_rl/grpo", "rl/nemo_rl/dapo", "rl/nemo_rl/dpo",
    "rl/nemo_rl/rm", "rl/nemo_rl/sft", "rl/nemo_rl/distillation", "rl/nemo_rl/rlhf",
}  # fmt: skip


@pytest.mark.parametrize("sizes", [TINY, LLAMA_8B], ids=["tiny", "8b"])
def test_every_step_that_trains_is_estimated_or_says_by_name_what_is_missing(site: Site, sizes: dict[str, Any]) -> None:
    """On its default cuda release, with one node of the usual GPUs."""
    write_model(site.inputs.model, sizes)
    found = {}
    for step in training(site.project):
        done = site.dry(step.id)
        lines = [line for line in said(done, "memory: ") if "GiB a GPU" in line or "nothing here says" in line]
        assert len(lines) >= 1, f"{step.id}: {done.stderr}"
        found[step.id] = "GiB a GPU" in lines[0]
        named = lines[0].partition("nothing here says ")[2]
        roles = {*step.roles.values(), *(key for b in step.backends.values() for key in b.roles.values())}
        assert found[step.id] or set(named.split(", ")) <= roles | {"the model's sizes"}, lines
    assert found.keys() == TRAINING and [name for name, estimated in found.items() if not estimated] == []


@pytest.mark.parametrize("name", sorted(name for name in TRAINING if not name.startswith("rl/")))
def test_every_container_that_a_training_runs_in_has_an_estimate(site: Site, name: str) -> None:
    write_model(site.inputs.model, LLAMA_8B)
    step, found = definitions.find_step(site.project.root, name), []
    for entry in site.lock.entries.values():
        takes = any(commands.fits(step, command.when, entry) for command in step.commands)
        if entry.library == step.library and entry.flavour == "cuda" and takes:
            assert said(site.dry(name, "--release", entry.release), "GiB a GPU: weights"), entry.name
            found.append(entry.name)
    assert len(found) == 5, found


FORMATS_OF = {"26.02": ("mxfp8", "w4a16_nvfp4"), "26.06.01": ("w4a16_nvfp4",), "26.08.01": ()}


@pytest.mark.parametrize("release", FORMATS_OF)
def test_a_format_that_the_release_has_not_is_refused_with_the_reason(site: Site, release: str) -> None:
    given = ("--profile", "site", "optimize/modelopt/quantize", "--release", release, f"model={site.inputs.model}")
    for name, why in (
        ("mxfp8", "exports it from 0.43 on, and takes it for fp8_pb_wo"),
        ("w4a16_nvfp4", "from 0.45 on"),
    ):
        for word in (f"format={name}", f"quantize.format={name}"):
            done = site.project.launch(*given, word, f"output={site.folder}/out", "--dry-run")
            said_so = f"error: {word}: modelopt/{release}-cuda cannot take it: Model Optimizer" in done.stderr
            assert (said_so and why in done.stderr) == (name in FORMATS_OF[release]), done.stderr
            assert done.code == (64 if name in FORMATS_OF[release] else 0), done.stderr
    assert site.project.launch(*given, "format=fp8", f"output={site.folder}/out", "--dry-run").code == 0


def test_distilling_runs_in_the_containers_whose_trainer_leaves_out_what_is_not_learned(site: Site) -> None:
    for release in ("26.02", "26.04", "26.04.01", "26.06"):
        done = site.dry("optimize/modelopt/distill", "--release", release, "distill.dtype=bfloat16")
        if release == "26.02":
            assert done.code == 78 and "before 0.43 its trainer learns from padding and questions, too" in done.stderr
        else:
            assert done.code == 0, done.stderr


def test_what_every_node_unpacks_is_said_where_it_is_recorded(site: Site) -> None:
    entry = locks.select(site.lock, "automodel", "cuda")
    assert not said(site.dry("sft/automodel", "local_batch_size=1"), "each node unpacks"), (
        "no record says how large it is"
    )
    layers = [Layer(bytes=size, made_by="RUN") for size in (40_000_000_000, 12_340_000_000)]
    record_image(site.project.root, entry, layers=layers)
    assert said(site.dry("sft/automodel", "local_batch_size=1"), "each node unpacks") == [
        "note: image: each node unpacks 52.3 GB before the step starts, where pyxis does not mount .sqsh files "
        "(launch profiles doctor site tells)"
    ]

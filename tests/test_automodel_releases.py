"""sft, peft and pretrain/automodel in every one of AutoModel's containers, by the commands that a user types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import Done, Inputs, Project, record_image, squash
from test_binidx import write_tokens

from images.locking import lock as locks
from images.squashing import sidecar

RELEASES = ("25.11.00", "26.02", "26.04", "26.06", "26.08.00")
BEFORE_0_4 = RELEASES[:2]
EXAMPLES = "/opt/Automodel/examples"
BASES = {
    "sft/automodel": f"{EXAMPLES}/llm_finetune/llama3_2/llama3_2_1b_squad.yaml",
    "peft/automodel": f"{EXAMPLES}/llm_finetune/llama3_2/llama3_2_1b_squad_peft.yaml",
    "pretrain/automodel": f"{EXAMPLES}/llm_pretrain/megatron_pretrain_gpt2.yaml",
}
SITE = "schema: 1\nkind: slurm\nextends: slurm-pyxis\ngpu: {model: H100, memory: 80GiB}\n"
SIZES = {"architectures": ["LlamaForCausalLM"], "hidden_size": 2048, "num_hidden_layers": 16, "vocab_size": 128256,
         "num_attention_heads": 32, "intermediate_size": 8192, "torch_dtype": "bfloat16"}  # fmt: skip
TEXT = {"role": "assistant", "content": "4"}
ASKED = {"role": "user", "content": "2 + 2"}


class Containers:
    """A project in which every release of AutoModel's container is a recorded .sqsh, and words for its steps."""

    def __init__(self, project: Project, inputs: Inputs, folder: Path) -> None:
        self.project, self.inputs, self.folder = project, inputs, folder
        lock = locks.load_lock(project.root)
        for release in RELEASES:
            entry = locks.select(lock, "automodel", "cuda", release)
            squash(sidecar.folder(project.root), record_image(project.root, entry))
        project.write("slipway.d/profiles/site.yaml", SITE)
        (inputs.model / "config.json").write_text(json.dumps(SIZES))
        self.data = {"pretrain/automodel": f"data={write_tokens(folder, (3,) * 20)}"}

    def dry(self, step: str, release: str, *words: str, profile: str = "slurm-pyxis") -> Done:
        given = self.data.get(step, f"train={self.inputs.train}"), f"model={self.inputs.model}"
        command = ("--profile", profile, step, "--release", release, *given, f"output={self.folder}/out", "--dry-run")
        return self.project.launch(*command, *words)

    def chats(self, *messages: dict[str, Any]) -> None:
        self.inputs.train.write_text(json.dumps({"messages": messages}) + "\n")

    def template(self, text: str) -> None:
        (self.inputs.model / "chat_template.jinja").write_text(text)


@pytest.fixture
def containers(project: Project, inputs: Inputs, tmp_path: Path) -> Containers:
    return Containers(project, inputs, tmp_path)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("step", BASES)
def test_a_step_is_planned_in_every_container(containers: Containers, step: str, release: str) -> None:
    plan = containers.folder / "plan"
    done = containers.dry(step, release, "-c", "tiny", "--gpus", "2", "-o", str(plan))
    assert done.code == 0, done.stderr
    assert "#SBATCH --gpus-per-node=2" in (plan / "script.sh").read_text()
    planned = json.loads((plan / "plan.json").read_text())
    assert (planned["release"], planned["config"]["base"]) == (release, {"path": BASES[step]})
    program = "automodel_pretrain.py" if step.startswith("pretrain") else "automodel_finetune.py"
    assert planned["command"][-1] == f"/slipway/steps/{program}"
    assert planned["config"]["resume"]["set"] == [["checkpoint.restore_from", "LATEST"]]


@pytest.mark.parametrize("release", RELEASES[:4])
@pytest.mark.parametrize("step", ["sft/automodel", "peft/automodel"])
def test_what_a_gpu_holds_is_estimated_by_what_the_base_says(containers: Containers, step: str, release: str) -> None:
    """The same in all: before 0.3 the strategy is a class."""
    done = containers.dry(step, release, "local_batch_size=1", profile="site")
    assert done.code == 0 and "note: memory: about " in done.stderr, done.stderr
    said = next(line for line in done.stderr.splitlines() if line.startswith("note: memory: about"))
    newest = containers.dry(step, RELEASES[3], "local_batch_size=1", profile="site")
    assert said in newest.stderr


DDP = "nemo_automodel.components.distributed.ddp.DDPManager"


@pytest.mark.parametrize(
    ("step", "word", "why", "refuse"),
    [
        (
            "sft/automodel",
            "distributed.strategy=ddp",
            f"names a class instead, distributed._target_={DDP}",
            RELEASES[:1],
        ),
        ("sft/automodel", "distributed.pipeline.pp_microbatch_size=1", "section autopipeline", RELEASES[:1]),
        ("sft/automodel", "clip_grad_norm.max_norm=0.5", "it clips gradients at 1.0", RELEASES[:1]),
        ("peft/automodel", "peft.use_dora=true", "AutoModel has it from 0.3 on", RELEASES[:1]),
        ("pretrain/automodel", f"distributed._target_={DDP}", "distributed.strategy=ddp", RELEASES[1:]),
        ("sft/automodel", "autopipeline.pp_microbatch_size=1", "its pipeline is distributed.pipeline", RELEASES[1:]),
        ("sft/automodel", "neftune.noise_alpha=5", "AutoModel has it from 0.4 on", BEFORE_0_4),
        ("sft/automodel", "dataset.skip_invalid_samples=true", "AutoModel has it from 0.4 on", BEFORE_0_4),
        ("pretrain/automodel", "step_scheduler.save_checkpoint_every_epoch=true", "from 0.5 on", RELEASES[:3]),
        ("pretrain/automodel", "checkpoint.load_base_model=true", "start= says whether weights", RELEASES),
    ],
)
def test_a_key_of_another_release_is_refused_with_the_reason(
    containers: Containers, step: str, word: str, why: str, refuse: tuple[str, ...]
) -> None:
    for release in RELEASES:
        done = containers.dry(step, release, word)
        assert done.code == (64 if release in refuse else 0), done.stderr
        said = f"error: {word.partition('=')[0]}: automodel/{release}-cuda cannot take it: "
        assert (said in done.stderr and why in done.stderr) == (release in refuse), done.stderr


def test_a_file_of_ones_own_is_looked_through_too_and_null_sets_nothing(containers: Containers) -> None:
    mine = containers.folder / "mine.yaml"
    for text, code in (("neftune: {noise_alpha: 5}", 64), ("neftune: null", 0)):
        mine.write_text(text + "\n")
        assert containers.dry("sft/automodel", "26.02", "-c", str(mine)).code == code


PARTS = {"role": "user", "content": [{"type": "text", "text": "2 + 2"}]}
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("messages", "said", "refuse"),
    [
        ([ASKED, TEXT], "", ()),
        ([PARTS, TEXT], "`messages[0]` has a list as content; this release takes text alone: join the", BEFORE_0_4),
        (
            [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}],
            '`messages[1]` has null as content; this release takes text alone, and would read the word None: write ""',
            BEFORE_0_4,
        ),
        ([ASKED, TEXT, ASKED], "the last message is not the assistant's, which is what this release", BEFORE_0_4),
        ([ASKED | {"role": "developer"}, TEXT], "unknown role 'developer'; expected one of assistant, ", RELEASES),
    ],
    ids=["usual", "parts", "null", "last", "developer"],
)  # fmt: skip
def test_conversations_are_read_by_the_releases_grammar(
    containers: Containers, messages: list[dict[str, Any]], said: str, refuse: tuple[str, ...]
) -> None:
    containers.chats(*messages)
    for release in RELEASES:
        done = containers.dry("sft/automodel", release)
        assert done.code == (65 if release in refuse else 0), done.stderr
        assert (f"error: {containers.inputs.train}:1: {said}" in done.stderr) == (release in refuse), done.stderr


def test_a_template_that_marks_what_is_learned_lets_a_conversation_end_with_anybody(containers: Containers) -> None:
    note = "only the last message of a conversation is learned, unless the model's chat template marks"
    containers.chats(ASKED, TEXT, ASKED)
    containers.template("{% generation %}{{ messages }}{% endgeneration %}")
    for release in RELEASES:
        done = containers.dry("peft/automodel", release)
        assert done.code == 0 and (note in done.stderr) == (release in BEFORE_0_4), done.stderr
    containers.template("{{ messages }}")
    assert containers.dry("peft/automodel", "26.02").code == 65


def test_a_tag_without_its_last_part_is_told_the_whole_one(containers: Containers) -> None:
    done = containers.dry("sft/automodel", "25.11")
    said = "error: automodel has no release '25.11' for flavour cuda\n  did you mean '25.11.00'?\n"
    assert (done.code, done.stderr) == (64, said)


def test_a_tokenizer_of_transformers_5_is_refused_where_the_container_has_4(containers: Containers) -> None:
    """What every newer release, and the cpu image, writes into its checkpoints."""
    config = containers.inputs.model / "tokenizer_config.json"
    for named in ("TokenizersBackend", "PreTrainedTokenizerFast"):
        config.write_text(json.dumps({"tokenizer_class": named}))
        for release in RELEASES:
            wrong = (named, release) == ("TokenizersBackend", "25.11.00")
            done = containers.dry("sft/automodel", release)
            said = (
                "was saved by transformers 5 (tokenizer_class TokenizersBackend), automodel/25.11.00-cuda has 4.57.1\n"
            )
            assert (done.code, said in done.stderr) == (65 if wrong else 0, wrong), done.stderr

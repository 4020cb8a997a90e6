"""What people bring, through the command line: models, adapters, tokenizers and data as they lie about.

Each kind has its example, others of its kind, and what is near it and passes.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers import INDEX, SHARDS, Inputs, Project, errors, safetensors, write_chat_model
from test_checkpoints import write_megatron
from test_parquet import footer

STEP = "sft/automodel"
pytestmark = pytest.mark.usefixtures("built")


@pytest.fixture
def said(project: Project, tmp_path: Path) -> Any:
    """Runs `launch check`, and gives the exit code and what it said, with the test's own folder as `T`."""

    def run(*words: object, full: bool = False) -> tuple[int, str]:
        done = project.launch("check", *(["--full"] if full else []), *map(str, words))
        return done.code, (done.stdout + errors(done.stderr)).replace(str(tmp_path), "T")

    return run


FINE = (0, "nothing stops it\n")


def one_file(folder: Path, shapes: dict[str, list[int]]) -> Path:
    """Weights in model.safetensors alone."""
    for name in (INDEX, *SHARDS):
        (folder / name).unlink()
    (folder / "model.safetensors").write_bytes(safetensors(shapes))
    return folder


def parameters(text: str) -> int:
    found = re.search(r"parameters: ([\d,]+)", text)
    return int(found[1].replace(",", "")) if found else 0


WEIGHTS = safetensors({"a": [100, 100]})


@pytest.mark.parametrize("name", ["consolidated.safetensors", "consolidated.00.safetensors", "optimizer.safetensors"])
def test_weights_in_another_layout_are_not_counted_again(said: Any, inputs: Inputs, name: str) -> None:
    one_file(inputs.model, {"a": [3]})
    (inputs.model / name).write_bytes(WEIGHTS)
    code, text = said(inputs.model)
    assert (code, parameters(text)) == (0, 3)
    assert f"weights.bytes: {(inputs.model / 'model.safetensors').stat().st_size}\n" in text
    assert said(STEP, *inputs.words) == FINE


def test_an_index_says_which_files_are_the_weights(said: Any, inputs: Inputs) -> None:
    (inputs.model / "model.safetensors").write_bytes(WEIGHTS)
    code, text = said(inputs.model)
    assert (code, parameters(text)) == (0, 10)
    assert f"warning: T/llama/model.safetensors: stands beside {INDEX}, which names other files" in text


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("consolidated.safetensors", "Mistral's own layout; fetch the repository's model*.safetensors, too"),
        ("pytorch_model.bin", "a pickle; save it with safe_serialization=True"),
        ("llama.Q4_K_M.gguf", "llama.cpp's; take the repository that it was made of"),
    ],
)
def test_weights_in_another_layout_alone_are_none(said: Any, inputs: Inputs, name: str, what: str) -> None:
    (one_file(inputs.model, {"a": [3]}) / "model.safetensors").rename(inputs.model / name)
    code, text = said(STEP, *inputs.words)
    assert (code, text.splitlines()[0]) == (
        65, f"error: T/llama: there are no weights that are loaded: {name} is {what}",
    )  # fmt: skip


def test_shards_without_an_index(said: Any, inputs: Inputs) -> None:
    """All of them are counted, and it is said; a part of them is not the model."""
    (inputs.model / INDEX).unlink()
    code, text = said(inputs.model)
    assert (code, parameters(text)) == (0, 10) and f"{INDEX}: is missing: transformers loads no shards" in text
    (inputs.model / SHARDS[0]).unlink()
    assert f"error: T/llama: shards are missing: {SHARDS[0]}\n" in said(STEP, *inputs.words)[1]


@pytest.mark.parametrize(
    "name", ["original/consolidated.00.pth", "optimizer.pt", ".git/lfs/objects/ab/cd", "global_step9/mp_rank_00.pt"]
)
def test_other_files_in_the_folder_need_no_room(said: Any, inputs: Inputs, name: str) -> None:
    """They are as large as a disk is not: a sparse file."""
    (inputs.model / name).parent.mkdir(parents=True, exist_ok=True)
    with (inputs.model / name).open("wb") as f:
        f.truncate(1 << 43)
    assert said(STEP, *inputs.words) == FINE


def test_what_git_keeps_is_no_part_of_a_model(project: Project, inputs: Inputs) -> None:
    def fingerprint() -> Any:
        found = json.loads(project.launch("check", str(inputs.model), "--json").stdout)["checked"][0]["artifact"]
        return found["fingerprint"], found["bytes"]

    before = fingerprint()
    for name in (".git/HEAD", ".cache/huggingface/download/config.json.metadata"):
        (inputs.model / name).parent.mkdir(parents=True)
        (inputs.model / name).write_text("now")
    assert fingerprint() == before
    (inputs.model / ".gitattributes").write_text("")
    assert fingerprint() != before


def test_a_disk_without_room_for_the_weights_is_refused_still(said: Any, inputs: Inputs) -> None:
    assert "one checkpoint needs about" in said(STEP, *inputs.words, "output=/proc/out")[1]


def configured(folder: Path, **more: Any) -> Path:
    """config.json with further keys."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | more))
    return folder


SIZES = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 384, "intermediate_size": 9}


@pytest.mark.parametrize(
    ("step", "config", "method"),
    [
        (STEP, {"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq"),
        (STEP, {"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        (STEP, {"quantization_config": {"load_in_4bit": True}}, "bitsandbytes"),
        (STEP, {"text_config": {"quantization_config": {"quant_method": "compressed-tensors"}}}, "compressed-tensors"),
        ("peft/automodel", {"quantization_config": {"quant_method": "modelopt"}}, "modelopt"),
        ("pretrain/automodel", {"quantization_config": {"quant_method": "awq"}}, "awq"),
        ("convert/hf_to_megatron", {"quantization_config": {"quant_method": "bitsandbytes"}}, "bitsandbytes"),
        ("optimize/modelopt/quantize", {"quantization_config": {"quant_method": "fp8"}}, "fp8"),
    ],
)
def test_a_quantized_start_is_refused(
    said: Any, inputs: Inputs, step: str, config: dict[str, Any], method: str
) -> None:
    configured(inputs.model, **SIZES, **config)
    words = inputs.words if step in (STEP, "peft/automodel") else inputs.words[1:]
    words = (*words, f"data={inputs.train}") if step == "pretrain/automodel" else words
    code, text = said(step, "--flavour", "cpu", *words)
    expected = f"error: model=T/llama: its weights are quantized ({method}), which {step} cannot start from\n"
    assert code and expected in text
    assert "name the model that it was made of" in text
    assert parameters(said(inputs.model)[1]) == (10 if method == "fp8" else 0)


@pytest.mark.parametrize(
    ("step", "method"),
    [(STEP, "fp8"), (STEP, "mxfp4"), ("peft/automodel", "bitsandbytes"), ("convert/hf_to_megatron", "mxfp4")],
)
def test_a_quantized_start_that_the_library_unpacks_is_warned_of(
    project: Project, inputs: Inputs, step: str, method: str
) -> None:
    configured(inputs.model, quantization_config={"quant_method": method})
    done = project.launch("check", step, *(inputs.words if "automodel" in step else inputs.words[1:]))
    assert f"warning: model={inputs.model}: its weights are quantized ({method}): " in done.stderr
    assert "cannot start from" not in done.stderr


def test_what_model_optimizer_writes_is_quantized(said: Any, inputs: Inputs) -> None:
    """Its own file says so where config.json does not."""
    (inputs.model / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')
    assert "its weights are quantized (modelopt)" in said(STEP, *inputs.words)[1]


def test_a_tokenizer_of_a_quantized_model_is_a_tokenizer(said: Any, inputs: Inputs) -> None:
    configured(inputs.model, quantization_config={"quant_method": "awq"})
    assert "quantized" not in said("data_prep/sft_packing", inputs.words[0], f"tokenizer={inputs.model}")[1]


def test_a_config_of_no_quantization_is_none(said: Any, inputs: Inputs) -> None:
    configured(inputs.model, quantization_config=None)
    assert said(STEP, *inputs.words) == FINE


LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "org/llama", "bias": "none"}
MERGE = "convert/merge_lora_hf"
LAYER = "model.layers.0.mlp.up_proj"


def write_lora(folder: Path, shapes: dict[str, list[int]] | None = None, **config: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(LORA | config))
    usual = {f"base_model.model.{LAYER}.lora_A.weight": [2, 3], f"base_model.model.{LAYER}.lora_B.weight": [5, 2]}
    (folder / "adapter_model.safetensors").write_bytes(safetensors(usual if shapes is None else shapes))
    return folder


@pytest.fixture
def base(inputs: Inputs) -> Path:
    """A base that the usual adapter fits."""
    return one_file(inputs.model, {f"{LAYER}.weight": [5, 3], "lm_head.weight": [9, 3]})


@pytest.mark.parametrize(
    ("config", "more"),
    [
        ({"use_dora": True}, "use_dora is true"),
        ({"modules_to_save": ["lm_head"]}, 'modules_to_save is ["lm_head"]'),
        ({"rank_pattern": {"q_proj": 4}}, 'rank_pattern is {"q_proj": 4}'),
        ({"alpha_pattern": {"q_proj": 4}}, 'alpha_pattern is {"q_proj": 4}'),
        ({"bias": "all"}, 'bias is "all"'),
        ({"peft_type": "IA3"}, "its peft_type is IA3"),
        ({"r": 0}, "r is 0 and lora_alpha 4"),
    ],
)
def test_an_adapter_that_is_more_than_a_plain_lora(
    said: Any, tmp_path: Path, base: Path, config: dict[str, Any], more: str
) -> None:
    write_lora(tmp_path / "lora", **config)
    code, text = said(MERGE, f"adapter={tmp_path}/lora", f"base={base}")
    what = f"error: adapter=T/lora: is more than a plain LoRA: {more}; {MERGE} merges nothing else\n"
    assert (code, text.splitlines(keepends=True)[0]) == (65, what)


@pytest.mark.parametrize(
    "config", [{}, {"use_rslora": True}, {"modules_to_save": []}, {"rank_pattern": {}, "use_dora": False, "bias": None}]
)
def test_a_plain_lora_is_merged(said: Any, tmp_path: Path, base: Path, config: dict[str, Any]) -> None:
    write_lora(tmp_path / "lora", **config)
    assert said(MERGE, f"adapter={tmp_path}/lora", f"base={base}") == FINE


A, B = f"base_model.model.{LAYER}.lora_A.weight", f"base_model.model.{LAYER}.lora_B.weight"


@pytest.mark.parametrize(
    ("shapes", "what"),
    [
        ({A: [2, 3], B: [7, 2]}, f"changes {LAYER}.weight as 7 x 3, which is 5 x 3 in T/llama"),
        ({A.replace("up", "q"): [2, 3], B.replace("up", "q"): [5, 2]},
         f"changes {LAYER.replace('up', 'q')}.weight as 5 x 3, which is not there in T/llama"),
        ({A: [2, 3]}, f"holds one half of {LAYER}.weight alone"),
        ({A: [2, 3], B: [5, 2], "base_model.model.lm_head.weight": [9, 3]},
         "holds base_model.model.lm_head.weight, which is no base_model.model.….lora_A or lora_B weight"),
        ({}, "holds no tensors"),
    ],
)  # fmt: skip
def test_an_adapter_of_another_base(
    said: Any, tmp_path: Path, base: Path, shapes: dict[str, list[int]], what: str
) -> None:
    write_lora(tmp_path / "lora", shapes)
    code, text = said(MERGE, f"adapter={tmp_path}/lora", f"base={base}")
    assert (code, text.splitlines()[0]) == (65, f"error: T/lora: does not fit base=: it {what}")


def test_a_quantized_base_is_not_merged_into(said: Any, tmp_path: Path, base: Path) -> None:
    configured(base, quantization_config={"quant_method": "fp8"})
    code, text = said(MERGE, f"adapter={write_lora(tmp_path / 'lora')}", f"base={base}")
    assert code == 65 and f"its weights are quantized (fp8), which {MERGE} cannot start from" in text


@pytest.mark.parametrize(
    ("target", "said_of_it"),
    [("dora.DoRA", "it is DoRA"), ("canonical_lora.CanonicalLoRA", "it is CanonicalLoRA"), ("lora.LoRA", "")],
)
def test_an_adapter_of_megatron_bridge(said: Any, tmp_path: Path, base: Path, target: str, said_of_it: str) -> None:
    write_megatron(tmp_path / "lora", peft=f"{{_target_: megatron.bridge.peft.{target}, dim: 8}}")
    text = said("convert/merge_lora", f"adapter={tmp_path}/lora", f"base={base}")[1]
    refused = "error: adapter=T/lora: is more than a plain LoRA: "
    assert (refused + said_of_it + ";" in text) if said_of_it else ("plain LoRA" not in text)


BYTES = '{"tokenizer_class": "ByT5Tokenizer"}'


@pytest.mark.parametrize(
    "files",
    [
        ["tokenizer.json"], ["tokenizer.model"], ["tekken.json"], ["vocab.json", "merges.txt"], ["spiece.model"],
        ["sentencepiece.bpe.model"], ["vocab.txt"], ["tiktoken.model"], ["qwen.tiktoken"], ["source.spm", "target.spm"],
        ["tokenizer_config.json"],
    ],
)  # fmt: skip
def test_a_tokenizer_in_any_layout(said: Any, inputs: Inputs, tmp_path: Path, files: list[str]) -> None:
    """In the model's folder, and in one of its own; of a tokenizer of bytes its configuration is all there is."""
    (inputs.model / "tokenizer.json").unlink()
    (tmp_path / "tokenizer").mkdir()
    for folder in (inputs.model, tmp_path / "tokenizer"):
        for name in files:
            (folder / name).write_text(BYTES if name == "tokenizer_config.json" else "{}")
    assert said(STEP, *inputs.words) == FINE
    assert said(tmp_path / "tokenizer")[1].startswith("T/tokenizer: tokenizer_hf (folder, ")


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("vocab.json", "T/llama/merges.txt: is missing: vocab.json is read with it"),
        ("source.spm", "T/llama/target.spm: is missing: source.spm is read with it"),
        ("tokenizer_config.json", "T/llama/tokenizer_config.json: names a tokenizer, and there is no vocabulary "
         "(tokenizer.json, tokenizer.model, …)"),
        ("special_tokens_map.json", "T/llama: there is no tokenizer (tokenizer.json, tokenizer_config.json)"),
    ],
)  # fmt: skip
def test_a_part_of_a_tokenizer(said: Any, inputs: Inputs, file: str, what: str) -> None:
    (inputs.model / "tokenizer.json").unlink()
    (inputs.model / file).write_text("{}")
    assert said(STEP, *inputs.words)[1].startswith(f"error: {what}\n")


def test_a_tokenizer_beside_a_part_of_another_is_whole(said: Any, inputs: Inputs) -> None:
    (inputs.model / "vocab.json").write_text("{}")
    assert said(STEP, *inputs.words) == FINE


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 9085657\n".format("a" * 64)


IN_A_MODEL = ["tokenizer.json", SHARDS[0], "config.json", INDEX, "merges.txt", "generation_config.json"]


@pytest.mark.parametrize("name", IN_A_MODEL)
def test_a_pointer_of_git_lfs_in_a_model(said: Any, inputs: Inputs, name: str) -> None:
    (inputs.model / name).write_text(POINTER)
    code, text = said(STEP, *inputs.words)
    lines = [line for line in text.splitlines() if line.startswith("error")]
    what = f"error: T/llama/{name}: is Git LFS's pointer to the file, not the file: git lfs pull"
    assert (code, lines) == (65, [what])


@pytest.mark.parametrize("name", ["chats.jsonl", "chats.jsonl.gz", "packed_2048.idx.parquet", "chats.json"])
def test_a_pointer_of_git_lfs_as_data(said: Any, inputs: Inputs, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(POINTER)
    what = f"error: T/{name}: is Git LFS's pointer to the file, not the file: git lfs pull\n"
    assert said(STEP, f"train={tmp_path}/{name}", inputs.words[1]) == (65, what + "it would not be submitted\n")
    for full in (False, True):
        code, text = said(tmp_path / name, full=full)
        assert code == 65 and text.count("git lfs pull") == 1
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "a.jsonl").write_text(inputs.train.read_text())
    (shards / "b.jsonl").write_text(POINTER)
    assert "error: T/shards/b.jsonl: is Git LFS's pointer" in said(STEP, f"train={shards}", inputs.words[1])[1]


def test_a_text_about_git_lfs_is_no_pointer(said: Any, inputs: Inputs) -> None:
    (inputs.model / "README.md").write_text(f"# How\n{POINTER}")
    (inputs.model / "LICENSE").write_text(POINTER + "x" * 2000)
    assert said(STEP, *inputs.words) == FINE


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("model=meta-llama/Llama-3.2-1B", "model=hf://meta-llama/Llama-3.2-1B"),
        ("model=meta-llama/Llama-3.2-1B@main", "model=hf://meta-llama/Llama-3.2-1B@main"),
        ("model=https://huggingface.co/Qwen/Qwen3-0.6B", "model=hf://Qwen/Qwen3-0.6B"),
        ("model=https://huggingface.co/Qwen/Qwen3-0.6B/tree/v1", "model=hf://Qwen/Qwen3-0.6B@v1"),
        ("train=HuggingFaceH4/ultrachat_200k", "train=hf://datasets/HuggingFaceH4/ultrachat_200k"),
        ("train=https://huggingface.co/datasets/org/chats", "train=hf://datasets/org/chats"),
    ],
)
def test_a_name_of_the_hub_is_asked_about(said: Any, inputs: Inputs, word: str, meant: str) -> None:
    words = [w for w in inputs.words if w.partition("=")[0] != word.partition("=")[0]]
    code, text = said(STEP, *words, word)
    assert code == 66 and f"there is nothing there\n  did you mean {meant}?\n" in text


@pytest.mark.parametrize("word", ["model=/nowhere/llama", "model=llama", "model=a/b/c", "model=./org/llama"])
def test_a_path_is_not_taken_for_a_name_of_the_hub(said: Any, inputs: Inputs, word: str) -> None:
    code, text = said(STEP, inputs.words[0], word)
    assert code == 66 and "there is nothing there\n  expected: checkpoint_hf\n" in text


def test_a_folder_of_that_name_is_the_folder(project: Project, said: Any, inputs: Inputs) -> None:
    write_chat_model(project.path / "org" / "llama")
    assert said(STEP, inputs.words[0], "model=org/llama") == FINE


def write_output(out: Path, *steps: int, what: str = "model/consolidated", latest: bool = True) -> Path:
    """What AutoModel leaves: a folder for each checkpoint, and LATEST; an adapter where `what` is `model`."""
    for step in steps:
        folder = out / f"epoch_0_step_{step}" / what
        folder.parent.mkdir(parents=True)
        (folder.parent / "shard-00001-model-00001-of-00001.safetensors").write_bytes(safetensors({"x": [1]}))
        if what == "model":
            (folder.parent / "shard-00001-model-00001-of-00001.safetensors").unlink()
            write_lora(folder)
        else:
            write_chat_model(folder)
    if latest:
        (out / "LATEST").symlink_to(f"epoch_0_step_{steps[-1]}")
    (out / "training.jsonl").write_text('{"step": 0, "loss": 1.0}\n')
    return out


def test_an_adapters_output_is_the_next_input(project: Project, said: Any, tmp_path: Path, base: Path) -> None:
    out = write_output(tmp_path / "out", 9, 19, what="model")
    words = (MERGE, f"adapter={out}", f"base={base}")
    note = "note: adapter: the last checkpoint is taken: T/out/LATEST/model (T/out/epoch_0_step_19/model)\n"
    assert said(*words)[1].endswith(f"{note}nothing stops it\n")
    mounts = json.loads(project.launch("--dry-run", "--json", *words).stdout)["HostConfig"]["Mounts"]
    assert f"{out}/epoch_0_step_19/model" in [m["Source"] for m in mounts]


@pytest.mark.parametrize("below", ["", "epoch_0_step_9", "LATEST", "LATEST/model", "LATEST/model/consolidated"])
def test_a_models_output_or_a_folder_of_it_is_the_next_input(
    said: Any, inputs: Inputs, tmp_path: Path, below: str
) -> None:
    out = write_output(tmp_path / "out", 9, 19)
    code, text = said(STEP, inputs.words[0], f"model={out / below}")
    step = 9 if "9" in below else 19
    assert (code, "the last checkpoint is taken: T/out/" in text) == (0, not below.endswith("consolidated"))
    found = said(out / below)[1]
    assert found.startswith(f"T/out/epoch_0_step_{step}/model/consolidated: checkpoint_hf (folder")


def test_an_output_whose_link_was_not_copied(said: Any, inputs: Inputs, tmp_path: Path) -> None:
    """The newest by its number, and whole."""
    out = write_output(tmp_path / "out", 9, 100, 119, latest=False)
    (out / "epoch_0_step_119" / ".incomplete").touch()
    assert "T/out/epoch_0_step_100/model/consolidated\n" in said(STEP, inputs.words[0], f"model={out}")[1]


def test_a_run_is_the_next_input(said: Any, inputs: Inputs, tmp_path: Path) -> None:
    write_output(tmp_path / "run" / "output", 9)
    (tmp_path / "run" / "plan.json").write_text("{}")
    assert "T/run/output/LATEST/model/consolidated (" in said(STEP, inputs.words[0], f"model={tmp_path}/run")[1]


def test_what_transformers_trainer_wrote_is_the_next_input(said: Any, inputs: Inputs, tmp_path: Path) -> None:
    for number in (50, 500):
        write_chat_model(tmp_path / "out" / f"checkpoint-{number}")
    assert "is taken: T/out/checkpoint-500\n" in said(STEP, inputs.words[0], f"model={tmp_path}/out")[1]
    write_chat_model(tmp_path / "model")
    write_chat_model(tmp_path / "model" / "checkpoint-50")
    assert said(STEP, inputs.words[0], f"model={tmp_path}/model") == FINE, "a model that has some beside it is itself"


def test_an_output_without_a_checkpoint_is_none(said: Any, inputs: Inputs, tmp_path: Path) -> None:
    out = write_output(tmp_path / "out", 9)
    (out / "epoch_0_step_9" / "model" / "consolidated" / "config.json").unlink()
    code, text = said(STEP, inputs.words[0], f"model={out}")
    assert code == 65 and "model=T/out: is no checkpoint_hf: found " in text


def rows(path: Path, *values: Any) -> Path:
    path.write_text("".join(f"{json.dumps(v) if not isinstance(v, str) else v}\n" for v in values))
    return path


USER, ANSWER = {"role": "user", "content": "Where to?"}, {"role": "assistant", "content": "Out."}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}
TOOL = {"role": "tool", "tool_call_id": "1", "content": "3"}


def chat(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


def called(**function: Any) -> dict[str, Any]:
    return CALL | {"tool_calls": [{"id": "1", "function": function}]}


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (chat({"role": "developer", "content": "Be kind."}, USER, ANSWER),
         "unknown role 'developer'; expected one of assistant, system, tool, user"),
        (chat(USER, {"role": "function", "content": "3"}, ANSWER),
         "unknown role 'function'; expected one of assistant, system, tool, user"),
        (chat(USER, CALL, {"role": "tool", "content": "3"}, ANSWER),
         "`messages[2]` is a tool's answer without `tool_call_id`: say which call it answers"),
        (chat(USER, CALL, TOOL | {"tool_call_id": ""}, ANSWER),
         "`messages[2]` is a tool's answer without `tool_call_id`: say which call it answers"),
        (chat(USER, ANSWER | {"tool_calls": None}),
         "`messages[1]` has `tool_calls` that are no list: leave them out where there are none"),
        (chat(USER, called(arguments="{}"), TOOL, ANSWER), "`tool_calls[0]` of `messages[1]` has no `function.name`"),
        (chat(USER, called(name="f"), TOOL, ANSWER),
         '`tool_calls[0]` of `messages[1]` has no `function.arguments`: "{}" for none'),
        (chat(USER, CALL | {"tool_calls": [{"name": "f"}]}, ANSWER),
         "`tool_calls[0]` of `messages[1]` has no `function`"),
        (chat(USER, ANSWER | {"reasoning_content": ["hm"]}), "`messages[1]` has `reasoning_content` that is no text"),
        (chat(USER, ANSWER, tools="not json"), "`tools` is text that is no JSON"),
        (chat(USER, ANSWER, tools={"f": 1}), "`tools` is no list of tools"),
        (chat({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, ANSWER),
         "`messages[0]` has a part of type image_url; the steps for conversations read text alone"),
        (chat({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}, ANSWER),
         "`messages[0]` has a part of type image; the steps for conversations read text alone"),
        (chat({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, ANSWER),
         "`messages[0]` has a part of type input_audio; the steps for conversations read text alone"),
    ],
)  # fmt: skip
def test_what_the_library_does_not_take_of_a_conversation(
    said: Any, inputs: Inputs, row: dict[str, Any], what: str
) -> None:
    """In a row that comes late, after rows that have none of it."""
    rows(inputs.train, *[chat(USER, ANSWER)] * 300, row)
    assert said(STEP, *inputs.words) == (65, f"error: T/chats.jsonl:301: {what}\nit would not be submitted\n")


@pytest.mark.parametrize(
    "row",
    [
        chat(USER, CALL, TOOL, ANSWER, tools=[{"type": "function"}]),
        chat(USER, CALL, TOOL, ANSWER, tools='[{"type": "function"}]'),
        chat(USER, ANSWER, tools=[]), chat(USER, ANSWER, tools=None),
        chat(USER, called(name="f", arguments={"a": 1}), TOOL, ANSWER),
        chat(USER, ANSWER | {"reasoning_content": "hm"}), chat(USER, ANSWER | {"reasoning_content": None}),
        chat({"role": "user", "content": [{"type": "text", "text": "Where"}]}, ANSWER),
    ],
)  # fmt: skip
def test_what_the_library_takes_of_a_conversation(said: Any, inputs: Inputs, row: dict[str, Any]) -> None:
    rows(inputs.train, chat(USER, ANSWER), row)
    assert said(STEP, *inputs.words) == FINE


@pytest.mark.parametrize(
    ("row", "form"),
    [
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
         "ShareGPT (`conversations` with `from` and `value`), not `messages`; this makes them: jq -c "),
        ({"conversations": [{"role": "user", "content": "a"}]},
         "conversations under `conversations`, not `messages`: jq"),
        ({"instruction": "a", "input": "", "output": "b"}, "Alpaca (`instruction`, `input`, `output`), not `messages`"),
        ({"instruction": "a", "response": "b"}, "Alpaca (`instruction`, `input`, `output`), not `messages`"),
        ({"prompt": "a", "completion": "b"}, "pairs of `prompt` and `completion`, not `messages`; this makes them: jq"),
    ],
)  # fmt: skip
def test_rows_in_another_form_are_named(said: Any, inputs: Inputs, row: dict[str, Any], form: str) -> None:
    rows(inputs.train, *[row] * 30)
    code, text = said(STEP, *inputs.words)
    assert (code, text.count("error")) == (65, 1)
    assert text.startswith(f"error: train=T/chats.jsonl: is no chat_jsonl: found JSON lines of {form}")
    for full in (False, True):
        code, text = said(inputs.train, full=full)
        assert code == 65 and text.startswith(f"T/chats.jsonl: JSON lines of {form}")


@pytest.mark.skipif(not shutil.which("jq"), reason="no jq here")
@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"instruction": "a", "output": "b"},
        {"prompt": "a", "completion": "b"},
    ],
)
def test_the_command_that_is_named_makes_what_is_taken(said: Any, inputs: Inputs, row: dict[str, Any]) -> None:
    rows(inputs.train, row)
    command = shlex.split(re.findall(r"jq -c '[^']+'", said(inputs.train)[1])[0])
    made = subprocess.run([*command, inputs.train], capture_output=True, text=True, check=True).stdout
    inputs.train.write_text(made)
    assert json.loads(made)["messages"][1] == {"role": "assistant", "content": "b"}
    assert said(STEP, *inputs.words) == FINE


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ('[{"messages": []}]', "a JSON array, not one object a line; this makes lines of it: jq -c '.[]'"),
        ('[\n  {"messages": []}\n]', "a JSON array, not one object a line; this makes lines of it: jq -c '.[]'"),
        ('{\n  "messages": []\n}', "JSON over several lines, not one object a line; this makes lines of it: jq -c ."),
    ],
)
def test_json_that_is_no_lines_is_named(said: Any, inputs: Inputs, text: str, note: str) -> None:
    inputs.train.write_text(text)
    assert said(STEP, *inputs.words)[1].startswith(f"error: train=T/chats.jsonl: is no chat_jsonl: found {note}\n")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_named(said: Any, inputs: Inputs, number: str) -> None:
    row = json.dumps(chat(USER, ANSWER, score=0)).replace('"score": 0', f'"score": {number}')
    rows(inputs.train, chat(USER, ANSWER, score=0), row)
    what = f"{number}, which JSON does not have: write null, or leave its key out"
    assert f"error: T/chats.jsonl:2: {what}\n" in said(STEP, *inputs.words)[1]
    rows(inputs.train, chat(USER, ANSWER | {"content": f"{number} is not a number"}))
    assert said(STEP, *inputs.words) == FINE


@pytest.mark.parametrize("end", ["\n", "\n\n \n", "\r\n"])
def test_empty_lines_at_the_end_are_none(said: Any, inputs: Inputs, end: str) -> None:
    with inputs.train.open("a") as f:
        f.write(end)
    assert said(STEP, *inputs.words) == FINE
    assert said(inputs.train, full=True)[0] == 0
    with inputs.train.open("a") as f:
        f.write(json.dumps(chat(USER, ANSWER)))
    assert said(STEP, *inputs.words)[1].startswith("error: T/chats.jsonl:3: an empty line\n")
    inputs.train.write_text(end)
    assert "error: T/chats.jsonl: the file is empty" in said(inputs.train, full=True)[1]


@pytest.mark.parametrize("follows", [False, True])
def test_empty_lines_between_pieces_of_a_large_file(said: Any, inputs: Inputs, follows: bool) -> None:
    """Each worker reads its own piece, and cannot know what follows it."""
    row = json.dumps(chat(USER, ANSWER | {"content": "x" * 2000}))
    inputs.train.write_text(f"{row}\n" * 3000 + "\n" * (6 << 20) + (f"{row}\n" * 3000 if follows else ""))
    code, text = said(inputs.train, full=True)
    assert code == (65 if follows else 0)
    assert (f"and {(6 << 20) - 20:,} more errors" in text, "chats.jsonl:3001: an empty line" in text) == (follows,) * 2


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (chat(USER, ANSWER | {"weight": 0}, USER, ANSWER), "`weight` of a message is not read"),
        (chat(USER, ANSWER | {"train": False}), "`train` of a message is not read"),
        (chat(USER, ANSWER, system="Be kind."), "`system` beside `messages` is not read: make it the first message"),
    ],
)
def test_what_means_something_and_is_dropped_is_warned_of_once(
    project: Project, inputs: Inputs, row: dict[str, Any], what: str
) -> None:
    rows(inputs.train, chat(USER, ANSWER), *[row] * 20)
    done = project.launch("check", STEP, *inputs.words)
    lines = [line for line in done.stderr.splitlines() if "is not read" in line]
    assert done.code == 0 and len(lines) == 1
    assert lines[0].startswith(f"warning: {inputs.train}:2: {what}")


@pytest.mark.parametrize("more", [{"system": ""}, {"system": None}, {"id": 3, "source": "web"}])
def test_what_means_nothing_is_dropped_in_silence(project: Project, inputs: Inputs, more: dict[str, Any]) -> None:
    rows(inputs.train, chat(USER, ANSWER | {"weight": 1}, **more))
    assert "not read" not in project.launch("check", STEP, *inputs.words).stderr


def test_parquet_with_messages_is_named(said: Any, inputs: Inputs, tmp_path: Path) -> None:
    names = b"".join(b"\x15\x02\x25\x00\x18" + bytes([len(n)]) + n + b"\x00" for n in (b"messages", b"source"))
    (tmp_path / "chats.parquet").write_bytes(
        footer(b"\x15\x04\x19\x3c\x48\x04root\x15\x04\x00" + names + b"\x16\x06\x00")
    )
    code, text = said(STEP, f"train={tmp_path}/chats.parquet", inputs.words[1])
    found = "found Parquet with `messages`, neither packed nor JSON Lines; this makes those: python -c "
    assert code == 65 and found in text


@pytest.mark.parametrize(
    ("step", "name", "more"),
    [
        (STEP, "model", ", or say dataset.chat_template=TEMPLATE"),
        ("peft/automodel", "model", ", or say dataset.chat_template=TEMPLATE"),
        ("data_prep/sft_packing", "tokenizer", ""),
        ("optimize/modelopt/distill", "student", ""),
    ],
)
def test_a_base_model_has_no_chat_template(said: Any, inputs: Inputs, step: str, name: str, more: str) -> None:
    words = [f"{name}={inputs.model}", inputs.words[0], *([f"teacher={inputs.model}"] if name == "student" else [])]
    what = f"has no chat template, by which {step} renders conversations: a base model has none"
    error = f"error: {name}=T/llama: {what}\n"
    assert error not in said(step, *words)[1]
    (inputs.model / "chat_template.jinja").unlink()
    remedy = f"  name an instruct model, put a chat_template.jinja into its folder{more}\n"
    code, text = said(step, *words)
    assert code and error + remedy in text


def test_a_template_may_be_named_or_be_the_tokenizers_own(said: Any, inputs: Inputs) -> None:
    (inputs.model / "chat_template.jinja").unlink()
    assert said(STEP, *inputs.words, "dataset.chat_template=/data/chat.jinja") == FINE
    (inputs.model / "tekken.json").write_text("{}")
    assert said(STEP, *inputs.words) == FINE


@pytest.mark.parametrize("row", [chat(USER, ANSWER, tools=[{"type": "function"}]), chat(USER, CALL, TOOL, ANSWER)])
def test_a_template_that_knows_no_tools(project: Project, inputs: Inputs, row: dict[str, Any]) -> None:
    rows(inputs.train, row)
    what = "its chat template does not name `tools`"
    assert what not in project.launch("check", STEP, *inputs.words).stderr
    (inputs.model / "chat_template.jinja").write_text("{{ messages }}")
    done = project.launch("check", STEP, *inputs.words)
    assert done.code == 0 and f"warning: model={inputs.model}: {what}" in done.stderr


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["max_steps=-5"], "max_steps=-5: is no whole number from 1 on"),
        (["epochs=0"], "epochs=0: is no whole number from 1 on"),
        (["checkpoint_every=-1"], "checkpoint_every=-1: is no whole number from 1 on"),
        (["validate_every=-1"], "validate_every=-1: is no whole number from 0 on"),
        (["learning_rate=1e3"], "learning_rate=1000.0: is 1 or more: usual are 1e-6 to 1e-3"),
        (["learning_rate=-1e-5"], "learning_rate=-1e-05: is below 0"),
        (["seq_length=4096"], "seq_length=4096: is beyond the 2048 positions of model=T/llama (max_position_emb"),
    ],
)
def test_a_number_that_cannot_be_meant(said: Any, inputs: Inputs, words: list[str], what: str) -> None:
    configured(inputs.model, num_hidden_layers=2, max_position_embeddings=2048)
    code, text = said(STEP, *inputs.words, *words)
    assert code and f"error: {what}" in text


def test_a_default_length_beyond_the_model_is_a_warning(project: Project, inputs: Inputs) -> None:
    """Texts may be as short as the model; what somebody asks for is another matter."""
    configured(inputs.model, num_hidden_layers=2, max_position_embeddings=512)
    done = project.launch("check", STEP, *inputs.words)
    assert done.code == 0 and "warning: seq_length=" in done.stderr and "is the step's own default" in done.stderr


@pytest.mark.parametrize(
    "words", [["max_steps=1"], ["validate_every=0"], ["learning_rate=0.5"], ["seq_length=2048"], ["seq_length=128"]]
)
def test_a_number_that_can(said: Any, inputs: Inputs, words: list[str]) -> None:
    configured(inputs.model, num_hidden_layers=2, max_position_embeddings=2048)
    assert said(STEP, *inputs.words, *words) == FINE


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["max_steps=20", "epochs=1", "global_batch_size=16"],
         "20 steps asked for, 4 possible: 1 x 64 rows / 16 a batch; epochs=5 for as many"),
        (["max_steps=9", "epochs=2", "global_batch_size=16"],
         "9 steps asked for, 8 possible: 2 x 64 rows / 16 a batch; epochs=3 for as many"),
        (["global_batch_size=1024"],
         "has 64 rows, fewer than one batch of 1,024, which is never full: global_batch_size=64 at most"),
        (["max_steps=8", "epochs=2", "global_batch_size=16"], ""),
        (["max_steps=4", "global_batch_size=64", "epochs=4"], ""),
    ],
)  # fmt: skip
def test_too_few_rows_for_what_was_asked(project: Project, inputs: Inputs, words: list[str], what: str) -> None:
    rows(inputs.train, *[chat(USER, ANSWER)] * 64, "")
    done = project.launch("check", STEP, *inputs.words, *words)
    lines = [line for line in done.stderr.splitlines() if line.startswith(f"warning: train={inputs.train}: ")]
    assert (done.code, [line.endswith(what) for line in lines]) == (0, [True] if what else [])


@pytest.mark.skipif(not shutil.which("zstd"), reason="no zstd here")
@pytest.mark.parametrize("name", ["chats.jsonl.zst", "shards", "shards/*.zst"])
def test_what_is_packed_with_zstd_is_refused(project: Project, inputs: Inputs, tmp_path: Path, name: str) -> None:
    project.env["PATH"] += f":{os.environ['PATH']}"  # for zstd
    (tmp_path / "shards").mkdir()
    packed = subprocess.run(["zstd", "-qc", inputs.train], capture_output=True, check=True).stdout
    (tmp_path / "chats.jsonl.zst").write_bytes(packed)
    (tmp_path / "shards" / "b.jsonl.zst").write_bytes(packed)
    done = project.launch("check", STEP, f"train={tmp_path}/{name}", inputs.words[1])
    assert done.code == 65 and "is packed with zstd, which sft/automodel does not read" in done.stderr


@pytest.mark.parametrize("name", ["chats.jsonl.gz", "shards", "shards/*.gz"])
def test_what_is_packed_with_gzip_is_taken(said: Any, inputs: Inputs, tmp_path: Path, name: str) -> None:
    (tmp_path / "shards").mkdir()
    for file in ("chats.jsonl.gz", "shards/b.jsonl.gz"):
        (tmp_path / file).write_bytes(gzip.compress(inputs.train.read_bytes()))
    assert said(STEP, f"train={tmp_path}/{name}", inputs.words[1]) == FINE

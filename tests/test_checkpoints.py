"""artifacts/checkpoints.py: checkpoint folders of every kind, whole and broken. Layouts as the libraries wrote them."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import INDEX, SHARDS, safetensors, write_checkpoint

from launcher.artifacts import checkpoints
from launcher.artifacts.nouns import Adapter, Found, Sizes, Tokenizer, Weights

Break = Callable[[Path], object]
TEMPLATE = "{{ messages }}"


def look(folder: Path) -> Found:
    found = checkpoints.look(folder)
    assert found is not None
    return found


def faults(found: Found) -> list[tuple[str, str]]:
    return [(Path(f.where).name, f.what) for f in found.faults]


def files(folder: Path, **contents: str | bytes) -> Path:
    """Writes files; `__` stands for `/` and `_dot_` for the dots in a name."""
    for name, content in contents.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def test_a_whole_hugging_face_checkpoint_and_its_facts(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "llama")
    config = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "hidden_size": 64, "vocab_size": 384}
    files(folder, config_dot_json=json.dumps(config), tokenizer_config_dot_json=json.dumps({"chat_template": TEMPLATE}))
    found = look(folder)
    assert (found.type, found.faults, found.parameters) == ("checkpoint_hf", [], 10)
    assert found.sizes == Sizes(architecture="LlamaForCausalLM", layers=2, hidden=64, vocab=384)
    assert found.weights == Weights(bytes=sum((folder / s).stat().st_size for s in SHARDS))
    assert found.tokenizer.template == hashlib.sha256(TEMPLATE.encode()).hexdigest()


def test_the_sizes_of_a_model_of_several_modalities_are_its_language_models(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "llama")
    files(folder, config_dot_json='{"hidden_size": 1, "text_config": {"hidden_size": 64, "vocab_size": 9}}')
    assert look(folder).sizes == Sizes(hidden=64, vocab=9)


def test_the_tokenizer_is_its_vocabulary_not_its_configuration(tmp_path: Path) -> None:
    """Saving a model again adds to tokenizer_config.json, and is the same tokenizer."""
    folder = write_checkpoint(tmp_path / "llama")
    before = look(folder).tokenizer.vocabulary
    files(folder, tokenizer_config_dot_json='{"is_local": true}')
    assert look(folder).tokenizer.vocabulary == before
    files(folder, tokenizer_dot_json='{"model": 1}')
    assert look(folder).tokenizer.vocabulary != before


@pytest.mark.parametrize(
    "contents",
    [
        {"chat_template_dot_jinja": TEMPLATE, "tokenizer_config_dot_json": '{"chat_template": "other"}'},
        {"tokenizer_config_dot_json": json.dumps({"chat_template": TEMPLATE})},
        {"tokenizer_config_dot_json": json.dumps({"chat_template": [
            {"name": "tools", "template": "other"}, {"name": "default", "template": TEMPLATE}]})},
    ],
)  # fmt: skip
def test_the_chat_template_wherever_it_stands(tmp_path: Path, contents: dict[str, str]) -> None:
    found = checkpoints.tokenizer(files(tmp_path, **contents))
    assert found == Tokenizer(template=hashlib.sha256(TEMPLATE.encode()).hexdigest())


def test_a_tokenizer_without_a_model_is_a_type_of_its_own(tmp_path: Path) -> None:
    found = look(files(tmp_path, tokenizer_dot_json="{}"))
    assert found.type == "tokenizer_hf"
    assert found.tokenizer == Tokenizer(vocabulary=found.tokenizer.vocabulary) != Tokenizer()


def test_a_checkpoint_of_one_file_needs_no_index(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "llama")
    for name in (INDEX, *SHARDS):
        (folder / name).unlink()
    (folder / "model.safetensors").write_bytes(safetensors({"a": [3], "scalar": []}))
    assert (look(folder).faults, look(folder).parameters) == ([], 4)


CUT_OFF = "not a whole safetensors file: its header is cut off"
NO_TOKENIZER = "there is no tokenizer (tokenizer.json, tokenizer_config.json)"


@pytest.mark.parametrize(
    ("break_it", "where", "what"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "llama", NO_TOKENIZER),
        (lambda f: (f / "config.json").unlink(), "config.json", "is missing"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json", "not a JSON object"),
        (lambda f: (f / "config.json").write_text("{"), "config.json", "not JSON: Input data was truncated"),
        (lambda f: (f / SHARDS[1]).unlink(), SHARDS[1], "a shard of the index is missing"),
        (lambda f: [(f / n).unlink() for n in (INDEX, *SHARDS)], "llama", "there are no *.safetensors weights"),
        (
            lambda f: os.truncate(f / SHARDS[0], (f / SHARDS[0]).stat().st_size - 1),
            SHARDS[0], "{size} bytes, its header says {more}: the file is cut off",
        ),
        (lambda f: os.truncate(f / SHARDS[0], 20), SHARDS[0], CUT_OFF),
        (lambda f: os.truncate(f / SHARDS[0], 3), SHARDS[0], CUT_OFF),
        (lambda f: (f / SHARDS[0]).write_bytes(b""), SHARDS[0], CUT_OFF),
        (lambda f: (f / SHARDS[0]).write_bytes(b"\xff" * 99), SHARDS[0], CUT_OFF),
        *(
            (
                lambda f, text=text: (f / SHARDS[0]).write_bytes(struct.pack("<Q", len(text)) + text),
                SHARDS[0], "not a safetensors file: its header lists no tensors",
            )
            for text in (b"no json!", b"[]", b'{"a": {}}', b'{"a": {"shape": [1], "data_offsets": 3}}', b'{"\xff": 1}')
        ),
        *(
            (lambda f, text=text: (f / INDEX).write_text(text), INDEX, "no index of weights (`weight_map`)")
            for text in ("", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": ["b"]}}')
        ),
        (
            lambda f: (f / INDEX).write_text(json.dumps({"weight_map": {"a": f"../llama/{SHARDS[0]}"}})),
            SHARDS[0], "a shard of the index is missing",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_hugging_face_checkpoint(tmp_path: Path, break_it: Break, where: str, what: str) -> None:
    folder = write_checkpoint(tmp_path / "llama")
    break_it(folder)
    size = (folder / SHARDS[0]).stat().st_size if (folder / SHARDS[0]).exists() else 0
    found = look(folder)
    assert (found.type, faults(found)) == ("checkpoint_hf", [(where, what.format(size=size, more=size + 1))])


RUN = "checkpoint:\n  pretrained_checkpoint: /ckpt/base\npeft: {}\n"
LORA = "\n  _target_: megatron.bridge.peft.lora.LoRA\n  dim: 8\n  params_to_save: !!set\n    a.weight: null"


def write_megatron(root: Path, peft: str = "null", iteration: int = 4) -> Path:
    """A root with one iteration, as Megatron-Bridge saves it; .metadata is a pickle that names the shards."""
    files(root, latest_checkpointed_iteration_dot_txt=str(iteration), latest_train_state_dot_pt=b"x")
    files(
        root / f"iter_{iteration:07d}", _dot_metadata=b"\x80\x05\x8c\x0c__0_0.distcp\x94\x8c\x0c__0_1.distcp\x94.",
        metadata_dot_json='{"sharded_backend": "torch_dist", "sharded_backend_version": 1}', train_state_dot_pt=b"x",
        run_config_dot_yaml=RUN.format(peft), tokenizer__tokenizer_dot_json="{}",
    )  # fmt: skip
    for shard in ("__0_0.distcp", "__0_1.distcp"):
        (root / f"iter_{iteration:07d}" / shard).write_bytes(b"weights")
    return root


def test_a_megatron_checkpoint_by_its_root_or_an_iteration(tmp_path: Path) -> None:
    root = write_megatron(write_megatron(tmp_path, iteration=2), iteration=4)
    for folder, iteration in ((root, 4), (root / "iter_0000004", 4), (root / "iter_0000002", 2)):
        found = look(folder)
        assert (found.type, found.faults, found.weights.iteration) == ("checkpoint_megatron", [], iteration)
        assert found.tokenizer.vocabulary
    (root / checkpoints.LATEST).write_text("2\n")
    assert look(root).weights.iteration == 2


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        ({"num_attention_heads": 32, "num_key_value_heads": 8}, {"heads": 32, "kv_heads": 8}),
        ({"head_dim": 64, "intermediate_size": 8192}, {"head_size": 64, "intermediate": 8192}),
        ({"num_local_experts": 8, "num_experts_per_tok": 2}, {"experts": 8, "experts_per_token": 2}),
        ({"n_routed_experts": 64, "moe_intermediate_size": 768}, {"experts": 64, "expert_intermediate": 768}),
        ({"text_config": {"num_experts": 4}, "tie_word_embeddings": True}, {"experts": 4, "tied": True}),
        ({"num_attention_heads": "many", "num_experts": [1], "hidden_size": None, "tie_word_embeddings": False}, {}),
    ],
)  # fmt: skip
def test_the_sizes_of_a_hugging_face_model(tmp_path: Path, config: dict[str, Any], sizes: dict[str, Any]) -> None:
    assert look(files(tmp_path, config_dot_json=json.dumps(config))).sizes == Sizes(**sizes)


def test_the_sizes_of_a_megatron_model(tmp_path: Path) -> None:
    root = write_megatron(tmp_path)
    model = {"num_layers": 2, "num_query_groups": 4, "num_moe_experts": None, "moe_router_topk": 2, "hidden_size": "x"}
    with (root / "iter_0000004" / "run_config.yaml").open("a") as f:
        f.write(f"\nmodel: {json.dumps(model)}\n")
    assert look(root).sizes == Sizes(layers=2, kv_heads=4)
    with_experts = checkpoints.megatron_sizes({**model, "num_moe_experts": 8})
    assert with_experts == Sizes(layers=2, kv_heads=4, experts=8, experts_per_token=2)


def test_a_lora_of_megatron_bridge_names_its_base(tmp_path: Path) -> None:
    found = look(write_megatron(tmp_path, peft=LORA))
    assert (found.type, found.faults, found.weights.iteration) == ("checkpoint_lora", [], 4)
    assert found.adapter == Adapter(layout="megatron_bridge", base="/ckpt/base", rank=8)


@pytest.mark.parametrize(
    ("break_it", "where", "what"),
    [
        (lambda i: (i / ".metadata").unlink(), ".metadata", "is missing"),
        (lambda i: (i / "metadata.json").write_text(""), "metadata.json", "is missing"),
        (lambda i: (i / "run_config.yaml").unlink(), "run_config.yaml", "is missing"),
        (lambda i: (i / "run_config.yaml").write_text("a: !!python/name:os.system"), "run_config.yaml",
         "cannot be read: not valid YAML: could not determine a constructor for the tag "
         "'tag:yaml.org,2002:python/name:os.system'"),
        (lambda i: (i / "run_config.yaml").write_text("[]"), "run_config.yaml", "not a mapping"),
        (lambda i: (i / "__0_1.distcp").unlink(), "__0_1.distcp", "a shard of .metadata is missing"),
        (lambda i: (i / "__0_1.distcp").write_bytes(b""), "__0_1.distcp", "an empty shard"),
        (lambda i: [(i / ".metadata").write_bytes(b"x"), *(p.unlink() for p in i.glob("*.distcp"))],
         "iter_0000004", "there are no *.distcp shards"),
        (lambda i: (i.parent / checkpoints.LATEST).unlink(), "T",
         "latest_checkpointed_iteration.txt is missing: saving did not end, or only an iteration was copied"),
        (lambda i: (i.parent / checkpoints.LATEST).write_text("8"), checkpoints.LATEST,
         "names '8'; the folder has iter_0000004"),
        (lambda i: (i.parent / checkpoints.LATEST).write_text("../x"), checkpoints.LATEST,
         "names '../x'; the folder has iter_0000004"),
        (lambda i: i.rename(i.parent / "other"), checkpoints.LATEST, "names '4'; the folder has no iter_*"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_megatron_checkpoint(tmp_path: Path, break_it: Break, where: str, what: str) -> None:
    root = write_megatron(tmp_path / "T")
    break_it(root / "iter_0000004")
    found = look(root)
    assert (found.type, faults(found)) == ("checkpoint_megatron", [(where, what)])


def write_adapter(folder: Path) -> Path:
    config = {"base_model_name_or_path": "/ckpt/llama", "peft_type": "LORA", "r": 8, "lora_alpha": 16}
    weights = safetensors({"a.lora_A.weight": [8, 4], "a.lora_B.weight": [4, 8]})
    return files(folder, adapter_config_dot_json=json.dumps(config), adapter_model_dot_safetensors=weights)


def test_a_lora_of_hugging_face_peft_names_its_base(tmp_path: Path) -> None:
    found = look(write_adapter(tmp_path))
    adapter = Adapter(layout="hf_peft", base="/ckpt/llama", rank=8)
    assert found == Found(type="checkpoint_lora", adapter=adapter, parameters=64)
    (tmp_path / "slipway.json").write_text(json.dumps({"base": "f" * 64, "base_path": "/ckpt/llama"}))
    assert look(tmp_path).adapter.base == "f" * 64, "the fingerprint says more than a path"


@pytest.mark.parametrize(
    ("break_it", "where", "what"),
    [
        (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json", "is missing"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json",
         "not JSON: Input data was truncated"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "adapter_model.safetensors", "is missing"),
        (lambda f: os.truncate(f / "adapter_model.safetensors", 30), "adapter_model.safetensors", CUT_OFF),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_adapter(tmp_path: Path, break_it: Break, where: str, what: str) -> None:
    break_it(write_adapter(tmp_path))
    assert (look(tmp_path).type, faults(look(tmp_path))) == ("checkpoint_lora", [(where, what)])


def write_nemo_rl(root: Path, step: int = 3, weights: str = "__0_0_dot_distcp") -> Path:
    files(
        root / f"step_{step}", config_dot_yaml="policy: {}", training_info_dot_json="{}", train_dataloader_dot_pt=b"x",
        policy__tokenizer__tokenizer_dot_json="{}",
    )  # fmt: skip
    path = root / f"step_{step}" / "policy" / "weights" / weights.replace("_dot_", ".")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    if path.suffix == ".distcp":
        path.with_name(".metadata").write_bytes(b"x")
    return root


@pytest.mark.parametrize(
    ("weights", "kind"),
    [
        ("__0_0.distcp", "dcp"),
        ("model/shard-00001-model-00001-of-00001.safetensors", "safetensors"),
        ("iter_0000003/__0_0.distcp", "megatron"),
    ],
)
def test_a_checkpoint_of_nemo_rl_by_its_root_or_a_step(tmp_path: Path, weights: str, kind: str) -> None:
    root = write_nemo_rl(write_nemo_rl(tmp_path, 9, weights), 10, weights)
    (root / "tmp_step_11").mkdir()
    for folder, step in ((root, 10), (root / "step_9", 9)):
        found = look(folder)
        assert (found.type, found.faults) == ("checkpoint_nemo_rl", [])
        assert (found.weights.format, found.weights.iteration) == (kind, step)


@pytest.mark.parametrize(
    ("break_it", "where", "what", "severity"),
    [
        (lambda s: (s / "config.yaml").unlink(), "config.yaml", "is missing", "error"),
        (lambda s: (s / "training_info.json").unlink(), "training_info.json", "is missing", "error"),
        (lambda s: (s / "train_dataloader.pt").unlink(), "train_dataloader.pt",
         "is missing: training cannot go on from it", "warning"),
        (lambda s: (s / "policy/weights/__0_0.distcp").unlink(), "weights", "there are no weights", "error"),
        (lambda s: (s / "policy/weights/__0_0.distcp").write_bytes(b""), "__0_0.distcp", "an empty shard", "error"),
        (lambda s: (s / "policy/weights/.metadata").unlink(), ".metadata",
         "is missing: saving did not end, or a copy left it out", "error"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_checkpoint_of_nemo_rl(
    tmp_path: Path, break_it: Break, where: str, what: str, severity: str
) -> None:
    break_it(write_nemo_rl(tmp_path) / "step_3")
    found = look(tmp_path)
    assert (found.type, faults(found), found.faults[0].severity) == ("checkpoint_nemo_rl", [(where, what)], severity)


def test_another_folder_is_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoints.look(files(tmp_path, a_dot_txt="", metadata_dot_json="{}", config_dot_yaml="")) is None

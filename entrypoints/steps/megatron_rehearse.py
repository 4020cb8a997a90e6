"""Rehearses a training with Megatron-Bridge: its own dataset over every row, then steps of a small model.

The steps are megatron_train's, with the configuration as it was planned; what is trained, and on which rows, is made
here. result.json says what was found; an exception of the library's is a finding, word for word.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import megatron_convert
import megatron_rehearse_data
import megatron_train
import slipway_documents
import slipway_inputs
import slipway_megatron
import slipway_rehearsal
import slipway_small
import slipway_step
from megatron_rehearse_data import Conversations, Packed
from slipway_rehearsal import Steps

LOGITS = 2 << 30  # bytes that the logits of one row may take, with the loss's copies
LOGIT_BYTES = 14  # of each
EXPERTS = "the model has experts, whose layers in Megatron-Core nobody has tried without CUDA"
ONE = dict.fromkeys(megatron_convert.SIZES, 1)  # process

# What a provider of Megatron-Bridge calls its sizes -> at most so much.
WIDTHS = {
    "hidden_size": 64, "ffn_hidden_size": 128, "moe_ffn_hidden_size": 64, "moe_shared_expert_intermediate_size": 64,
    "kv_channels": 16, "num_moe_experts": 4, "moe_router_topk": 2, "q_lora_rank": 32, "kv_lora_rank": 32,
    "qk_head_dim": 16, "qk_pos_emb_head_dim": 16, "v_head_dim": 16,
}  # fmt: skip


def main() -> None:
    config = slipway_step.merge_config(slipway_step.load_plan()["config"])
    slipway_megatron.lead_process_group()
    with tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=slipway_step.OUTPUT) as name:
        if config["checkpoint"].get("pretrained_checkpoint"):
            found = fine_tuning(config, Path(name))
        else:
            found = pretraining(config, Path(name))
    slipway_rehearsal.leave(*found)


def fine_tuning(config: dict[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is found of the conversations, packed or not, and of the steps."""
    base = slipway_inputs.path_of(config, "checkpoint.pretrained_checkpoint")
    known = vocabulary(base)
    most, count = LOGITS // (LOGIT_BYTES * max(known, 1)), 2 * config["train"]["global_batch_size"]
    told, few = {}, copy.deepcopy(config)
    for name, data in conversations(config, folder):
        if isinstance(data, dict):
            told[name] = data
            continue
        found, told[name] = slipway_rehearsal.examine(name, data, known)
        if rows := slipway_rehearsal.some_rows(found, most, count):
            few["data"][name] = str(data.write(rows, most, folder / f"{name}-few"))
    if any(few["data"].get(name) == config["data"].get(name) for name in told):
        return told, slipway_rehearsal.no_steps("an input has no row to take them on")
    if experts(base):
        return told, slipway_rehearsal.no_steps(EXPERTS)

    def make(steps: Steps) -> None:
        if hugging_face(base):
            steps.models["model"] = slipway_small.small_model(base, folder / "hf")
            return
        provider = provider_at(base)
        steps.models["model"] = shrink(provider)
        slipway_megatron.start_process_group()
        save(provider, folder / "base", slipway_inputs.path_of(config, "tokenizer.tokenizer_model"))
        end_process_group()

    def go(steps: Steps) -> None:
        if hugging_face(base):
            slipway_megatron.start_process_group()
            megatron_convert.to_megatron(folder / "hf", folder / "base", ONE, "float32")
            end_process_group()
            steps.did.append("converted by Megatron-Bridge, as convert/hf_to_megatron does")
        few["checkpoint"]["pretrained_checkpoint"] = str(folder / "base")
        few["checkpoint"]["save"] = str(folder / "output")
        train(few, steps)

    return told, Steps().take(make, go)


def conversations(
    config: dict[str, Any], folder: Path
) -> Iterator[tuple[str, Conversations | Packed | dict[str, Any]]]:
    """Each input's data, by its name; or what is told where the library does not take them at all."""
    sections = copy.deepcopy(config)
    megatron_train.wire_conversations(sections, config["data"])  # refuses what the step does
    tokenizer = slipway_inputs.path_of(config, "tokenizer.tokenizer_model")
    for name, split in (("train", "training"), ("validation", "validation")):
        if not config["data"].get(name):
            continue
        file = megatron_train.chosen(slipway_inputs.path_of(config, f"data.{name}"), split)
        rows = megatron_rehearse_data.count(file)
        try:
            yield name, megatron_rehearse_data.load(file, sections["dataset"], tokenizer, folder / f"{name}.jsonl")
        except Exception as e:  # noqa: BLE001 - whatever the library raises is what is wrong
            yield name, slipway_rehearsal.refused(e, rows)


def pretraining(config: dict[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is found of the documents, and of the steps. The model is the configuration's own, made small."""
    told: dict[str, Any] = {}
    sections = megatron_train.prepare(copy.deepcopy(config))
    tokenizer = sections["tokenizer"].get("tokenizer_model")
    known = slipway_small.vocabulary(Path(tokenizer)) if tokenizer else sections["tokenizer"].get("vocab_size") or 0
    if config["data"].get("train"):
        prefixes = slipway_documents.prefixes(slipway_inputs.path_of(config, "data.train"))
        try:
            data = megatron_rehearse_data.documents(prefixes, tokenizer)
        except Exception as e:  # noqa: BLE001 - whatever the library raises is what is wrong
            told["data"] = slipway_rehearsal.refused(e, 0)
            return told, slipway_rehearsal.no_steps("the library does not read the documents")
        told["data"] = slipway_rehearsal.examine("data", data, known)[1]
    if sections["model"].get("num_moe_experts"):
        return told, slipway_rehearsal.no_steps(EXPERTS)
    length = min(sections["dataset"]["seq_length"], LOGITS // (LOGIT_BYTES * max(known, 1)))

    def go(steps: Steps) -> None:
        if length < sections["dataset"]["seq_length"]:
            steps.did.append(f"rows of {length} tokens, which fit into memory here")
            config["dataset"]["seq_length"] = length
        config["checkpoint"]["save"] = str(folder / "output")
        train(config, steps)

    return told, Steps().take(lambda _: None, go)


def train(config: dict[str, Any], steps: Steps) -> None:
    """Takes the steps, as megatron_train does, and tells their losses."""
    prepared = megatron_train.prepare(config)
    with slipway_step.config_file(prepared):
        pass
    container = megatron_train.build(prepared)
    if not container.checkpoint.pretrained_checkpoint:
        steps.models["model"] = shrink(container.model)
    container.train.exit_signal_handler = False
    steps.losses = megatron_train.train(container)
    made = megatron_train.result(container, steps.losses)
    steps.did.append(f"saved {made['iteration']} ({made['type']})")


def hugging_face(base: Path) -> bool:
    return (base / "config.json").is_file()


def provider_at(base: Path) -> Any:
    """The model that a checkpoint was saved with. Raises ConfigError where there is none."""
    from megatron.bridge.training.model_load_save import load_model_config

    return load_model_config(str(slipway_megatron.iteration_folder(base, "checkpoint.pretrained_checkpoint")))[0]


def vocabulary(base: Path) -> int:
    """How many tokens the real model has; 0 where nothing says it."""
    if hugging_face(base):
        return slipway_small.vocabulary(base)
    return int(getattr(provider_at(base), "vocab_size", None) or 0)


def experts(base: Path) -> bool:
    """Whether the real model has experts."""
    if not hugging_face(base):
        return bool(getattr(provider_at(base), "num_moe_experts", None))
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config") or config
    return any(config.get(name) for name in ("num_local_experts", "num_experts", "n_routed_experts"))


def shrink(provider: Any) -> str:
    """Makes a provider's model small: two layers, small widths, four heads and experts. Says what it is."""
    provider.num_layers = min(provider.num_layers, 2)
    heads, groups = provider.num_attention_heads, provider.num_query_groups
    provider.num_attention_heads = min(heads, 4)
    if groups:
        few = provider.num_attention_heads
        provider.num_query_groups = 1 if groups == 1 else few if groups == heads else min(2, few)
    for name, most in WIDTHS.items():
        value = getattr(provider, name, None)
        if isinstance(value, int) and not isinstance(value, bool):
            setattr(provider, name, min(value, most))
    for name in ("moe_layer_freq", "window_attn_skip_freq", "no_rope_freq"):
        if isinstance(kinds := getattr(provider, name, None), list):
            setattr(provider, name, kinds[: provider.num_layers])
    return f"{type(provider).__name__} with {provider.num_layers} layers, random weights (fewer layers and widths)"


def save(provider: Any, target: Path, tokenizer: Path) -> None:
    """A checkpoint of what `provider` describes, with random weights in float32."""
    import torch
    from megatron.bridge.training.model_load_save import save_megatron_model

    provider.params_dtype, provider.bf16, provider.fp16 = torch.float32, False, False
    provider.perform_initialization = True  # a model that was converted got its weights from elsewhere
    megatron_convert.use_parallel(provider, ONE)
    save_megatron_model(provider.provide_distributed_model(wrap_with_ddp=False), target, hf_tokenizer_path=tokenizer)


def end_process_group() -> None:
    """Training starts its own, and what saving has started beside it."""
    import torch
    from megatron.core import parallel_state, rerun_state_machine

    rerun_state_machine.destroy_rerun_state_machine()
    parallel_state.destroy_model_parallel()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":  # the processes that write checkpoints import this file again
    slipway_step.run(main)

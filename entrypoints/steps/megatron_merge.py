"""Folds a LoRA adapter that Megatron-Bridge trained into its base model, and writes a Hugging Face checkpoint."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slipway_inputs
import slipway_megatron
import slipway_step
from slipway_step import ConfigError

LORA_KEYS = ("target_modules", "exclude_modules", "dim", "alpha", "dropout", "dropout_position")
MOUNT = re.compile(r"/inputs/[^/]+-([0-9a-f]{8})(?:/|$)")


def main() -> None:
    plan = slipway_step.load_plan()
    config = slipway_step.merge_config(plan["config"])
    output = Path(config["output"]["path"])
    adapter = slipway_megatron.iteration_folder(slipway_inputs.path_of(config, "adapter.path"), "adapter.path")
    run = run_config(adapter)
    options = lora_options(run, adapter)
    base, model = base_and_model(config)
    dtype = slipway_inputs.dtype_of(config, "merge")
    refuse_other_base(run, base)
    slipway_inputs.refuse_filled(output, "output.path")
    refuse_without_gpu(plan["flavour"])
    with slipway_step.config_file(config):
        pass
    tensors = merge(adapter, options, base, model, output, dtype)
    made = {"type": "checkpoint_hf", "checkpoint": str(output), "adapter": adapter.name, "adapter_tensors": tensors}
    slipway_step.write_result(made)


def run_config(adapter: Path) -> dict[str, Any]:
    """What the adapter was trained with."""
    import yaml

    run: dict[str, Any] = yaml.safe_load((adapter / "run_config.yaml").read_text(encoding="utf-8"))
    return run


def lora_options(run: dict[str, Any], adapter: Path) -> dict[str, Any]:
    """The adapter's own options. Raises ConfigError where it is none, or none of LoRA."""
    peft = run.get("peft")
    if not peft:
        raise ConfigError(f"adapter.path: {adapter} was not trained with LoRA: its run_config.yaml has no peft")
    if not str(peft.get("_target_", "")).endswith(".LoRA"):
        raise ConfigError(f"adapter.path: {adapter} holds {peft.get('_target_')}; only LoRA can be merged")
    return {key: peft[key] for key in LORA_KEYS if key in peft}


def base_and_model(config: dict[str, Any]) -> tuple[Path, Path]:
    """The base's weights (an iter_* folder or a Hugging Face one), and where its architecture and tokenizer are."""
    base = slipway_inputs.path_of(config, "base.path")
    if (base / "config.json").is_file():
        return base, base
    base = slipway_megatron.iteration_folder(base, "base.path")
    if not (config.get("architecture") or {}).get("path"):
        raise ConfigError("base.path is a Megatron checkpoint: architecture.path has to name its Hugging Face model")
    model = slipway_inputs.path_of(config, "architecture.path")
    if not (model / "config.json").is_file():
        raise ConfigError(f"architecture.path: {model} is no Hugging Face model: it has no config.json")
    return base, model


def refuse_other_base(run: dict[str, Any], base: Path) -> None:
    """A mount's name ends in the fingerprint of what it holds, so the adapter's record says which base it is for.

    Raises ConfigError for another Megatron checkpoint; of a Hugging Face base only the shapes can be compared.
    """
    trained = str((run.get("checkpoint") or {}).get("pretrained_checkpoint") or "")
    keys = [MOUNT.match(path) for path in (trained, str(base))]
    if None in keys or (base / "config.json").is_file():
        return
    known, given = (match[1] for match in keys if match)
    if known != given:
        raise ConfigError(f"base.path: {base} is not what the adapter was trained on: its record names {trained}")


def refuse_without_gpu(flavour: str) -> None:
    """Megatron-Core draws an adapter's layers by CUDA's generator (tensor_parallel/random.py), for whose state it asks.

    Raises ConfigError where there is no GPU; the cpu flavour has a substitute.
    """
    import torch

    if flavour == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--gpus: no GPU is here, and Megatron-Core draws the adapter's layers on one; --gpus 1")


def merge(adapter: Path, options: dict[str, Any], base: Path, model: Path, output: Path, dtype: str | None) -> int:
    """Writes the merged model, and returns the number of the adapter's tensors."""
    import torch
    from megatron.bridge import AutoBridge
    from megatron.bridge.peft.lora import LoRA
    from megatron.bridge.training.model_load_save import temporary_distributed_context
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

    slipway_megatron.lead_process_group()
    own = {name: getattr(torch, value) for name, value in save_options(AutoBridge.save_hf_pretrained, dtype).items()}
    bridge, lora = AutoBridge.from_hf_pretrained(str(model)), LoRA(**options)
    with temporary_distributed_context(backend="gloo"):  # as the library's own export: it works in host memory
        model_parallel_cuda_manual_seed(0)  # the adapter's layers are drawn before they are read
        if base == model:
            built = bridge.to_megatron_model(wrap_with_ddp=False, use_cpu_initialization=True)
        else:
            built = bridge.load_megatron_model(str(base), wrap_with_ddp=False)
        built = lora(built, training=False)
        count = load_adapter(built, lora, adapter)
        bridge.save_hf_pretrained(built, str(output), show_progress=False, merge_adapter_weights=True, **own)
    return count


def save_options(save: Callable[..., Any], dtype: str | None) -> dict[str, str]:
    """What the export is told of the type. Raises ConfigError where this release, up to 0.5, cannot choose it."""
    if dtype is None:
        return {}
    if "weight_dtype" not in inspect.signature(save).parameters:
        raise ConfigError(f"merge.dtype: this release of Megatron-Bridge writes the model's own type, not {dtype}")
    return {"weight_dtype": dtype}


def load_adapter(model: Any, lora: Any, folder: Path) -> int:
    """Reads the adapter's tensors into a model with LoRA layers. Raises RuntimeError where they do not fit."""
    from megatron.bridge.training import checkpointing
    from megatron.core import dist_checkpointing

    wanted = checkpointing.apply_peft_adapter_filter_to_state_dict(
        checkpointing._generate_model_state_dict(model, {}), lora
    )
    loaded = dist_checkpointing.load(wanted, str(folder))["model"]
    tensors = {name: value for name, value in loaded.items() if hasattr(value, "shape")}
    unexpected = model[0].load_state_dict(tensors, strict=False).unexpected_keys
    if unexpected or not tensors:
        raise RuntimeError(f"{folder} does not fit the base: {', '.join(unexpected[:5]) or 'it holds no adapter'}")
    return len(tensors)


if __name__ == "__main__":
    slipway_step.run(main)

"""Converts a checkpoint with Megatron-Bridge: Hugging Face to Megatron, or back.

Several processes share the model by tensor and pipeline parallelism, so that it fits where one device is too small.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import slipway_inputs
import slipway_megatron
import slipway_step
from slipway_step import ConfigError

SIZES = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_model_parallel_size")


def main() -> None:
    config = slipway_step.merge_config(slipway_step.load_plan()["config"])
    output = Path(config["output"]["path"])
    slipway_megatron.lead_process_group()
    convert, wanted = ("to_megatron", "to_hugging_face"), config["convert"]["direction"]
    if wanted not in convert:
        raise ConfigError(f"convert.direction: {wanted!r} is none of {', '.join(convert)}")
    sizes = parallel_sizes(config["convert"], int(os.environ["WORLD_SIZE"]))
    dtype = slipway_inputs.dtype_of(config, "convert")
    source = slipway_inputs.path_of(config, "model.path")
    if wanted == "to_megatron":
        model = hugging_face(source, "model.path")
    else:
        source = slipway_megatron.iteration_folder(source, "model.path")
        model = hugging_face(slipway_inputs.path_of(config, "architecture.path"), "architecture.path")
    if slipway_step.rank() == 0:
        slipway_inputs.refuse_filled(output, "output.path")
    with slipway_step.config_file(config):
        pass
    slipway_megatron.start_process_group()
    if wanted == "to_megatron":
        made = to_megatron(model, output, sizes, dtype)
    else:
        made = to_hugging_face(source, model, output, sizes)
    finish({**made, "parallel": sizes})


def parallel_sizes(convert: dict[str, Any], world: int) -> dict[str, int]:
    """The model-parallel sizes; an unset tensor size takes every process that pipeline parallelism leaves.

    Raises ConfigError where they do not fit the number of processes.
    """
    sizes = {name: convert.get(name) or 1 for name in SIZES}
    tensor, pipeline, expert = SIZES
    if not convert.get(tensor):
        sizes[tensor] = max(1, world // sizes[pipeline])
    if world % (sizes[tensor] * sizes[pipeline]):
        raise ConfigError(
            f"convert.{tensor}={sizes[tensor]} times convert.{pipeline}={sizes[pipeline]} does not divide the "
            f"{world} processes"
        )
    if world % (sizes[expert] * sizes[pipeline]):
        raise ConfigError(f"convert.{expert}={sizes[expert]} does not divide the {world} processes")
    return sizes


def hugging_face(folder: Path, key: str) -> Path:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{key}: {folder} is no Hugging Face model: it has no config.json")
    return folder


def to_megatron(model: Path, output: Path, sizes: dict[str, int], dtype: str | None) -> dict[str, Any]:
    """ROOT/iter_0000000 with the model's weights and its tokenizer."""
    import torch
    from megatron.bridge import AutoBridge

    bridge = AutoBridge.from_hf_pretrained(str(model), **({"torch_dtype": getattr(torch, dtype)} if dtype else {}))
    provider = bridge.to_megatron_provider(load_weights=True)
    if dtype:
        provider.params_dtype = getattr(torch, dtype)
    use_parallel(provider, sizes)
    built = provider.provide_distributed_model(wrap_with_ddp=False)
    bridge.save_megatron_model(built, str(output), hf_tokenizer_path=str(model))
    torch.distributed.barrier()  # all look for what the first has written
    folder = slipway_megatron.iteration_folder(output, "output.path")
    return {"type": "checkpoint_megatron", "checkpoint": str(output), "iteration": folder.name}


def to_hugging_face(source: Path, model: Path, output: Path, sizes: dict[str, int]) -> dict[str, Any]:
    """A Hugging Face folder with the weights of `source`, and configuration and tokenizer of `model`."""
    from megatron.bridge import AutoBridge

    bridge = AutoBridge.from_hf_pretrained(str(model))
    provider = bridge.to_megatron_provider(load_weights=False)
    use_parallel(provider, sizes)
    overrides = {**sizes, "pipeline_dtype": provider.params_dtype}
    built = bridge.load_megatron_model(str(source), mp_overrides=overrides, wrap_with_ddp=False)
    bridge.save_hf_pretrained(built, str(output), show_progress=False)
    return {"type": "checkpoint_hf", "checkpoint": str(output), "iteration": source.name}


def use_parallel(provider: Any, sizes: dict[str, int]) -> None:
    """Gives the processes their parts of the model that `provider` describes."""
    for name, size in sizes.items():
        setattr(provider, name, size)
    provider.pipeline_dtype = provider.params_dtype
    provider.finalize()
    provider.initialize_model_parallel(seed=0)


def finish(made: dict[str, Any]) -> None:
    import torch

    torch.distributed.barrier()
    if slipway_step.rank() == 0:
        slipway_step.write_result(made)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":  # the processes that write a checkpoint import this file again
    slipway_step.run(main)

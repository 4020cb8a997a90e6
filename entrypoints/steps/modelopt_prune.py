"""Prunes a Llama-like model in width and depth: importance by Model Optimizer's hooks, slicing by this program.

It is not Minitron: that search, and its slicing, need Megatron-Core on CUDA devices. Width is the feed-forward layers'
alone, by the importance of their channels; depth leaves out the layers that change their input least.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import modelopt_common as common
import slipway_step
from slipway_step import ConfigError

METHOD = "importance hooks with slicing of our own, not Minitron"


def main() -> None:
    common.quiet()
    if (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ConfigError(f"--procs: {processes} processes; on CPU one prunes the model")
    config = slipway_step.merge_config(slipway_step.load_plan()["config"])
    output, source = Path(config["output"]["path"]), common.hugging_face(config, "model.path")
    width, depth = targets(config)
    common.refuse_filled(output, "output.path")
    common.keep_config(config)
    model, tokenizer = common.load(source, common.dtype_of(config, "prune"))
    refuse_misfit(model, width, depth)
    print(f"method: {METHOD}", flush=True)
    calibration = common.calibration(config, source, model, tokenizer)
    before = facts(model, calibration)
    kept = leave_out_layers(model, calibration.batches, depth) if depth else None
    if width:
        narrow(model, calibration.batches, width)
    after = facts(model, calibration)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    print(f"parameters {before[0]:,} -> {after[0]:,}, loss {before[1]:.4f} -> {after[1]:.4f}", flush=True)
    made: dict[str, Any] = {"type": "checkpoint_hf", "checkpoint": str(output), "method": METHOD, "layers_kept": kept}
    made |= {"parameters_before": before[0], "parameters": after[0], "loss_before": before[1], "loss": after[1]}
    slipway_step.write_result({**made, "calibration": calibration.source})


def targets(config: dict[str, Any]) -> tuple[int | None, int | None]:
    """Feed-forward width and number of layers to keep. Raises ConfigError where neither is set, or something else."""
    keys = ("ffn_hidden_size", "num_layers")
    if more := sorted(k for k, v in config["prune"].items() if v is not None and k not in (*keys, "dtype")):
        raise ConfigError(f"prune.{more[0]}: cannot be cut on CPU, only {' and '.join(keys)} can: Minitron needs CUDA")
    asked = [common.number(config, f"prune.{k}") if config["prune"].get(k) is not None else None for k in keys]
    if not any(asked):
        raise ConfigError("prune: neither prune.ffn_hidden_size nor prune.num_layers is set; there is nothing to prune")
    return asked[0], asked[1]


def refuse_misfit(model: Any, width: int | None, depth: int | None) -> None:
    """Raises ConfigError for a model of another build, and for a target that is no less than what there is."""
    layers = getattr(getattr(model, "model", None), "layers", [])
    names = ("gate_proj", "up_proj", "down_proj")
    if not layers or any(not hasattr(getattr(layer, "mlp", None), n) for layer in layers for n in names):
        raise ConfigError(f"model.path: {type(model).__name__} has no model.layers.*.mlp with {', '.join(names)}")
    for key, target, there in (
        ("ffn_hidden_size", width, layers[0].mlp.down_proj.in_features), ("num_layers", depth, len(layers)),
    ):  # fmt: skip
        if target and target >= there:
            raise ConfigError(f"prune.{key}: {target} is not below the model's {there}")


def facts(model: Any, calibration: common.Calibration) -> tuple[int, float]:
    return sum(p.numel() for p in model.parameters()), common.mean_loss(model, calibration.batches)


def leave_out_layers(model: Any, batches: list[Any], depth: int) -> list[int]:
    """Keeps the `depth` layers that change their input most (1 - cosine, averaged); returns their numbers."""
    import torch

    influence = [0.0] * len(model.model.layers)

    def hook(place: int) -> Any:
        def look(_: Any, args: Any, options: Any, output: Any) -> None:
            before = args[0] if args else options["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            influence[place] += 1 - torch.cosine_similarity(before.float(), after.float(), dim=-1).mean().item()

        return look

    handles = [m.register_forward_hook(hook(i), with_kwargs=True) for i, m in enumerate(model.model.layers)]
    common.mean_loss(model, batches)
    for handle in handles:
        handle.remove()
    kept = sorted(sorted(range(len(influence)), key=lambda i: -influence[i])[:depth])
    print(f"layers kept: {kept}; influence {[round(v / len(batches), 4) for v in influence]}", flush=True)
    model.model.layers = torch.nn.ModuleList(model.model.layers[i] for i in kept)
    for place, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = place
    model.config.num_hidden_layers = depth
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[i] for i in kept]
    return kept


def narrow(model: Any, batches: list[Any], width: int) -> None:
    """Keeps the `width` channels of every feed-forward layer that contribute most to its output."""
    import torch
    from modelopt.torch.prune.importance_hooks import IndependentChannelContributionHook

    hooks = [(m.mlp, IndependentChannelContributionHook(m.mlp.down_proj)) for m in model.model.layers]
    handles = [mlp.down_proj.register_forward_hook(hook) for mlp, hook in hooks]
    common.mean_loss(model, batches)
    for handle in handles:
        handle.remove()
    for mlp, hook in hooks:
        channels = hook.accumulate().topk(width).indices.sort().values
        for linear, dimension in ((mlp.gate_proj, 0), (mlp.up_proj, 0), (mlp.down_proj, 1)):
            linear.weight = torch.nn.Parameter(linear.weight.data.index_select(dimension, channels).clone())
            if dimension == 0 and linear.bias is not None:
                linear.bias = torch.nn.Parameter(linear.bias.data[channels].clone())
        mlp.gate_proj.out_features = mlp.up_proj.out_features = mlp.down_proj.in_features = width
    model.config.intermediate_size = width


if __name__ == "__main__":
    slipway_step.run(main)

"""Rehearses a pruning: the sizes against the real model's own, every row of the calibration, then a small model's cut.

The small model is cut to half, by what the step does on a CPU. Minitron needs CUDA: what it is told is checked by the
rules of its script, and it does not run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import modelopt_common as common
import modelopt_minitron
import modelopt_prune
import modelopt_rehearse
import slipway_step
from slipway_rehearsal import Steps
from slipway_step import ConfigError

# What can be cut, as the script calls it -> as a model's config.json does.
NAMES = {
    "hidden_size": ("hidden_size",),
    "ffn_hidden_size": ("intermediate_size",),
    "num_attention_heads": ("num_attention_heads",),
    "num_layers": ("num_hidden_layers",),
    "moe_ffn_hidden_size": ("moe_intermediate_size",),
    "num_moe_experts": ("num_experts", "num_local_experts", "n_routed_experts"),
    "mamba_num_heads": ("mamba_num_heads",),
    "mamba_head_dim": ("mamba_head_dim",),
}


def main() -> None:
    config = modelopt_rehearse.begin()
    source = common.hugging_face(config, "model.path")
    minitron = config["prune"].pop("run") == "cuda"
    if minitron:
        wanted = modelopt_minitron.targets(config)
    else:
        width, depth = modelopt_prune.targets(config)
        wanted = {name: size for name, size in (("ffn_hidden_size", width), ("num_layers", depth)) if size}
    refuse_larger(source, wanted)
    cut = [name for name in ("ffn_hidden_size", "num_layers") if name in wanted]

    def take(steps: Steps, model: Any, _: Any, calibration: common.Calibration) -> None:
        modelopt_prune.refuse_misfit(model, None, None)
        before = modelopt_prune.facts(model, calibration)
        layers, channels = len(model.model.layers), model.model.layers[0].mlp.down_proj.in_features
        if "num_layers" in cut and layers > 1:
            modelopt_prune.leave_out_layers(model, calibration.batches, layers // 2)
        if "ffn_hidden_size" in cut:
            modelopt_prune.narrow(model, calibration.batches, channels // 2)
        after = modelopt_prune.facts(model, calibration)
        counted = f"weights {before[0]:,} -> {after[0]:,}, loss {before[1]:.3f} -> {after[1]:.3f}"
        steps.did.append(f"{' and '.join(cut)} cut to half, by {modelopt_prune.METHOD}: {counted}")

    none = "" if cut else f"{', '.join(wanted)}: only Minitron cuts them, which needs CUDA"
    dtype = None if minitron else common.dtype_of(config, "prune")
    modelopt_rehearse.calibrated(config, source, dtype, none, take)


def refuse_larger(source: Path, wanted: dict[str, int]) -> None:
    """Raises ConfigError for a size that is more than what the real model has."""
    text = json.loads((source / "config.json").read_text(encoding="utf-8"))
    text = text.get("text_config") or text
    for name, size in wanted.items():
        there = next((text[key] for key in NAMES.get(name, ()) if isinstance(text.get(key), int)), None)
        if there is not None and size > there:
            raise ConfigError(f"prune.{name}: {size} is more than the model's {there}")


if __name__ == "__main__":
    slipway_step.run(main)

"""Quantizes a Hugging Face model after its training with Model Optimizer, and exports it for inference engines."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import modelopt_common as common
import slipway_step
from slipway_step import ConfigError


class Format(NamedTuple):
    """`config`: the library's; `group`: input features of a layer that share a scale, so it has to divide them."""

    config: str
    group: int = 1
    cuda: bool = False  # calibration runs kernels that are for CUDA alone


FORMATS = {
    "fp8": Format("FP8_DEFAULT_CFG"),
    "fp8_pc_pt": Format("FP8_PER_CHANNEL_PER_TOKEN_CFG"),
    "fp8_pb_wo": Format("FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG"),
    "int8": Format("INT8_DEFAULT_CFG"),
    "int8_sq": Format("INT8_SMOOTHQUANT_CFG"),
    "int8_wo": Format("INT8_WEIGHT_ONLY_CFG"),
    "int4_awq": Format("INT4_AWQ_CFG", 128),
    "w4a8_awq": Format("W4A8_AWQ_BETA_CFG", 128),
    "nvfp4": Format("NVFP4_DEFAULT_CFG", 16),
    "nvfp4_awq": Format("NVFP4_AWQ_LITE_CFG", 16, cuda=True),
    "nvfp4_mlp_only": Format("NVFP4_MLP_ONLY_CFG", 16),
    "w4a16_nvfp4": Format("W4A16_NVFP4_CFG", 16),
    "w4a8_nvfp4_fp8": Format("W4A8_NVFP4_FP8_CFG", 32),
    "mxfp4": Format("MXFP4_DEFAULT_CFG", 32),
    "mxfp8": Format("MXFP8_DEFAULT_CFG", 32),
    "w4a8_mxfp4_fp8": Format("W4A8_MXFP4_FP8_CFG", 32),
}
UNTOUCHED = re.compile(r"lm_head|embed|router|(^|\.)gate$")  # what the library's own configurations leave out


def main() -> None:
    common.quiet()
    config = slipway_step.merge_config(slipway_step.load_plan()["config"])
    output, source = Path(config["output"]["path"]), common.hugging_face(config, "model.path")
    name = config["quantize"].get("format")
    chosen = format_of(name)
    refuse_uneven(source, name, chosen.group)
    dtype = common.dtype_of(config, "quantize")
    common.refuse_filled(output, "output.path")
    common.keep_config(config)
    recipe = library_config(name, chosen)
    model, tokenizer = common.load(source, dtype)
    calibration = common.calibration(config, source, model, tokenizer)
    layers = quantize(model, recipe, calibration)
    made = {"type": "checkpoint_hf", "checkpoint": str(output), "format": name, "quantized_layers": layers}
    made |= {"algorithm": export(model, tokenizer, output), "calibration": calibration.source}
    slipway_step.write_result({**made, "calibration_samples": len(calibration.batches)})


def format_of(name: Any) -> Format:
    if name not in FORMATS:
        raise ConfigError(f"quantize.format: {name!r} is none of {', '.join(FORMATS)}")
    return FORMATS[name]


def refuse_uneven(source: Path, name: str, group: int) -> None:
    """Raises ConfigError for the first layer whose input features cannot be cut into groups: packing would fail."""
    for layer, (_, features) in common.matrices(source):
        if features % group and not UNTOUCHED.search(layer):
            raise ConfigError(
                f"quantize.format: {name} takes groups of {group} input features, and {layer} has {features}, "
                f"which is no multiple of {group}"
            )


def library_config(name: str, chosen: Format) -> Any:
    """The library's configuration of a format. Raises ConfigError where this release or machine cannot do it."""
    import modelopt
    import modelopt.torch.quantization as mtq
    import torch

    if not hasattr(mtq, chosen.config):
        raise ConfigError(f"quantize.format: Model Optimizer {modelopt.__version__} has no {chosen.config} for {name}")
    if chosen.cuda and not torch.cuda.is_available():
        raise ConfigError(f"quantize.format: {name} is calibrated by CUDA kernels, and there is no CUDA device")
    return copy.deepcopy(getattr(mtq, chosen.config))


def quantize(model: Any, recipe: Any, calibration: common.Calibration) -> int:
    """Calibrates `model` in place; returns the number of layers whose weights will be quantized."""
    import modelopt.torch.quantization as mtq
    import torch

    def run(model: Any) -> None:
        with torch.no_grad():
            for ids in calibration.batches:
                model(input_ids=ids)

    mtq.quantize(model, recipe, run)
    enabled = [m for m in model.modules() if getattr(getattr(m, "weight_quantizer", None), "is_enabled", False)]
    if not enabled:
        raise ConfigError("model.path: Model Optimizer finds no layer to quantize in this model")
    return len(enabled)


def export(model: Any, tokenizer: Any, output: Path) -> str:
    """Writes packed weights, scales, configuration and tokenizer; returns the algorithm that the export names."""
    import torch
    from modelopt.torch.export import export_hf_checkpoint

    with torch.inference_mode():
        export_hf_checkpoint(model, dtype=model.dtype, export_dir=output)
    tokenizer.save_pretrained(output)
    written = json.loads((output / "hf_quant_config.json").read_text(encoding="utf-8"))
    algorithm = str(written["quantization"]["quant_algo"])
    print(f"exported as {algorithm} to {output}", flush=True)
    return algorithm


if __name__ == "__main__":
    slipway_step.run(main)

"""Reads a quantized checkpoint back without CUDA: verify.py MODEL QUANTIZED

Runs in the image. MODEL is what was quantized, QUANTIZED what came out. The weights are computed again from their
packed values and their scales, compared with MODEL's, and put into a model of transformers, whose logits are compared,
too: transformers itself loads such a checkpoint without its scales, and only warns. Exits 1 with the reason where
something does not fit.
"""

import json
import sys
from pathlib import Path

# Largest error of a matrix, and of the logits, as a part of their norm: by how coarse the format is.
LIMITS = {"FP8": (0.04, 0.08), "W8A8_SQ_PER_CHANNEL": (0.012, 0.03), "NVFP4": (0.12, 0.35)}
E2M1 = (0, 0.5, 1, 1.5, 2, 3, 4, 6)  # what three bits of a 4-bit float say; the fourth is the sign


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: verify.py MODEL QUANTIZED")
    model, quantized = Path(sys.argv[1]), Path(sys.argv[2])
    settings = json.loads((quantized / "hf_quant_config.json").read_text(encoding="utf-8"))["quantization"]
    algorithm = settings["quant_algo"]
    if algorithm not in LIMITS:
        sys.exit(f"{quantized}: no check for {algorithm}; there is one for {', '.join(LIMITS)}")
    stored = tensors(quantized)
    weights = {name: dequantize(name, stored, settings) for name in stored if is_weight(name)}
    scaled = {name for name in weights if f"{name}_scale" in stored}
    print(f"{algorithm}: {len(scaled)} matrices with scales, {len(weights) - len(scaled)} tensors without")
    compare(model, weights, scaled, *LIMITS[algorithm])


def tensors(folder: Path) -> dict:
    from safetensors.torch import load_file

    return {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}


def is_weight(name: str) -> bool:
    return not name.endswith(("_scale", "_scale_2", "_amax"))


def dequantize(name: str, stored: dict, settings: dict):
    """A tensor in fp32: its packed values times their scales."""
    import torch

    values, scale = stored[name], stored.get(f"{name}_scale")
    if scale is None:
        return values.float()
    if settings["quant_algo"] == "NVFP4":  # two values a byte; a scale for every group, and one for all
        table = torch.tensor([*E2M1, *(-v for v in E2M1)])
        pairs = torch.stack([table[(values & 15).long()], table[(values >> 4).long()]], -1).flatten(-2)
        scales = scale.float() * stored[f"{name}_scale_2"].float()
        return (pairs.unflatten(-1, (-1, settings["group_size"])) * scales[..., None]).flatten(-2)
    return values.float() * (scale.float()[:, None] if scale.dim() == 1 else scale.float())


def compare(model: Path, weights: dict, scaled: set, weight_limit: float, logit_limit: float) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    first = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    again = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    wanted = {n for n, p in first.named_parameters() if p.dim() == 2 and ".layers." in n}
    if scaled != wanted:
        sys.exit(f"other matrices are quantized than those of the layers: {', '.join(sorted(scaled ^ wanted)[:5])}")
    errors = {n: error(weights[n], p.data) for n, p in first.named_parameters() if n in scaled}
    worst = max(errors, key=errors.get)
    again.load_state_dict(weights)
    ids = torch.arange(3, 67).unsqueeze(0)
    with torch.no_grad():
        logits = error(again(input_ids=ids).logits, first(input_ids=ids).logits)
    print(f"largest error of a matrix: {errors[worst]:.4f} ({worst}); of the logits: {logits:.4f}")
    if errors[worst] > weight_limit or logits > logit_limit:
        sys.exit(f"that is more than {weight_limit} or {logit_limit}: values and scales do not belong together")
    if not min(errors.values()):
        sys.exit("a matrix has not changed at all: it was not quantized")


def error(found, wanted) -> float:
    return ((found - wanted).norm() / wanted.norm()).item()


if __name__ == "__main__":
    main()

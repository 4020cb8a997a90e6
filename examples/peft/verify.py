"""Checks a merged adapter: verify.py BASE ADAPTER MERGED

Runs in the image. Every layer that the adapter names must be base + alpha / rank x B A, every other tensor the base's
own, bit by bit; the merged model loads in transformers and answers differently. Exits 1 with the reason otherwise.
"""

import json
import sys
from pathlib import Path

LIMIT = 1e-6  # how far a weight may be off: products are summed in some order


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit("usage: verify.py BASE ADAPTER MERGED")
    base, adapter, merged = (Path(word) for word in sys.argv[1:])
    options = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    first, found = tensors(base), tensors(merged)
    wanted = first | {name: first[name] + change for name, change in changes(adapter, options).items()}
    if found.keys() != wanted.keys():
        sys.exit(f"other tensors: {', '.join(sorted(found.keys() ^ wanted.keys())[:4])}")
    off = {name: (found[name] - wanted[name]).abs().max().item() for name in wanted}
    changed = [name for name in first if not first[name].equal(found[name])]
    print(f"{len(changed)} of {len(first)} tensors have changed; largest error of a merged weight: {max(off.values())}")
    if max(off.values()) > LIMIT or sorted(changed) != sorted(changes(adapter, options)):
        sys.exit(f"{merged} is not {base} with {adapter}")
    print(f"the likeliest next token differs at {answers(base, merged)} of 117 places")


def tensors(folder: Path) -> dict:
    from safetensors.torch import load_file

    found = {name: t.float() for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}
    if not found:
        sys.exit(f"{folder}: there are no weights")
    return found


def changes(adapter: Path, options: dict) -> dict:
    """What the adapter adds to each weight of its base."""
    found = tensors(adapter)
    downs = {n.removesuffix(".lora_A.weight"): t for n, t in found.items() if n.endswith(".lora_A.weight")}
    scale = options["lora_alpha"] / options["r"]
    added = {name: scale * found[f"{name}.lora_B.weight"] @ down for name, down in downs.items()}
    return {f"{name.removeprefix('base_model.model.')}.weight": change for name, change in added.items()}


def answers(base: Path, merged: Path) -> int:
    import torch
    from transformers import AutoModelForCausalLM

    ids = torch.arange(3, 120)[None]
    with torch.no_grad():
        likeliest = [
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(input_ids=ids).logits.argmax(-1)
            for folder in (base, merged)
        ]
    differ = int((likeliest[0] != likeliest[1]).sum())
    if not differ:
        sys.exit("the merged model answers as its base does")
    return differ


if __name__ == "__main__":
    main()

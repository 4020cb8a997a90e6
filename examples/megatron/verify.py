"""Checks what run.sh has made: verify.py MODEL WORK

Runs in Megatron-Bridge's image. The conversion and back must change no bit of a weight; fine-tuning and the merged
adapter must change them; the packing must say with which tokenizer it was made. Exits 1 with the reason otherwise.
"""

import json
import sys
from pathlib import Path

from safetensors import safe_open


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: verify.py MODEL WORK")
    model, work = Path(sys.argv[1]), Path(sys.argv[2])
    record = json.loads((work / "packed" / "slipway.json").read_text())
    print(f"packed     rows of {record['pack_size']} tokens, tokenizer {record['tokenizer'][:12]}")
    first = weights(model)
    same("converted there and back", first, weights(work / "back"))
    changed("fine-tuned", first, weights(work / "tuned"))
    changed("LoRA, merged", first, weights(work / "merged"))
    for name in ("sft", "lora", "pretrained"):
        last = (work / name / "latest_checkpointed_iteration.txt").read_text().strip()
        if not any((work / name / f"iter_{int(last):07}").glob("*.distcp")):
            sys.exit(f"{work / name}: no shards of iteration {last}")
        print(f"{name:10} iteration {last}")


def weights(folder: Path) -> dict:
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as f:
            found |= {name: f.get_tensor(name).float() for name in f.keys()}  # noqa: SIM118
    if not found:
        sys.exit(f"{folder}: there are no weights")
    return found


def difference(one: dict, other: dict) -> tuple[float, int]:
    """The largest difference of a weight, and in how many tensors there is any."""
    if one.keys() != other.keys():
        sys.exit(f"other tensors: {sorted(one.keys() ^ other.keys())[:4]}")
    largest = {name: (one[name] - other[name]).abs().max().item() for name in one}
    return max(largest.values()), sum(value > 0 for value in largest.values())


def same(what: str, one: dict, other: dict) -> None:
    largest, _ = difference(one, other)
    print(f"{what}: largest difference {largest}")
    if largest:
        sys.exit(f"{what}: {largest} instead of 0")


def changed(what: str, one: dict, other: dict) -> None:
    largest, tensors = difference(one, other)
    print(f"{what}: {tensors} of {len(one)} tensors have changed, by {largest:.4f} at most")
    if not tensors:
        sys.exit(f"{what}: nothing has changed")


if __name__ == "__main__":
    main()

"""Folds a LoRA adapter in Hugging Face PEFT's layout into its base: W + scale * (B @ A), in fp32, one shard at a time.

The images of AutoModel do not carry the package `peft`; what an adapter says that this cannot do is refused.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import slipway_step
from slipway_inputs import RECORD, path_of, refuse_filled
from slipway_step import ConfigError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
INDEX = "model.safetensors.index.json"
PREFIX = "base_model.model."
PLAIN = {  # what else an adapter may say -> what it says where it is a plain LoRA
    "use_dora": False, "fan_in_fan_out": False, "bias": "none", "modules_to_save": None, "rank_pattern": {},
    "alpha_pattern": {}, "layer_replication": None, "target_parameters": None,
}  # fmt: skip


def main() -> None:
    plan = slipway_step.load_plan()
    config = slipway_step.merge_config(plan["config"])
    output = Path(config["output"]["path"])
    adapter, base = path_of(config, "adapter.path"), path_of(config, "base.path")
    scale = scale_of(read_config(adapter), adapter)
    recorded = refuse_other_base(adapter, plan["inputs"]["base"])
    shards = list(shards_of(base))
    refuse_filled(output, "output.path")
    with slipway_step.config_file(config):
        pass
    count = merge(adapter, shards, output, scale)
    copy_rest(base, output)
    made = {"type": "checkpoint_hf", "checkpoint": str(output), "merged_tensors": count, "scale": scale}
    slipway_step.write_result({**made, "base_compared": recorded})


def read_config(adapter: Path) -> dict[str, Any]:
    """The adapter's options. Raises ConfigError where the folder is no adapter in PEFT's layout."""
    missing = [n for n in (CONFIG, WEIGHTS) if not (adapter / n).is_file()]
    if missing:
        raise ConfigError(f"adapter.path: {adapter} has no {missing[0]}; for Megatron's layout: convert/merge_lora")
    return dict(json.loads((adapter / CONFIG).read_text(encoding="utf-8")))


def scale_of(options: dict[str, Any], adapter: Path) -> float:
    """What B @ A is multiplied with. Raises ConfigError for an adapter that is more than a plain LoRA."""
    where = f"adapter.path: {adapter / CONFIG}"
    if options.get("peft_type") != "LORA":
        raise ConfigError(f"{where}: peft_type is {options.get('peft_type')!r}; only LORA can be merged")
    for key, plain in PLAIN.items():
        if options.get(key, plain) not in (plain, None, [], {}):
            raise ConfigError(f"{where}: {key} is {options[key]!r}; only a plain LoRA ({key}: {plain!r}) can be merged")
    rank, alpha = options.get("r"), options.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, (int, float)):
        raise ConfigError(f"{where}: r is {rank!r} and lora_alpha {alpha!r}; expected a rank above 0 and a number")
    return alpha / (math.sqrt(rank) if options.get("use_rslora") else rank)


def refuse_other_base(adapter: Path, base: dict[str, Any]) -> bool:
    """Whether the adapter records its base, as the step that trained it does. Raises ConfigError for another base.

    An adapter from elsewhere records none that could be compared: only the shapes have to fit.
    """
    record = adapter / RECORD
    if not record.is_file():
        print(f"{adapter} does not record its base: only names and shapes are compared", flush=True)
        return False
    known = json.loads(record.read_text(encoding="utf-8"))
    if known["base"] != base["fingerprint"]:
        raise ConfigError(
            f"base.path: {base['path']} is not what the adapter was trained on: it has the fingerprint "
            f"{base['fingerprint'][:12]}, the adapter records {known['base'][:12]} ({known['base_path']})"
        )
    return True


def shards_of(base: Path) -> Iterator[Path]:
    """The base's weight files. Raises ConfigError where it has none."""
    found = sorted(base.glob("*.safetensors"))
    if (base / INDEX).is_file():
        index = json.loads((base / INDEX).read_text(encoding="utf-8"))
        found = [base / name for name in sorted(set(index["weight_map"].values()))]
    if not found:
        raise ConfigError(f"base.path: {base} has no *.safetensors weights")
    yield from found


def merge(adapter: Path, shards: list[Path], output: Path, scale: float) -> int:
    """Writes the merged shards under their own names; returns the number of tensors that the adapter changed.

    Raises ConfigError, before anything is written, for a tensor of the adapter that fits none of the base.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    pairs = pairs_of(load_file(adapter / WEIGHTS))
    shapes = {}
    for path in shards:
        with safe_open(path, framework="pt") as file:
            shapes.update({name: tuple(file.get_slice(name).get_shape()) for name in file.keys()})  # noqa: SIM118
    for name, (a, b) in pairs.items():
        if shapes.get(name) != (b.shape[0], a.shape[1]):
            fits = f"{b.shape[0]} x {a.shape[1]}, the base's is {shapes.get(name, 'not there')}"
            raise ConfigError(f"adapter.path: {adapter} does not fit the base: it changes {name} as {fits}")
    output.mkdir(parents=True, exist_ok=True)
    for path in shards:
        tensors = load_file(path)
        for name in tensors.keys() & pairs.keys():
            a, b = pairs[name]
            merged = tensors[name].float() + scale * (b.float() @ a.float())
            tensors[name] = merged.to(tensors[name].dtype)
        save_file(tensors, output / path.name, metadata={"format": "pt"})
        print(f"{path.name}: {len(tensors.keys() & pairs.keys())} of {len(tensors)} tensors merged", flush=True)
    return len(pairs)


def pairs_of(tensors: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Name of the base's weight -> A and B. Raises ConfigError for a tensor that is neither, or has no partner."""
    halves: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        module, dot, half = name.removeprefix(PREFIX).rpartition(".lora_")
        if not dot or half not in ("A.weight", "B.weight") or not name.startswith(PREFIX):
            raise ConfigError(f"adapter.path: {WEIGHTS} holds {name}, which is no {PREFIX}….lora_A or lora_B weight")
        halves.setdefault(f"{module}.weight", {})[half] = tensor
    alone = next((name for name, found in halves.items() if len(found) < 2), None)
    if alone or not halves:
        raise ConfigError(f"adapter.path: {WEIGHTS} holds {f'one half of {alone} alone' if alone else 'no tensors'}")
    return {name: (found["A.weight"], found["B.weight"]) for name, found in halves.items()}


def copy_rest(base: Path, output: Path) -> None:
    """Configuration, tokenizer and index as they are: names, shapes and types of the weights are the base's."""
    for path in base.iterdir():
        if path.is_file() and path.suffix not in (".safetensors", ".bin", ".pt"):
            shutil.copyfile(path, output / path.name)  # the content alone: modes and times are of another place


if __name__ == "__main__":
    slipway_step.run(main)

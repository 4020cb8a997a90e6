"""Makes a Hugging Face checkpoint of NeMo RL's, by the converter in its repository that reads what is inside.

It adds: the last step is found, the model's path is the one of this run (the checkpoint names that of the run that
wrote it), weights become safetensors, and the output is filled only when all is there.
"""

from __future__ import annotations

import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import slipway_step


def main() -> None:
    config = slipway_step.merge_config(slipway_step.load_plan()["config"])
    step = last_step(Path(config["input"]["path"]))
    weights = step / "policy" / "weights"
    output = Path(config["output"]["path"])
    part = output / ".converting"
    shutil.rmtree(part, ignore_errors=True)
    consolidated = weights / "model" / "consolidated"
    if (consolidated / "config.json").is_file():
        shutil.copytree(consolidated, part)
    else:
        convert(config, step, weights, part)
    to_safetensors(part, config["output"]["shard_size"])
    shutil.copytree(step / "policy" / "tokenizer", part, dirs_exist_ok=True)
    for path in part.iterdir():
        shutil.move(path, output / path.name)
    part.rmdir()
    made = {"checkpoint": str(output), "type": "checkpoint_hf", "step": step.name}
    slipway_step.write_result(made)


def last_step(path: Path) -> Path:
    """The step_N folder with the highest number, or the path itself where it is one. Raises ConfigError."""
    steps = {int(m[1]): p for p in path.glob("step_*") if (m := re.fullmatch(r"step_(\d+)", p.name))}
    step = steps[max(steps)] if steps else path
    if not (step / "config.yaml").is_file():
        raise slipway_step.ConfigError(f"{step}: no checkpoint of NeMo RL: config.yaml is missing")
    return step


def convert(config: dict[str, Any], step: Path, weights: Path, target: Path) -> None:
    """Runs the converter. Raises ConfigError for weights that none of them reads."""
    iterations = sorted(weights.glob("iter_*"))
    if not iterations and not any((p / ".metadata").is_file() for p in (weights, weights / "model")):
        raise slipway_step.ConfigError(
            f"{weights}: sharded safetensors, which NeMo RL's converters do not read; train with "
            "checkpointing.save_consolidated=true, or checkpointing.model_save_format=torch_save"
        )
    if iterations:  # its converter imports Megatron-Bridge, which is in the environment of Megatron's workers alone
        slipway_step.continue_with(config["interpreter"], "Megatron's workers")
    script = Path(config["scripts"]["megatron" if iterations else "dcp"])
    source = ["--megatron-ckpt-path", str(iterations[-1])] if iterations else ["--dcp-ckpt-path", str(weights)]
    with slipway_step.config_file(run_config(step, config["input"]["config"])) as path:
        sys.argv = [str(script), "--config", str(path), *source, "--hf-ckpt-path", str(target)]
        runpy.run_path(str(script), run_name="__main__")


def run_config(step: Path, model: str) -> dict[str, Any]:
    """The checkpoint's configuration with the model where it is now."""
    import yaml

    config = dict(yaml.safe_load((step / "config.yaml").read_text(encoding="utf-8")))
    config["policy"]["model_name"] = model
    tokenizer = step / "policy" / "tokenizer"
    config["policy"]["tokenizer"]["name"] = str(tokenizer) if tokenizer.is_dir() else model
    return config


def to_safetensors(folder: Path, shard_size: str) -> None:
    """pytorch_model.bin, which older tools read, as safetensors with an index."""
    old = folder / "pytorch_model.bin"
    if not old.is_file():
        return
    import torch
    from huggingface_hub import save_torch_state_dict

    weights = torch.load(old, map_location="cpu", weights_only=True)
    save_torch_state_dict(weights, folder, max_shard_size=shard_size)
    old.unlink()


if __name__ == "__main__":
    slipway_step.run(main)

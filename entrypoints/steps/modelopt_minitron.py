"""Prunes a model with Minitron, by Model Optimizer's own script in the image's copy of its repository.

The script ranks channels, heads and layers by what they contribute on calibration data, cuts the model to the sizes
that are named, and writes it as Hugging Face does. It splits the model over its processes by layers alone. Read at
0.44.0 and 0.46.0: both take a JSONL file with `text`, which is made here of the conversations, so that nothing is asked
of the hub.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any

import modelopt_common as common
import slipway_megatron
import slipway_step
from slipway_step import ConfigError

SCRIPT = "examples/megatron_bridge/prune_minitron.py"
# Its names of what can be cut -> what a target has to be a multiple of, where the sizes are named and not searched.
SIZES = {
    "hidden_size": 64, "ffn_hidden_size": 64, "num_attention_heads": 1, "mamba_num_heads": 1, "mamba_head_dim": 8,
    "moe_ffn_hidden_size": 64, "moe_shared_expert_intermediate_size": 64, "num_moe_experts": 8, "num_layers": 1,
}  # fmt: skip


def main() -> None:
    common.quiet()
    plan = slipway_step.load_plan()
    config = slipway_step.merge_config(plan["config"])
    output, source = Path(config["output"]["path"]), common.hugging_face(config, "model.path")
    repository = Path(plan["repositories"]["modelopt"]["path"])
    wanted = targets(config)
    if slipway_step.rank() == 0:
        common.refuse_filled(output, "output.path")
    with slipway_step.config_file(config):
        pass
    with tempfile.TemporaryDirectory(prefix="slipway-calibration-") as folder:
        rows = calibration_file(config, source, Path(folder, "calibration.jsonl"))
        slipway_megatron.lead_process_group()
        run_script(repository, arguments(config, source, output, wanted, rows))
    if slipway_step.rank() == 0:
        made = {"type": "checkpoint_hf", "checkpoint": str(output), "method": "Minitron", "sizes": wanted}
        slipway_step.write_result({**made, "calibration": "chat_jsonl"})


def targets(config: dict[str, Any]) -> dict[str, int]:
    """The sizes to cut to, by the script's names. Raises ConfigError for none, an unknown one, or an uneven one."""
    asked = {key: value for key, value in config["prune"].items() if value is not None}
    for key in asked:
        if key not in SIZES:
            raise ConfigError(f"prune.{key}: Minitron cuts no such thing; expected one of {', '.join(SIZES)}")
        if common.number(config, f"prune.{key}") % SIZES[key]:
            raise ConfigError(f"prune.{key}: {asked[key]} is not a multiple of {SIZES[key]}")
    if not asked:
        raise ConfigError(f"prune: no size is set; there is nothing to prune. Set one of {', '.join(SIZES)}")
    return asked


def calibration_file(config: dict[str, Any], source: Path, target: Path) -> Path:
    """The conversations as lines with `text`, as the chat template writes each; every process has a file of its own."""
    from transformers import AutoTokenizer

    samples = common.number(config, "calibration.samples")
    conversations = common.path_of(config, "calibration.path")
    common.refuse_without_template(source, "model.path")
    tokenizer, taken = AutoTokenizer.from_pretrained(source), 0
    with target.open("w", encoding="utf-8") as out:
        for messages in common.conversations(conversations, "calibration.path"):
            if taken == samples:
                break
            taken += 1
            text = tokenizer.apply_chat_template(messages, tokenize=False)
            out.write(json.dumps({"text": text}, ensure_ascii=True) + "\n")
    if not taken:
        raise ConfigError(f"calibration.path: {conversations} holds no conversations")
    return target


def arguments(config: dict[str, Any], source: Path, output: Path, wanted: dict[str, int], rows: Path) -> list[str]:
    """What the script is told."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    words = ["--hf_model_name_or_path", str(source), "--output_hf_path", str(output), "--pp_size", str(world)]
    words += ["--prune_export_config", json.dumps(wanted, sort_keys=True), "--calib_dataset_name", str(rows)]
    words += ["--calib_num_samples", str(common.number(config, "calibration.samples"))]
    words += ["--seq_length", str(common.number(config, "calibration.seq_length", 2))]
    return words + uneven_stages(source, world)


def uneven_stages(source: Path, world: int) -> list[str]:
    """Layers of the first and last process where their number is no multiple: the others get as many each.

    Raises ConfigError where there are more processes than layers.
    """
    text = json.loads((source / "config.json").read_text(encoding="utf-8"))
    layers = text.get("text_config", text)["num_hidden_layers"]
    if world > layers:
        raise ConfigError(f"--gpus: {world} processes share the model by layers, and it has {layers}")
    if layers % world == 0:
        return []
    if world == 2:
        first, last = layers - layers // 2, layers // 2
    else:
        middle = -(-layers // world)
        while layers - middle * (world - 2) < 2:
            middle -= 1
        rest = layers - middle * (world - 2)
        first, last = rest - rest // 2, rest // 2
    return ["--num_layers_in_first_pipeline_stage", str(first), "--num_layers_in_last_pipeline_stage", str(last)]


def run_script(repository: Path, words: list[str]) -> None:
    """Runs it with its own repository's modelopt, as its README asks: examples are written for that one."""
    script = repository / SCRIPT
    if not script.is_file():
        raise ConfigError(f"{script}: the image's copy of Model Optimizer has no such script")
    sys.path.insert(0, str(repository))
    sys.argv = [str(script), *words]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    slipway_step.run(main)

"""Pretrains with NeMo AutoModel on tokenized documents (.bin and .idx), by the recipe that fine-tuning runs.

It adds: a folder of documents as one input, the model's configuration with or without its weights, a validation on the
documents that the split leaves for it, and indices of samples where the library could not compile its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import automodel_finetune
import automodel_indices
import slipway_documents
import slipway_inputs
import slipway_step
from slipway_step import ConfigError

DATASET = "nemo_automodel.components.datasets.llm.megatron_dataset.MegatronPretraining"
MODEL = "nemo_automodel.NeMoAutoModelForCausalLM"
TOKENIZER = "nemo_automodel._transformers.auto_tokenizer.NeMoAutoTokenizer.from_pretrained"
START = ("random", "weights")


def main() -> None:
    automodel_finetune.quiet()
    plan = slipway_step.load_plan()
    config = prepare(slipway_step.merge_config(plan["config"]), automodel_finetune.release())
    automodel_indices.install()
    automodel_finetune.train(config, plan["inputs"]["model"])


def prepare(config: dict[str, Any], release: tuple[int, int]) -> dict[str, Any]:
    """The library's sections, with model and documents wired. Raises ConfigError for what cannot be trained."""
    sections = {k: v for k, v in config.items() if k not in ("data", "pretrain")}
    folder = slipway_inputs.path_of(config, "model.pretrained_model_name_or_path")
    source = slipway_inputs.path_of(config, "data.train")
    slipway_documents.refuse_other_tokenizer(source, folder, "model.pretrained_model_name_or_path")
    paths, validates = documents(source, str(config["dataset"]["split"]))
    sections["model"] = model(config["model"], folder, config["pretrain"]["start"])
    if release < (0, 3):  # which else loads the weights of whatever the model's section names, its configuration, too
        weights = config["pretrain"]["start"] == "weights"
        sections["checkpoint"] = {**sections["checkpoint"], "load_base_model": weights}
    wire_documents(sections, paths, folder)
    return sections if validates else {k: v for k, v in sections.items() if not k.startswith("validation_data")}


def documents(source: Path, split: str) -> tuple[Any, bool]:
    """What the library's data set gets as `paths`, and whether something is left to validate on.

    By blend.json each split has documents of its own; else `split` cuts them out of all. Raises ConfigError for a split
    that no document is left for.
    """
    if blend := slipway_documents.blend_of(source):
        named = {"train": "training", "validation": "validation"}
        return {k: slipway_documents.flat(*blend[v]) for k, v in named.items() if v in blend}, "validation" in blend
    prefixes = slipway_documents.prefixes(source)
    slipway_documents.refuse_empty_split(prefixes, split)
    parts = slipway_documents.shares(split)
    return prefixes, len(parts) > 1 and bool(parts[1])


def model(options: dict[str, Any], folder: Path, start: str) -> dict[str, Any]:
    """The model's section: its weights, or new ones of its shape. Raises ConfigError for another word."""
    if start not in START:
        raise ConfigError(f"pretrain.start: {start!r} is none of {', '.join(START)}")
    named = {"pretrained_model_name_or_path": str(folder)}
    rest = {k: v for k, v in options.items() if k not in ("_target_", "config", *named)}
    if start == "weights":
        return {"_target_": f"{MODEL}.from_pretrained", **named, **rest}
    config = {"_target_": "transformers.AutoConfig.from_pretrained", **named}
    return {"_target_": f"{MODEL}.from_config", "config": config, **rest}


def wire_documents(sections: dict[str, Any], paths: Any, tokenizer: Path) -> None:
    """Both splits get the same `paths`; the indices go where the run may write."""
    indices = slipway_step.STATE / "data"
    wired = {
        "_target_": DATASET,
        "paths": paths,
        "index_mapping_dir": str(indices),
        "tokenizer": {"_target_": TOKENIZER, "pretrained_model_name_or_path": str(tokenizer)},
    }
    training, own = sections["dataset"], sections.get("validation_dataset") or {}
    sections["dataset"] = {**training, **wired, "splits_to_build": "train"}
    same = {k: training[k] for k in ("seq_length", "seed", "split") if k in training}
    rest = {k: v for k, v in own.items() if k not in same}
    sections["validation_dataset"] = {**same, **rest, **wired, "splits_to_build": "validation"}


if __name__ == "__main__":
    slipway_step.run(main)

"""Rehearses a pretraining with NeMo AutoModel: every document by the library's own reader, then steps of a small model.

The steps are automodel_pretrain's, on the documents themselves, with the configuration as it was planned.
"""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path
from typing import Any

import automodel_finetune
import automodel_indices
import automodel_pretrain
import automodel_rehearse
import slipway_documents
import slipway_inputs
import slipway_rehearsal
import slipway_small
import slipway_step


def documents(prefixes: list[str], tokenizer: Path) -> slipway_rehearsal.Documents:
    """By AutoModel's own reader."""
    from nemo_automodel.components.datasets.llm.megatron.indexed_dataset import IndexedDataset
    from transformers import AutoTokenizer

    files = [IndexedDataset(prefix) for prefix in prefixes]
    return slipway_rehearsal.Documents(prefixes, files, AutoTokenizer.from_pretrained(tokenizer))


def main() -> None:
    automodel_finetune.quiet()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # rows are shared among processes already
    plan = slipway_step.load_plan()
    config = slipway_step.merge_config(plan["config"])
    source = slipway_inputs.path_of(config, "model.pretrained_model_name_or_path")
    prefixes = slipway_documents.prefixes(slipway_inputs.path_of(config, "data.train"))
    automodel_pretrain.prepare(copy.deepcopy(config), automodel_finetune.release())  # refuses what the step does
    known, told = slipway_small.vocabulary(source), {}
    told["data"] = slipway_rehearsal.examine("data", documents(prefixes, source), known)[1]
    most = automodel_rehearse.LOGITS // (automodel_rehearse.LOGIT_BYTES * max(known, 1))
    config["dataset"]["seq_length"] = min(config["dataset"]["seq_length"], most)
    with tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=slipway_step.OUTPUT) as name:
        steps = automodel_rehearse.take(config, source, plan["inputs"]["model"], Path(name), train)
    slipway_rehearsal.leave(told, steps)


def train(config: dict[str, Any], model: dict[str, Any]) -> None:
    """As automodel_pretrain does."""
    automodel_indices.install()
    automodel_finetune.train(automodel_pretrain.prepare(config, automodel_finetune.release()), model)


if __name__ == "__main__":
    slipway_step.run(main)

"""Trains with Megatron-Bridge: pretraining, fine-tuning and LoRA, by the library's own pretrain() and finetune().

The configuration is the library's ConfigContainer, section by section, with a section `data` of ours. The program adds:
data as files instead of the library's folders, the refusal of another tokenizer than the data was packed with, of an
output that would be overwritten and of keys that the library does not know, and result.json, whose checkpoint is there.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import slipway_documents
import slipway_inputs
import slipway_megatron
import slipway_step
from slipway_step import ConfigError

BRIDGE = "megatron.bridge"
PARQUET = (".parquet", ".pq")
BEFORE_0_6 = f"{BRIDGE}.training.config.FinetuningDatasetConfig"  # the dataset of fine-tuning at 0.4 and 0.5


def main() -> None:
    config = slipway_step.merge_config(slipway_step.load_plan()["config"])
    slipway_megatron.lead_process_group()
    prepared = prepare(config)
    with slipway_step.config_file(prepared):
        pass
    container = build(prepared)
    losses = train(container)
    if slipway_step.rank() == 0:
        slipway_step.write_result(result(container, losses))


def prepare(config: dict[str, Any]) -> dict[str, Any]:
    """The library's sections, with data and checkpoints wired. Raises ConfigError for what cannot be trained."""
    sections = {k: dict(v) if isinstance(v, dict) else v for k, v in config.items() if k not in ("data", "resume")}
    data = config.get("data") or {}
    wire_checkpoint(sections["checkpoint"], bool(config.get("resume")))
    if sections["checkpoint"].get("pretrained_checkpoint"):
        wire_conversations(sections, data)
    else:
        wire_documents(sections, data)
    return sections


def wire_checkpoint(checkpoint: dict[str, Any], resume: bool) -> None:
    """Raises ConfigError where the output would be overwritten, or where there is nothing to resume from."""
    output = Path(checkpoint["save"])
    there = (output / slipway_megatron.LATEST).is_file()
    if there and not resume:
        raise ConfigError(
            f"checkpoint.save: {output} already holds a checkpoint; go on from it with --resume, or name another output"
        )
    if there:
        checkpoint["load"] = str(output)
    if base := checkpoint.get("pretrained_checkpoint"):
        root = slipway_inputs.path_of({"checkpoint": checkpoint}, "checkpoint.pretrained_checkpoint")
        slipway_megatron.iteration_folder(root, "checkpoint.pretrained_checkpoint")
        checkpoint["pretrained_checkpoint"] = str(base)


def wire_conversations(sections: dict[str, Any], data: dict[str, Any]) -> None:
    """The dataset of fine-tuning: packed Parquet, or JSONL as it is."""
    dataset, tokenizer = sections["dataset"], slipway_inputs.path_of(sections, "tokenizer.tokenizer_model")
    train = chosen(slipway_inputs.path_of({"data": data}, "data.train"), "training")
    validation = None
    if data.get("validation"):
        validation = chosen(slipway_inputs.path_of({"data": data}, "data.validation"), "validation")
    if train.suffix in PARQUET:
        refuse_other_packing(train, tokenizer, dataset["seq_length"])
        if sections["train"]["micro_batch_size"] != 1:
            raise ConfigError("train.micro_batch_size: packed rows are trained one by one; set it to 1")
        dataset |= packed(train, validation, dataset)
        dataset["dataset_root"] = str(work_folder())
    else:
        if dataset["_target_"] == BEFORE_0_6:
            slipway_megatron.refuse_unmarked_template(tokenizer, "tokenizer.tokenizer_model")
        rows(train, "training")
        if validation is not None:
            rows(validation, "validation")
        dataset["dataset_root"] = str(work_folder())
    refuse_less_than_a_batch("data.train", train, sections["train"]["global_batch_size"])
    dataset["do_validation"] = validation is not None
    if validation is None:
        sections["validation"] |= {"eval_iters": 0, "eval_interval": None}
    else:
        batch = sections["validation"].get("eval_global_batch_size") or sections["train"]["global_batch_size"]
        refuse_less_than_a_batch("data.validation", validation, batch)


def chosen(source: Path, split: str) -> Path:
    """The Parquet file of an input, of a packing's folder that of `split`; where there is none, the input itself.

    Raises ConfigError for several, and for an input without any file.
    """
    if source.is_file():
        return source
    there = source.iterdir() if source.is_dir() else source.parent.glob(source.name)
    found = sorted(p for p in there if p.suffix in PARQUET and "_metadata" not in p.name)
    found = [p for p in found if p.name.startswith(split)] or found
    if len(found) > 1:
        names = ", ".join(p.name for p in found[:3])
        raise ConfigError(f"data: {source}: expected one Parquet file of {split}, found {names}; name one file")
    if not found:
        slipway_inputs.jsonl_files(source)
    return found[0] if found else source


def refuse_other_packing(train: Path, tokenizer: Path, seq_length: int) -> None:
    """Raises ConfigError where slipway.json beside the rows names another tokenizer, chat template or length."""
    record = train.parent / slipway_inputs.RECORD
    if not record.is_file():
        return  # packed by other means
    packing = json.loads(record.read_text(encoding="utf-8"))
    if packing["pack_size"] != seq_length:
        raise ConfigError(
            f"dataset.seq_length: {seq_length}, but {train} was packed with {packing['pack_size']} tokens"
        )
    given = slipway_inputs.tokenizer_record(tokenizer)
    for name, what in (("tokenizer", "another tokenizer"), ("template", "another chat template")):
        if packing.get(name) != given.get(name):
            raise ConfigError(
                f"tokenizer.tokenizer_model: {train} was packed with {what} than that of {tokenizer} (sha256 "
                f"{str(packing.get(name))[:12]} and {str(given.get(name))[:12]}); name that one, or pack again"
            )


def refuse_less_than_a_batch(key: str, source: Path, batch: int) -> None:
    """The library drops incomplete batches. Raises ConfigError where that leaves none."""
    if source.suffix in PARQUET:
        from pyarrow import parquet

        count = parquet.read_metadata(source).num_rows
    else:
        count = sum(1 for line in slipway_inputs.lines(slipway_inputs.jsonl_files(source)) if line.strip())
    if count < batch:
        what = "global_batch_size"
        if key == "data.validation":
            what = f"eval_global_batch_size (before Megatron-Bridge 0.5: {what})"
        raise ConfigError(f"{key}: {source} has {count} rows, less than one batch of {batch}; lower {what}")


def packed(train: Path, validation: Path | None, dataset: dict[str, Any]) -> dict[str, Any]:
    """What the dataset's section gets for packed rows."""
    older = dataset["_target_"] == BEFORE_0_6
    key, module = "offline_packing_specs", "packing.config"
    if older:
        key, module = "packed_sequence_specs", "datasets.packed_sequence"
    specs = {
        "_target_": f"{BRIDGE}.data.{module}.PackedSequenceSpecs",
        "packed_sequence_size": dataset["seq_length"],
        **(dataset.get(key) or {}),
        "packed_train_data_path": str(train),
        "packed_val_data_path": str(validation) if validation else None,
    }
    return {key: specs} if older else {key: specs, "enable_offline_packing": True}


def work_folder() -> Path:
    """The library makes folders and indexes beside its data, which is mounted read-only: it gets one of ours."""
    folder = slipway_step.STATE / "data"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def rows(source: Path, split: str) -> Path:
    """The conversations of an input in one file, by the name that the library wants.

    The folder is the run's, which all nodes see: the first rank makes the file, and the others wait for it.
    """
    file = work_folder() / f"{split}.jsonl"
    if slipway_step.rank() == 0:
        return slipway_inputs.one_jsonl(source, file)
    while not file.is_file():  # where the first rank fails, torchrun ends the others
        time.sleep(0.2)
    return file


def wire_documents(sections: dict[str, Any], data: dict[str, Any]) -> None:
    """The dataset of pretraining: tokenized documents (.bin and .idx), or the library's mock data.

    The library writes its indices beside the documents, which are mounted read-only, unless it is told where.
    """
    tokenizer, dataset = sections["tokenizer"], sections["dataset"]
    if tokenizer.get("tokenizer_model"):
        slipway_inputs.path_of(sections, "tokenizer.tokenizer_model")
        tokenizer |= {"tokenizer_type": "HuggingFaceTokenizer", "vocab_size": None}
    if not data.get("train"):
        return
    if not tokenizer.get("tokenizer_model"):
        raise ConfigError("tokenizer.tokenizer_model: is not set; name the tokenizer that the documents are made with")
    source = slipway_inputs.path_of({"data": data}, "data.train")
    slipway_documents.refuse_other_tokenizer(source, Path(tokenizer["tokenizer_model"]), "tokenizer.tokenizer_model")
    dataset |= {"_target_": f"{BRIDGE}.training.config.GPTDatasetConfig"}
    dataset["path_to_cache"] = dataset.get("path_to_cache") or str(work_folder())
    blend = slipway_documents.blend_of(source)
    if blend:
        wire_blend(sections, blend)
        return
    prefixes = slipway_documents.prefixes(source)
    slipway_documents.refuse_empty_split(prefixes, str(dataset["split"]))
    dataset["data_path"] = prefixes


def wire_blend(sections: dict[str, Any], blend: dict[str, tuple[list[str], list[float] | None]]) -> None:
    """Each split has documents of its own. The library takes these only where `split` is null."""
    per_split = [list(blend[split]) if split in blend else None for split in slipway_documents.SPLITS]
    sections["dataset"] |= {"blend_per_split": per_split, "split": None}
    if "validation" not in blend:
        sections["validation"] |= {"eval_iters": 0, "eval_interval": None}


def build(sections: dict[str, Any]) -> Any:
    """The library's configuration. Raises ConfigError with the library's words for a key that it does not have."""
    from megatron.bridge.training.config import ConfigContainer
    from megatron.bridge.utils.instantiate_utils import InstantiationException

    model = sections["model"] or {}
    whole = {**sections, "_target_": f"{BRIDGE}.training.config.ConfigContainer"}
    try:
        container = ConfigContainer.from_dict({**whole, "model": model if "_target_" in model else None})
    except (InstantiationException, TypeError, ValueError) as e:
        raise ConfigError(f"Megatron-Bridge refuses the configuration: {e}") from e
    if container.model is None:
        container.model = model_of_checkpoint(Path(container.checkpoint.pretrained_checkpoint), model)
    container.model.seq_length = container.dataset.seq_length
    return container


def model_of_checkpoint(root: Path, overrides: dict[str, Any]) -> Any:
    """The model that the checkpoint was saved with, and `overrides` on it. Raises ConfigError for an unknown key."""
    from megatron.bridge.training.model_load_save import load_model_config

    folder = slipway_megatron.iteration_folder(root, "checkpoint.pretrained_checkpoint")
    model, _ = load_model_config(str(folder))
    for name, value in overrides.items():
        if not hasattr(model, name):
            raise ConfigError(f"model.{name}: {type(model).__name__} has no such field")
        setattr(model, name, value)
    return model


def train(container: Any) -> list[float]:
    """Trains, and returns the losses that this rank has seen."""
    from megatron.bridge.training.callbacks import CallbackManager
    from megatron.bridge.training.finetune import finetune
    from megatron.bridge.training.gpt_step import forward_step
    from megatron.bridge.training.pretrain import pretrain

    losses: list[float] = []
    callbacks = CallbackManager()
    callbacks.register("on_train_step_end", lambda seen: losses.extend(step_loss(seen.loss_dict)))
    start = finetune if container.checkpoint.pretrained_checkpoint else pretrain
    try:
        start(container, forward_step, callbacks=callbacks)
    except SystemExit as e:  # told to stop, the library saves and leaves by sys.exit(0)
        if e.code:
            raise
    return losses


def step_loss(reduced: dict[str, Any] | None) -> list[float]:
    """The loss of one step; only the last pipeline stage has it."""
    return [float(reduced["lm loss"])] if reduced and "lm loss" in reduced else []


def result(container: Any, losses: list[float]) -> dict[str, Any]:
    """What was made. Raises RuntimeError where no checkpoint was saved."""
    output, total = Path(container.checkpoint.save), container.train.train_iters
    try:
        folder = slipway_megatron.iteration_folder(output, "checkpoint.save")
    except ConfigError as e:
        raise RuntimeError(f"no checkpoint was saved: {e}") from e
    steps = int(folder.name.removeprefix("iter_"))
    return {
        "checkpoint": str(output),
        "type": "checkpoint_lora" if container.peft else "checkpoint_megatron",
        "iteration": folder.name,
        "steps": steps,
        "total_steps": total,
        "stopped": steps < total,
        "steps_of_this_run": len(losses),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
    }


if __name__ == "__main__":  # the processes that write checkpoints import this file again
    slipway_step.run(main)

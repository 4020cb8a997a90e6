"""Rehearses a fine-tuning with NeMo AutoModel: its own dataset over every row, then steps of a small model.

The steps are automodel_finetune's, with the configuration as it was planned; what is trained, and on which rows, is
made here. result.json says what was found; an exception of the library's is a finding, word for word.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import automodel_finetune
import slipway_inputs
import slipway_rehearsal
import slipway_small
import slipway_step
from slipway_rehearsal import Place, Row, Steps

SECTIONS = {"train": "dataset", "validation": "validation_dataset"}
LOGITS = 2 << 30  # bytes that the logits of one row may take, with the loss's copies
LOGIT_BYTES = 14  # of each, as the step's `sample:` has it


class Data(slipway_rehearsal.Data):
    """An input's rows, as the library's own dataset has them."""

    def __init__(self, dataset: Any, tokenizer: Any, lines: list[bytes], places: list[Place]) -> None:
        self.dataset, self.tokenizer, self.lines, self.places = dataset, tokenizer, lines, places
        self.limit = getattr(dataset, "seq_length", None)
        cuts = getattr(dataset, "truncation", None) not in (None, False, "do_not_truncate")
        self.beyond = "cut" if cuts else "kept"
        self._whole = copy.copy(dataset)
        self._whole.truncation, self._whole.padding = "do_not_truncate", "do_not_pad"

    def read(self, number: int) -> Row:
        row = row_of(self.dataset[number])
        if self.beyond == "cut" and self.limit and row.whole >= self.limit:
            row = row._replace(whole=row_of(self._whole[number]).whole)
        return row


def main() -> None:
    automodel_finetune.quiet()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # rows are shared among processes already
    plan = slipway_step.load_plan()
    with tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=slipway_step.OUTPUT) as name:
        folder = Path(name)
        sources = slipway_step.merge_config(plan["config"])
        config = automodel_finetune.one_file_each(sources, folder)
        found = rehearse(config, sources, plan["inputs"]["model"], folder)
    slipway_rehearsal.leave(*found)


def rehearse(
    config: dict[str, Any], sources: dict[str, Any], model: dict[str, Any], folder: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """What is found of each input, and of the steps. `sources`: the configuration with the data's own files."""
    source = slipway_inputs.path_of(config, "model.pretrained_model_name_or_path")
    known = slipway_small.vocabulary(source)
    told, chosen = {}, {}
    scheduler = config["step_scheduler"]
    count = scheduler["max_steps"] * scheduler["global_batch_size"]
    for name, data in datasets(config, sources, folder):
        if isinstance(data, dict):
            told[name] = data
            continue
        found, told[name] = slipway_rehearsal.examine(name, data, known)
        rows = slipway_rehearsal.some_rows(found, LOGITS // (LOGIT_BYTES * max(known, 1)), count)
        if rows:
            chosen[SECTIONS[name]] = slipway_rehearsal.write_rows(data.lines, rows, folder / f"{name}-few.jsonl")
    return told, steps(config, source, chosen, len(told), model, folder)


def datasets(
    config: dict[str, Any], sources: dict[str, Any], folder: Path
) -> Iterator[tuple[str, Data | dict[str, Any]]]:
    """Each input's data, by its name; or what is told where the library does not take them at all."""
    for name, section in SECTIONS.items():
        if not config.get(section):
            continue
        files = slipway_inputs.jsonl_files(Path(sources[section]["path_or_dataset_id"]))
        where = slipway_rehearsal.places(files)
        try:
            yield name, load(config, section, where, folder)
        except Exception as e:  # noqa: BLE001 - whatever the library raises is what is wrong
            yield name, slipway_rehearsal.refused(e, len(where))


def load(config: dict[str, Any], section: str, where: list[Place], folder: Path) -> Data | dict[str, Any]:
    """The section's dataset, of the rows that the library can load. What is told where it can load no more of them."""
    from nemo_automodel.recipes.llm.train_ft import _build_tokenizer

    recipe = automodel_finetune.build_recipe(config).cfg
    loader = recipe.dataloader if section == "dataset" else recipe.validation_dataloaders["default"]
    # The recipe has one tokenizer, that of its training data.
    tokenizer = _build_tokenizer(recipe.model, recipe.dataset)[1]

    def build(lines: list[bytes]) -> Any:
        file = folder / f"{section}-some.jsonl"
        file.write_bytes(b"".join(lines))
        some = dataclasses.replace(loader.dataset_config, path_or_dataset_id=str(file))
        return some.build(tokenizer=tokenizer)

    file = Path(config[section]["path_or_dataset_id"])
    lines = [line for line in slipway_inputs.lines([file]) if line.strip()]
    try:
        dataset = loader.dataset_config.build(tokenizer=tokenizer)
    except Exception:
        build([])  # what this raises is wrong with all of it, and not with a row
        faults = slipway_rehearsal.unreadable(build, lines)
        if not faults:
            raise
        return slipway_rehearsal.unloadable(faults, where)
    if len(dataset) != len(lines):  # the library leaves some out: of which line a row is, it does not say
        where = [Place(str(file), row + 1) for row in range(len(dataset))]
    return Data(dataset, tokenizer, lines, where)


def row_of(sample: dict[str, Any]) -> Row:
    """A sample's tokens, and which of them are learned: `loss_mask` says so, or labels, which are the next token.

    The last token of all is only a label, so it is not known where it is not learned.
    """
    ids = list(sample["input_ids"])
    ids = ids[: sum(sample["attention_mask"])] if "attention_mask" in sample else ids
    if "loss_mask" in sample:
        return Row(ids, [bool(m) for m in sample["loss_mask"][: len(ids)]], len(ids))
    labels = list(sample["labels"])[: len(ids)]
    last = [label for label in labels[-1:] if label != -100]
    learned = [False, *(label != -100 for label in labels)]
    return Row([*ids, *last], learned[: len(ids) + len(last)], len(ids) + 1)


def steps(
    config: dict[str, Any], source: Path, rows: dict[str, Path], wanted: int, model: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """What the steps came to, on these rows of each section. `wanted`: inputs that have to have some."""
    if len(rows) < wanted:
        return slipway_rehearsal.no_steps("an input has no row to take them on")
    config = copy.deepcopy(config)
    for section, file in rows.items():
        config[section]["path_or_dataset_id"] = str(file)
    return take(config, source, model, folder, automodel_finetune.train)


def take(
    config: dict[str, Any], source: Path, model: dict[str, Any], folder: Path, train: Callable[..., None]
) -> dict[str, Any]:
    """What steps of a small model came to, taken by `train` with the configuration and the plan's input `model`."""
    output = folder / "output"
    output.mkdir()
    config["checkpoint"]["checkpoint_dir"] = str(output)

    def make(steps: Steps) -> None:
        trust = bool(config["model"].get("trust_remote_code"))
        steps.models["model"] = slipway_small.small_model(source, folder / "model", trust)
        config["model"]["pretrained_model_name_or_path"] = str(folder / "model")

    def go(steps: Steps) -> None:
        record = output / "training.jsonl"
        try:
            train(config, model)
        finally:
            steps.losses = automodel_finetune.read_losses(record, 0) if record.exists() else []

    return slipway_rehearsal.Steps().take(make, go)


if __name__ == "__main__":
    slipway_step.run(main)

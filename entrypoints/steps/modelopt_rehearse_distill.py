"""Rehearses a distillation: every row as the student learns it, then steps of a small student and a small teacher.

Their vocabularies are the real ones', whole: whether those fit is seen as the step sees it.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import modelopt_common as common
import modelopt_distill
import modelopt_rehearse
import slipway_rehearsal
import slipway_small
import slipway_step
from slipway_rehearsal import Row, Steps

LOGITS = 1 << 30  # bytes that the logits of a row may take
LOGIT_BYTES = 30  # of each, as the step's `sample:` has it
MODELS = ("teacher", "student")


class Data(modelopt_rehearse.Conversations):
    """An input's rows as the student learns them: those without a label are left out."""

    learns = True

    def __init__(self, tokenizer: Any, source: Path, limit: int, marked: bool) -> None:
        super().__init__(tokenizer, source, limit, None)
        self.marked = marked

    def read(self, number: int) -> Row:
        messages = common.messages_of(self.lines[number])
        ids, learned = modelopt_distill.tokens(messages, self.tokenizer, self.marked)
        kept = [False, *(bool(mark) for mark in learned[1 : self.limit])]
        return Row(ids[: self.limit], kept, len(ids))


def main() -> None:
    from transformers import AutoTokenizer

    config = modelopt_rehearse.begin()
    real = {who: common.hugging_face(config, f"{who}.path") for who in MODELS}
    common.refuse_without_template(real["student"], "student.path")
    tokenizer, marked = AutoTokenizer.from_pretrained(real["student"]), modelopt_distill.marks_answers(real["student"])
    length, known = common.number(config, "distill.seq_length", 2), slipway_small.vocabulary(real["student"])
    count = config["training"]["max_steps"] * config["distill"]["global_batch_size"]
    config, told = copy.deepcopy(config), {}
    with tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=slipway_step.OUTPUT) as name:
        folder, empty = Path(name), ""
        for key in ("train", "validation"):
            if not config[key].get("path"):
                continue
            data = Data(tokenizer, common.path_of(config, f"{key}.path"), length, marked)
            found, told[key] = slipway_rehearsal.examine(key, data, known)
            rows = slipway_rehearsal.some_rows(found, LOGITS // (LOGIT_BYTES * max(known, 1)), count)
            empty = empty or ("" if rows else key)
            config[key]["path"] = str(slipway_rehearsal.write_rows(data.lines, rows, folder / f"{key}-few.jsonl"))
        if empty:
            steps = slipway_rehearsal.no_steps(f"{empty} has no row to take them on")
        else:
            steps = take(config, real, folder)
    slipway_rehearsal.leave(told, steps)


def take(config: dict[str, Any], real: dict[str, Path], folder: Path) -> dict[str, Any]:
    """What steps of a small student came to, taught by a small teacher."""
    small = {who: folder / who for who in MODELS}

    def make(steps: Steps) -> None:
        for seed, (who, source) in enumerate(real.items()):  # two of one architecture are not to be the same
            steps.models[who] = slipway_small.small_model(source, small[who], seed=seed)

    def go(steps: Steps) -> None:
        output = folder / "output"
        arguments = modelopt_distill.training_arguments(config, 1, output)
        trainer, model, tokenizer = modelopt_distill.build(config, small["teacher"], small["student"], arguments)
        trainer.train()
        steps.losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        modelopt_distill.save(model, tokenizer, small["student"], output)
        steps.did.append(f"saved: {', '.join(sorted(p.name for p in output.iterdir() if p.is_file()))}")

    return Steps().take(make, go)


if __name__ == "__main__":
    slipway_step.run(main)

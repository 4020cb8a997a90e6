"""What rehearsals of Model Optimizer's steps share: conversations as they calibrate by, and a small model on some."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import modelopt_common as common
import slipway_inputs
import slipway_rehearsal
import slipway_small
import slipway_step
from slipway_rehearsal import Place, Row, Steps

SAMPLES = 2  # that the small model is calibrated by
LOGITS = 1 << 30  # bytes that the logits of one of them may take
LOGIT_BYTES = 8  # of each, as they come and for a loss in float32
Take = Callable[[Steps, Any, Any, common.Calibration], None]


class Conversations(slipway_rehearsal.Data):
    """An input's rows as calibration has them: rendered, and cut at `limit` tokens. Nothing of them is learned."""

    learns = False
    beyond = "cut"

    def __init__(self, tokenizer: Any, source: Path, limit: int, taken: int | None) -> None:
        files = slipway_inputs.jsonl_files(source)
        self.tokenizer, self.limit, self.taken = tokenizer, limit, taken
        self.places: list[Place] = slipway_rehearsal.places(files)
        self.lines = [line for line in slipway_inputs.lines(files) if line.strip()]

    def read(self, number: int) -> Row:
        ids = common.tokens(self.tokenizer, common.messages_of(self.lines[number]))
        return Row(ids[: self.limit], [True] * len(ids[: self.limit]), len(ids))


def begin() -> dict[str, Any]:
    """The configuration."""
    common.quiet()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # rows are shared among processes already
    config = slipway_step.merge_config(slipway_step.load_plan()["config"])
    common.keep_config(config)
    return config


def calibrated(config: dict[str, Any], source: Path, dtype: str | None, why_none: str, take: Take) -> None:
    """Every row of the calibration; then, unless `why_none`, `take` with a small model in `dtype` (None: the real
    one's), its tokenizer, and some of the rows or, as the step would without any, random tokens. Leaves what was found.
    """
    from transformers import AutoTokenizer

    samples, length = common.number(config, "calibration.samples"), common.number(config, "calibration.seq_length", 2)
    known, told, rows = slipway_small.vocabulary(source), {}, list[list[int]]()
    most = LOGITS // (LOGIT_BYTES * max(known, 1))
    given = bool(config["calibration"].get("path"))
    if given:
        path = common.path_of(config, "calibration.path")
        common.refuse_without_template(source, "model.path")
        data = Conversations(AutoTokenizer.from_pretrained(source), path, length, samples)
        found, told["calibration"] = slipway_rehearsal.examine("calibration", data, known)
        rows = [data.read(row).ids[:most] for row in slipway_rehearsal.some_rows(found, most, SAMPLES)]
    if why_none or (given and not rows):
        slipway_rehearsal.leave(told, slipway_rehearsal.no_steps(why_none or "calibration has no row to take them on"))
        return
    with tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=slipway_step.OUTPUT) as name:
        small = Path(name, "model")

        def make(steps: Steps) -> None:
            widths = {"hidden_size": 128, "intermediate_size": 256, "moe_intermediate_size": 128, "head_dim": 32}
            steps.models["model"] = slipway_small.small_model(source, small, widths=widths, dtype=dtype or "auto")

        def go(steps: Steps) -> None:
            model, tokenizer = common.load(small, dtype)
            random = common.random_tokens(model, SAMPLES, min(length, most), 0)
            take(steps, model, tokenizer, chosen(rows) if rows else random)

        steps = Steps().take(make, go)
    slipway_rehearsal.leave(told, steps)


def chosen(rows: list[list[int]]) -> common.Calibration:
    import torch

    return common.Calibration([torch.tensor([row]) for row in rows], "chat_jsonl")

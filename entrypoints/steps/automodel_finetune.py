"""Fine-tunes with NeMo AutoModel, as its `automodel` command does inside a torchrun worker or for one process.

It adds: the configuration comes merged from the plan, conversations may be several files or packed ones, the log goes
to stdout with the total in each step's line, an output that would be resumed by accident is refused, result.json names
the checkpoint, which has to be there, and an adapter says beside itself which base it was trained on.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import slipway_inputs
import slipway_step

STEP_LINE = re.compile(r"step (\d+) \| epoch ")
CHECKPOINT = re.compile(r"epoch_\d+_step_(\d+)")


def main() -> None:
    quiet()
    plan = slipway_step.load_plan()
    with tempfile.TemporaryDirectory(prefix="slipway-rows-") as folder:
        config = one_file_each(slipway_step.merge_config(plan["config"]), Path(folder))
        train(config, plan["inputs"]["model"])


def one_file_each(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """With conversations as ChatDataset reads them: a plain file named *.jsonl. `folder`: where others become one.

    Every process makes its own, as every process holds all rows in memory, too.
    """
    made = dict(config)
    for section in ("dataset", "validation_dataset"):
        if named := (config.get(section) or {}).get("path_or_dataset_id"):
            file = slipway_inputs.one_jsonl(source := Path(named), folder / f"{section}.jsonl")
            usual = file.is_symlink() and source.suffix in (".jsonl", ".ndjson")
            made[section] = {**config[section], "path_or_dataset_id": str(source if usual else file)}
    return made


def train(config: dict[str, Any], model: dict[str, Any]) -> None:
    """Trains by the recipe that the configuration names; rank 0 writes result.json. `model`: the plan's input."""
    output = Path(config["checkpoint"]["checkpoint_dir"])
    refuse_accidental_resume(config, output)
    config = as_before(config, release())
    lines = log_to_stdout()
    record = output / "training.jsonl"
    start = record.stat().st_size if record.exists() else 0
    recipe = build_recipe(config)
    recipe.setup()
    lines.begin(total_steps(recipe.step_scheduler))
    recipe.run_train_validation_loop()
    if slipway_step.rank() == 0:  # which alone wrote the record, and has closed it
        losses = read_losses(record, start)
        last = last_checkpoint(output, recipe.step_scheduler.step)
        if config.get("peft"):
            record_base(output, model)
            made = {"checkpoint": str(adapter(last)), "type": "checkpoint_lora"}
        else:
            made = {"checkpoint": str(hugging_face_checkpoint(last)), "type": "checkpoint_hf"}
        slipway_step.write_result({**made, **result(recipe.step_scheduler, output, losses)})


def refuse_accidental_resume(config: dict[str, Any], output: Path) -> None:
    """AutoModel resumes from whatever checkpoint it finds in its output, unless it is told otherwise."""
    found = sorted(p.name for p in output.glob("epoch_*_step_*"))
    if found and not config["checkpoint"].get("restore_from"):
        raise slipway_step.ConfigError(
            f"checkpoint.checkpoint_dir: {output} already holds {found[-1]}, and checkpoint.restore_from is not set; "
            "resume from it with --resume, or name another output"
        )


class StepLines(logging.Filter):
    """Makes AutoModel's `step 11 | epoch 0 | loss …`, which counts from 0, into `step 12/120 | epoch 0 | loss …`.

    At its end it says the seconds since the line before, which nothing else tells.
    """

    total: int | None = None
    before = 0.0

    def begin(self, total: int) -> None:
        self.total, self.before = total, time.monotonic()

    def filter(self, record: logging.LogRecord) -> bool:
        match = STEP_LINE.match(str(record.msg))
        if match and self.total:
            now, told = time.monotonic(), str(record.msg)[match.end() :]
            record.msg = f"step {int(match[1]) + 1}/{self.total} | epoch {told} | step_s {now - self.before:.3f}"
            self.before = now
        return True


def log_to_stdout() -> StepLines:
    """AutoModel keeps a handler that is there before its own set-up, and adds its rank filter; the format is its."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s | %(levelname)s | %(name)s | %(message)s", "%Y-%m-%d %H:%M:%S"))
    lines = StepLines()
    handler.addFilter(lines)
    logging.getLogger().addHandler(handler)
    if slipway_step.rank() > 0:
        logging.disable(logging.CRITICAL)  # as AutoModel's command does
    return lines


def quiet() -> None:
    """A progress bar is noise in a file, and each step has its line; for tqdm this comes before its import only."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


def release() -> tuple[int, int]:
    """The library's version here, as far as its configuration depends on it."""
    major, minor = re.findall(r"\d+", version("nemo-automodel"))[:2]
    return int(major), int(minor)


def as_before(config: dict[str, Any], number: tuple[int, int]) -> dict[str, Any]:
    """The configuration as AutoModel before 0.3 reads it: a checkpoint by its path, and epochs that are counted."""
    if number >= (0, 3):
        return config
    config = copy.deepcopy(config)
    checkpoint, scheduler = config["checkpoint"], config["step_scheduler"]
    if named := checkpoint.get("restore_from"):
        checkpoint["restore_from"] = str(Path(checkpoint["checkpoint_dir"], named))
    if "num_epochs" in scheduler and scheduler["num_epochs"] is None:
        del scheduler["num_epochs"]
        if steps := scheduler.get("max_steps"):  # a step takes at most so many passes over the data
            scheduler["num_epochs"] = steps * scheduler["global_batch_size"]
    return config


def build_recipe(config: dict[str, Any]) -> Any:
    """The recipe that `recipe:` names, on the configuration as AutoModel's command reads it.

    Before 0.4 nothing names one: what fine-tunes and pretrains is the same, and the command reads its own sys.argv.
    """
    with slipway_step.config_file(config) as path:
        if release() < (0, 4):
            from nemo_automodel.components.config.loader import load_yaml_config
            from nemo_automodel.recipes.llm.train_ft import TrainFinetuneRecipeForNextTokenPrediction

            return TrainFinetuneRecipeForNextTokenPrediction(load_yaml_config(str(path)))
        from nemo_automodel.cli.utils import resolve_recipe_name
        from nemo_automodel.components.config._arg_parser import parse_args_and_load_config
        from nemo_automodel.components.launcher.interactive import resolve_recipe_cls

        named = config["recipe"]
        target = resolve_recipe_name(named["_target_"] if isinstance(named, dict) else named)
        return resolve_recipe_cls(target)(parse_args_and_load_config(str(path), argv=[]))


def total_steps(scheduler: Any) -> int:
    """max_steps, or fewer where the epochs end before."""
    if scheduler.epoch_len is None or scheduler.num_epochs is None:
        return scheduler.max_steps
    return min(scheduler.max_steps, scheduler.num_epochs * scheduler.epoch_len)


def read_losses(record: Path, start: int) -> list[float]:
    """This run's training losses; a resumed run continues the record of the one before, which ends at byte `start`."""
    with record.open(encoding="utf-8") as f:
        f.seek(start)
        return [json.loads(line)["loss"] for line in f]


def result(scheduler: Any, output: Path, losses: list[float]) -> dict[str, Any]:
    """How far the run came."""
    steps, total = scheduler.step, total_steps(scheduler)
    return {
        "steps": steps,
        "total_steps": total,
        "stopped": steps < total,
        "steps_of_this_run": len(losses),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "record": str(output / "training.jsonl"),
    }


def last_checkpoint(output: Path, steps: int) -> Path:
    """The folder that was saved after `steps` steps. Raises RuntimeError where it is not there, or not whole."""
    saved = {int(m[1]): p for p in output.glob("epoch_*_step_*") if (m := CHECKPOINT.fullmatch(p.name))}
    last = saved.get(steps - 1)  # AutoModel numbers steps from 0
    if last is None:
        there = ", ".join(sorted(p.name for p in saved.values())) or "none"
        raise RuntimeError(f"{output}: no checkpoint of step {steps - 1}, the last one trained; there: {there}")
    if (last / ".incomplete").exists():
        raise RuntimeError(f"{last}: AutoModel did not finish writing this checkpoint")
    return last


def hugging_face_checkpoint(last: Path) -> Path:
    """The consolidated directory of a checkpoint. Raises RuntimeError where it is not one."""
    folder = last / "model" / "consolidated"
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise RuntimeError(
            f"{folder}: expected config.json and *.safetensors; checkpoint.save_consolidated has to be true, and "
            "checkpoint.model_save_format safetensors"
        )
    return folder


def adapter(last: Path) -> Path:
    """The adapter of a checkpoint, as Hugging Face PEFT lays it out. Raises RuntimeError where it is none."""
    folder = last / "model"
    missing = [n for n in ("adapter_config.json", "adapter_model.safetensors") if not (folder / n).is_file()]
    if missing:
        raise RuntimeError(f"{folder}: AutoModel has not written {' and '.join(missing)}")
    return folder


def record_base(output: Path, model: dict[str, Any]) -> None:
    """Writes slipway.json beside every adapter: merging compares the base that it is given with the recorded one."""
    text = json.dumps({"base": model["fingerprint"], "base_path": model["path"]}, indent=2) + "\n"
    for config in output.glob("epoch_*_step_*/model/adapter_config.json"):
        slipway_step.write_atomic(config.with_name("slipway.json"), text)


if __name__ == "__main__":
    slipway_step.run(main)

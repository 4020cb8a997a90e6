"""Runs one of NeMo RL's own scripts as the driver, where Ray is up already (RAY_ADDRESS).

It adds: the configuration comes merged from the plan, its base read by NeMo RL's own loader (examples inherit from one
another); packed rows, or several files of them, become one file; a job's time limit becomes checkpoint_must_save_by,
counted from here and not from the end of NeMo RL's set-up; each training step has a line with its numbers; result.json
names the last checkpoint; and the process ends when the script does, which NeMo RL's own does not after an error.

It must not be called nemo_rl.py: its folder comes first on the path, and would hide the library.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import runpy
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import slipway_inputs
import slipway_step

ROWS = ("train_data_path", "val_data_path", "data_path")  # keys that name a file
MARGIN = 900  # seconds before a time limit in which the last checkpoint is written, unless the plan says another


def main() -> None:
    plan = slipway_step.load_plan()["config"]
    script = Path(plan["script"])
    repository = script.parents[1]
    if not script.is_file():
        raise slipway_step.ConfigError(f"{script}: the image does not have this script")
    config = slipway_step.merge_config(plan, lambda base: load_base(base, repository))
    started = time.time()
    limited = set_deadline(config, config.pop("deadline", None) or {}, started)
    os.chdir(repository)  # its configurations name prompts relative to it
    # The image's own way to it is a link below /root. Actors have the driver's environment.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(repository), *filter(None, [os.environ.get("PYTHONPATH")])])
    sys.path[:0] = [str(script.parent), str(repository)]
    if limited:
        count_from(started)
    losses = tell_steps(most_steps(config))
    code = 0
    with tempfile.TemporaryDirectory(prefix="slipway-rows-") as folder:
        join_rows(config.get("data") or {}, Path(folder))
        with slipway_step.config_file(config) as path:
            code = run_script(script, ["--config", str(path)])
    leave(code or finish(Path(config["checkpointing"]["checkpoint_dir"]), losses))


def join_rows(data: dict[str, Any], folder: Path) -> None:
    """Makes one plain file in `folder` of what is none: NeMo RL's datasets read one, and unpack nothing.

    v0.4.0 and v0.5.0 name files in `data` itself, later releases in a section for each, or a list of those.
    """
    sections = [data, *(v for v in data.values() if isinstance(v, dict))]
    sections += [part for v in data.values() if isinstance(v, list) for part in v if isinstance(part, dict)]
    for section in sections:
        for key in ROWS:
            named = section.get(key)
            if isinstance(named, str) and named.startswith("/") and not slipway_inputs.plain(source := Path(named)):
                section[key] = str(slipway_inputs.one_jsonl(source, folder / f"{len(list(folder.iterdir()))}.jsonl"))


def finish(output: Path, losses: Sequence[float] = ()) -> int:
    """Writes result.json; 1 where there is nothing to name, whatever the script said."""
    try:
        slipway_step.write_result({**result(output), **ends(losses)})
    except (OSError, ValueError, RuntimeError) as e:
        slipway_step.leave("reason", f"{type(e).__name__}: {e}")
        traceback.print_exc()
        return 1
    return 0


def load_base(base: dict[str, Any], repository: Path) -> dict[str, Any]:
    """An example of the repository with all that it inherits; interpolations stay as they are."""
    if "path" not in base:
        return slipway_step.load_base(base)
    path = Path(base["path"])
    if not path.is_file():
        raise slipway_step.ConfigError(f"{path}: the step starts from this file, and the image does not have it")
    from omegaconf import OmegaConf

    loader = repository / "nemo_rl" / "utils" / "config.py"  # by its path: the package's own import starts much more
    spec = importlib.util.spec_from_file_location("slipway_nemo_rl_config", loader)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loaded = OmegaConf.to_container(module.load_config(path), resolve=False)
    assert isinstance(loaded, dict)
    return {str(key): value for key, value in loaded.items()}


def set_deadline(config: dict[str, Any], deadline: dict[str, Any], now: float) -> bool:
    """checkpoint_must_save_by, counted from `now`, for the job that ends at SLIPWAY_DEADLINE (both epoch seconds).

    False where there is no such time, or the configuration says checkpoint_must_save_by itself: that one counts, as
    NeMo RL says, from the start of training. ConfigError.
    """
    until = os.environ.get("SLIPWAY_DEADLINE", "")
    if not until or config["checkpointing"].get("checkpoint_must_save_by"):
        return False
    margin = deadline.get("margin")
    try:
        left, kept = float(until) - now, None if margin is None else float(margin)
    except (TypeError, ValueError) as e:
        raise slipway_step.ConfigError(f"SLIPWAY_DEADLINE={until}, deadline.margin={margin}: {e}") from e
    seconds = must_save_by(left, kept)
    config["checkpointing"]["checkpoint_must_save_by"] = as_duration(seconds)
    print(
        f"slipway: the job ends in {int(left)} s; NeMo RL is to save within {seconds} s, its set-up included",
        flush=True,
    )
    return True


def must_save_by(left: float, margin: float | None) -> int:
    """Seconds from now after which to save: what is left less the margin, by default 900 or a quarter of it, if less.

    At least 1, so that a job that has less than its margin saves after its first step.
    """
    return max(1, int(left - (min(MARGIN, left / 4) if margin is None else margin)))


def count_from(started: float) -> None:
    """Makes NeMo RL count checkpoint_must_save_by from `started` (epoch seconds).

    Its TimeoutChecker (v0.4.0 to v0.7.0, nemo_rl/utils/timer.py) is made when training starts, and compares with its
    own start_time; until then workers and models are loaded for minutes, which are the job's, too. ConfigError where
    the class is another.
    """
    from nemo_rl.utils.timer import TimeoutChecker

    made = TimeoutChecker.__init__
    if "start_time" not in vars(TimeoutChecker(timeout=as_duration(1))):
        raise slipway_step.ConfigError(
            "nemo_rl.utils.timer.TimeoutChecker: expected a start_time, which this NeMo RL does not have, so that it "
            "cannot be told when the job ends; set checkpointing.checkpoint_must_save_by, counted from the start of "
            "training"
        )

    @functools.wraps(made)
    def counts_from_the_start(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        self.start_time = started

    TimeoutChecker.__init__ = counts_from_the_start


def most_steps(config: dict[str, Any]) -> int | None:
    """max_num_steps of the section that has it; None where nothing limits them."""
    sections = [section for section in config.values() if isinstance(section, dict)]
    named = [section["max_num_steps"] for section in sections if "max_num_steps" in section]
    return named[0] if named and isinstance(named[0], int) and named[0] > 0 else None


def tell_steps(most: int | None) -> list[float]:
    """Prints what NeMo RL's own logger is given of each step: its stdout has neither the learning rate nor the norm of
    the gradient, and begins to count with every epoch. The list that it returns gets the loss of each step.

    From v0.4.0 to v0.7.0 all algorithms give it `timing/train` of a step last (nemo_rl/algorithms/*.py).
    """
    try:
        from nemo_rl.utils.logger import Logger
    except ImportError as e:
        print(f"slipway: the numbers of each step are not told: {e}", flush=True)
        return []
    losses: list[float] = []
    log, told = Logger.log_metrics, dict[str, Any]()

    @functools.wraps(log)
    def tells(self: Any, metrics: dict[str, Any], step: int, prefix: str = "", *args: Any, **kwargs: Any) -> None:
        if prefix in ("train", "performance", "timing/train"):
            told.update(metrics)
        if prefix == "timing/train":
            print(step_line(step, most, told), flush=True)
            losses.extend(loss for loss in [number(told.get("loss"))] if loss is not None)
            told.clear()
        log(self, metrics, step, prefix, *args, **kwargs)

    Logger.log_metrics = tells
    return losses


def ends(losses: Sequence[float]) -> dict[str, float]:
    """The first and the last loss of this run; nothing where no step has told one."""
    return {"first_loss": losses[0], "last_loss": losses[-1]} if losses else {}


def step_line(step: int, most: int | None, told: dict[str, Any]) -> str:
    """`slipway: step 3/40 | loss 1.25 | … | step_s 2.5`, of the numbers that are there; tokens are those that count."""
    known = {name: number(told.get(name)) for name in ("loss", "grad_norm", "lr", "tokens_per_sec")}
    seconds, tokens = number(told.get("total_step_time")) or 0.0, number(told.get("global_valid_toks"))
    known["tokens_per_s"] = known.pop("tokens_per_sec")
    if known["tokens_per_s"] is None and tokens is not None and seconds > 0:
        known["tokens_per_s"] = tokens / seconds
    numbers = "".join(f" {name} {value:.6g} |" for name, value in known.items() if value is not None)
    return f"slipway: step {step}{f'/{most}' if most else ''} |{numbers} step_s {seconds:.3f}"


def number(value: Any) -> float | None:
    """One number of what a metric is: a number, or an array of them, of which it is the mean."""
    try:
        return float(value.mean() if hasattr(value, "mean") else value)
    except (TypeError, ValueError):
        return None


def as_duration(seconds: int) -> str:
    """DD:HH:MM:SS, as all releases up to v0.7.0 read it."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days:02d}:{hours:02d}:{minutes:02d}:{seconds:02d}"


def run_script(script: Path, arguments: list[str]) -> int:
    """The script's exit code; what it raises is printed and left for the status."""
    sys.argv = [str(script), *arguments]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException as e:  # noqa: BLE001 - whatever it is, the process has to end
        slipway_step.leave("reason", f"{type(e).__name__}: {e}")
        traceback.print_exc()
        return 1
    return 0


def result(output: Path) -> dict[str, Any]:
    """The last checkpoint and what NeMo RL wrote beside it. Raises RuntimeError where there is none."""
    steps = {int(m[1]): p for p in output.glob("step_*") if (m := re.fullmatch(r"step_(\d+)", p.name))}
    if not steps:
        raise RuntimeError(f"{output}: no step_* checkpoint was written; is checkpointing.enabled true?")
    last = steps[max(steps)]
    info = json.loads((last / "training_info.json").read_text(encoding="utf-8"))
    numbers = {k: v for k, v in info.items() if isinstance(v, (int, float))}
    return {"checkpoint": str(last), "type": "checkpoint_nemo_rl", "steps": max(steps), "training_info": numbers}


def leave(code: int) -> None:
    """Ends the process at once: after an error an actor's __del__ asks Ray anew, and waits for ever."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    slipway_step.run(main)

"""Stands for every script of NeMo RL's examples: the driver of a run on the Ray that is there.

It writes seen.json into checkpoint_dir, starts one worker of each kind that the configuration asks for, with that
worker's own interpreter, and one for each other model, and leaves the checkpoint of the last step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nemo_rl
import ray
import standin
import yaml
from nemo_rl.utils.logger import Logger
from nemo_rl.utils.timer import TimeoutChecker

VENVS = Path(os.environ["NEMO_RL_VENV_DIR"])
ALGORITHMS = ("grpo", "sft", "dpo", "rm", "distillation")
MODELS = "nemo_rl.models"
GENERATION, POLICY = f"{MODELS}.generation.vllm", f"{MODELS}.policy.workers"
WORKERS = {
    "megatron": f"{POLICY}.megatron_policy_worker.MegatronPolicyWorker",
    "automodel": f"{POLICY}.dtensor_policy_worker_v2.DTensorPolicyWorkerV2",
    "dtensor": f"{POLICY}.dtensor_policy_worker.DTensorPolicyWorker",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    args = parser.parse_args()
    config = yaml.safe_load(args.config.read_text())
    output = Path(config["checkpointing"]["checkpoint_dir"])
    assert Path(nemo_rl.__file__).is_file()
    ray.init(os.environ["RAY_ADDRESS"])
    seen = standin.seen(output, config)
    if limit := config["checkpointing"].get("checkpoint_must_save_by"):
        training = time.time()
        checker = TimeoutChecker(timeout=limit, fit_last_save_time=True)
        clock = {"starts": checker.start_time, "training": training, "seconds": checker.last_save_time}
        (output / "clock.json").write_text(json.dumps(clock))
    units = sum(n["Resources"]["worker_units"] for n in ray.nodes())
    print(f"{units:g} workers on {len(ray.nodes())} node(s), {len(seen['gpus'])} GPU(s) here", flush=True)
    rows(config["data"])
    for kind, fqn, model in workers(config):
        command = [VENVS / fqn / "bin" / "python", "-m", "nemo_rl.worker", kind, args.config, model]
        subprocess.run(command, check=True, env={**os.environ, "RANK": "0", "WORLD_SIZE": str(int(units))})
    steps = next(config[a]["max_num_steps"] for a in ALGORITHMS if a in config)
    tell(steps)
    save(output / f"step_{steps}", config, args.config, steps)


def tell(steps: int) -> None:
    """What the algorithms give their logger of each step, in their order."""
    logger = Logger()
    for step in range(1, steps + 1):
        logger.log_metrics({"loss": 2.0 - step / steps, "grad_norm": 1.0, "lr": 1e-6}, step, prefix="train")
        logger.log_metrics({"total_step_time": 0.5}, step, prefix="timing/train")


def rows(data: dict[str, Any]) -> None:
    """Every file that the data names is there, and is lines of JSON."""
    named = [data, *(v for v in data.values() if isinstance(v, dict))]
    paths = [p for d in named for k in ("data_path", "train_data_path", "val_data_path") if (p := d.get(k))]
    for path in paths:
        print(f"{path}: {standin.lines(path)} rows", flush=True)


def workers(config: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Kind, environment and model of each."""
    models = {"policy": config["policy"], "teacher": config.get("teacher")}
    models["reward_model"] = config.get("env", {}).get("reward_model")
    kinds = {name: trains(model) for name, model in models.items() if model and "model_name" in model}
    found = [(kind, WORKERS[kind], name) for name, kind in kinds.items()]
    if generation := config["policy"].get("generation"):
        several = generation["vllm_cfg"].get("async_engine")
        name = "vllm_worker_async.VllmAsyncGenerationWorker" if several else "vllm_worker.VllmGenerationWorker"
        found.insert(0, ("vllm", f"{GENERATION}.{name}", "policy"))
    return found


def trains(model: dict[str, Any]) -> str:
    """Which worker has a model; a reward model's configuration may leave out what it does not use."""
    if model.get("megatron_cfg", {}).get("enabled"):
        return "megatron"
    return "automodel" if model.get("dtensor_cfg", {}).get("_v2") else "dtensor"


def save(step: Path, config: dict[str, Any], file: Path, steps: int) -> None:
    weights = step / "policy" / "weights"
    standin.shard(weights / "iter_0000000" if config["policy"]["megatron_cfg"]["enabled"] else weights)
    standin.copy_model(config["policy"]["model_name"], step / "policy" / "tokenizer", weights=False)
    (step / "config.yaml").write_text(file.read_text())
    (step / "train_dataloader.pt").write_bytes(b"state")
    (step / "training_info.json").write_text(json.dumps({"total_steps": steps, "val:accuracy": 0.5}))
    print(f"saved {step}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

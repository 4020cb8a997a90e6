"""Stands for AutoModel's recipes: every rank writes down what it was given, the first leaves the checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import standin


class TrainFinetuneRecipeForNextTokenPrediction:
    """Fine-tunes as many steps as it is told; the model comes out as it was."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        said = config["step_scheduler"]
        self.step_scheduler = SimpleNamespace(
            step=0, max_steps=said["max_steps"], num_epochs=None, epoch_len=None, every=said["ckpt_every_steps"]
        )

    def setup(self) -> None:
        import torch
        import torch.distributed

        torch.distributed.init_process_group(self.config["dist_env"]["backend"])
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        self.output = Path(self.config["checkpoint"]["checkpoint_dir"])
        self.model = standin.hugging_face(self.config["model"]["pretrained_model_name_or_path"])
        standin.lines(self.config["dataset"]["path_or_dataset_id"])
        standin.seen(self.output, self.config)

    def run_train_validation_loop(self) -> None:
        steps = self.step_scheduler.max_steps
        self.step_scheduler.step = steps
        if standin.rank():
            return
        rows = [json.dumps({"step": n, "loss": 2.0 - n / steps}) for n in range(steps)]
        (self.output / "training.jsonl").write_text("\n".join(rows) + "\n")
        saved = self.output / f"epoch_0_step_{steps - 1}" / "model"
        if self.config.get("peft"):
            standin.copy_model(self.model, saved, weights=False)
            (saved / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}))
            (saved / "adapter_model.safetensors").write_bytes(next(self.model.glob("*.safetensors")).read_bytes())
        else:
            standin.copy_model(self.model, saved / "consolidated")

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
        model = self.config["model"]
        self.model = standin.hugging_face(model.get("config", model)["pretrained_model_name_or_path"])
        data = self.config["dataset"]
        if "paths" in data:
            for prefix in data["paths"]:
                standin.need(Path(prefix).parent, f"{Path(prefix).name}.bin", f"{Path(prefix).name}.idx")
        else:
            standin.lines(data["path_or_dataset_id"])
        standin.seen(self.output, self.config)

    def run_train_validation_loop(self) -> None:
        steps = self.step_scheduler.max_steps
        self.step_scheduler.step = steps
        if standin.rank():
            return
        rows = [json.dumps({"step": n, "loss": 2.0 - n / steps}) for n in range(steps)]
        (self.output / "training.jsonl").write_text("\n".join(rows) + "\n")
        saved = self.output / f"epoch_0_step_{steps - 1}" / "model"
        if peft := self.config.get("peft"):
            standin.copy_model(self.model, saved, weights=False)
            options = {"peft_type": "LORA", "r": peft["dim"], "lora_alpha": peft["alpha"]}
            (saved / "adapter_config.json").write_text(json.dumps(options))
            standin.adapter(self.model, saved / "adapter_model.safetensors", peft["dim"])
        else:
            standin.copy_model(self.model, saved / "consolidated")

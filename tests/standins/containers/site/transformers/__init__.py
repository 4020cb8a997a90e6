"""Stands for transformers: models are the folders that they were read from, tokens the letters of a conversation."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import standin
import torch
import torch.distributed

from transformers.trainer_callback import TrainerCallback

__all__ = ["TrainerCallback"]


class Layer:
    """A linear layer that can be quantized."""

    def __init__(self) -> None:
        self.weight_quantizer = SimpleNamespace(is_enabled=False)


class Model:
    """`folder`: where it is from. `fed`: how many tokens each batch had that went through it."""

    def __init__(self, folder: Path, kind: Any, device_map: str | None = None) -> None:
        config = json.loads((folder / "config.json").read_text())
        self.folder, self.fed, self.layers = folder, [], [Layer() for _ in range(config["num_hidden_layers"])]
        self.dtype = torch.bfloat16 if kind == "auto" else kind
        self.device = "cuda:0" if device_map else "cpu"
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=config["vocab_size"]))

    def __call__(self, input_ids: torch.Tensor) -> None:
        assert input_ids.device == self.device
        self.fed.append(input_ids.shape[1])

    def eval(self) -> Model:
        return self

    def modules(self) -> list[Layer]:
        return self.layers

    def to(self, what: Any) -> Model:
        if isinstance(what, torch.dtype):
            self.dtype = what
        return self

    def save_pretrained(self, output: Path) -> None:
        standin.copy_model(self.folder, Path(output))


class AutoModelForCausalLM:
    @classmethod
    def from_pretrained(cls, folder: Path, dtype: Any, device_map: str | None = None) -> Model:
        return Model(standin.hugging_face(folder), dtype, device_map)


class AutoConfig:
    @classmethod
    def from_pretrained(cls, folder: Path) -> Any:
        return SimpleNamespace(dtype=torch.bfloat16)


class AutoTokenizer:
    """`folder`: where it is from."""

    pad_token_id, eos_token_id, bos_token_id, backend_tokenizer = None, 0, None, None

    def __init__(self, folder: str | Path) -> None:
        self.folder = standin.need(folder, "tokenizer*")

    @classmethod
    def from_pretrained(cls, folder: str | Path, local_files_only: bool = False) -> AutoTokenizer:
        return cls(folder)

    def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        assert not add_special_tokens
        return {"input_ids": [[ord(letter) % 256 for letter in text] for text in texts]}

    def get_vocab(self) -> dict[str, int]:
        return dict(json.loads((self.folder / "tokenizer.json").read_text())) or {"": 255}

    def apply_chat_template(self, messages: list[dict[str, str]], tokenize: bool, return_dict: bool = False,
                            return_assistant_tokens_mask: bool = False) -> Any:  # fmt: skip
        text = "".join(m["content"] for m in messages)
        if not tokenize:
            return text
        answered = [int(m["role"] == "assistant") for m in messages for _ in m["content"]]
        return {"input_ids": [ord(letter) % 256 for letter in text], "assistant_masks": answered}

    def save_pretrained(self, output: Path) -> None:
        standin.copy_model(self.folder, Path(output), weights=False)


@dataclass
class TrainingArguments:
    """What is used of it; as the real one, it joins the other processes when it is made."""

    output_dir: str
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    eval_strategy: str
    save_strategy: str
    report_to: list[str]
    use_cpu: bool
    ddp_backend: str | None
    ddp_find_unused_parameters: bool
    remove_unused_columns: bool
    disable_tqdm: bool
    bf16: bool
    max_steps: int
    num_train_epochs: float
    learning_rate: float
    max_grad_norm: float
    lr_scheduler_type: str
    logging_steps: int
    eval_steps: int
    seed: int
    average_tokens_across_devices: bool = True

    def __post_init__(self) -> None:
        self.device = "cpu" if self.use_cpu else f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        if not self.use_cpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        torch.distributed.init_process_group(self.ddp_backend or ("gloo" if self.use_cpu else "nccl"))

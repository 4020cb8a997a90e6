"""Distills a teacher's logits into a student with Model Optimizer's KDTrainer, on the assistant's tokens.

Several processes train by data parallelism: each holds teacher and student whole. With Model Optimizer 0.43 and 0.44
the loss stands one token later than from 0.45 on (its mask is the labels', not shifted), and validation measures the
student's own loss instead of the distance from the teacher.
"""

from __future__ import annotations

import inspect
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modelopt_common as common
import slipway_step
from slipway_inputs import chat_template
from slipway_step import ConfigError

IGNORED = -100  # the label that torch's losses leave out


def main() -> None:
    common.quiet()
    config = slipway_step.merge_config(slipway_step.load_plan()["config"])
    output = Path(config["output"]["path"])
    teacher, student = (common.hugging_face(config, f"{who}.path") for who in ("teacher", "student"))
    common.refuse_without_template(student, "student.path")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if slipway_step.rank() == 0:
        common.refuse_filled(output, "output.path")
    with slipway_step.config_file(config):
        pass
    arguments = training_arguments(config, world, output)
    trainer, model, tokenizer = build(config, teacher, student, arguments)
    trainer.train()
    if slipway_step.rank() == 0:
        save(model, tokenizer, student, output)
        slipway_step.write_result(result(trainer.state, output))


def accumulation_steps(config: dict[str, Any], world: int) -> int:
    """Batches of every process per optimizer step. Raises ConfigError where the global batch is no multiple."""
    whole, local = common.number(config, "distill.global_batch_size"), common.number(config, "distill.local_batch_size")
    if whole % (local * world):
        raise ConfigError(
            f"distill.global_batch_size: {whole} is no multiple of distill.local_batch_size={local} times {world} "
            "processes"
        )
    return whole // (local * world)


def training_arguments(config: dict[str, Any], world: int, output: Path) -> Any:
    """transformers' TrainingArguments from the section `training`. Raises ConfigError for a key that it has not."""
    import dataclasses

    import torch
    from transformers import TrainingArguments

    asked, cuda = config["training"], torch.cuda.is_available()
    known = {f.name for f in dataclasses.fields(TrainingArguments)}
    if unknown := sorted(set(asked) - known):
        raise ConfigError(f"training.{unknown[0]}: transformers' TrainingArguments has no such argument")
    wired = {
        "output_dir": str(output),
        "per_device_train_batch_size": config["distill"]["local_batch_size"],
        "gradient_accumulation_steps": accumulation_steps(config, world),
        "eval_strategy": "steps" if config["validation"].get("path") else "no",
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": not cuda,
        "ddp_backend": "gloo" if world > 1 and not cuda else None,
        "ddp_find_unused_parameters": False,
        "remove_unused_columns": False,
        "disable_tqdm": True,
    }
    try:
        return TrainingArguments(**{"bf16": cuda, **asked, **wired})
    except (TypeError, ValueError) as e:
        raise ConfigError(f"training: {e}") from e


def build(config: dict[str, Any], teacher: Path, student: Path, arguments: Any) -> tuple[Any, Any, Any]:
    """The trainer, its student and the tokenizer. Raises ConfigError where teacher and student do not fit."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.trainer_callback import PrinterCallback

    dtype = common.dtype_of(config, "distill") or "float32"
    tokenizer = AutoTokenizer.from_pretrained(student)
    if AutoTokenizer.from_pretrained(teacher).get_vocab() != tokenizer.get_vocab():
        raise ConfigError(f"teacher.path: {teacher} has another vocabulary than student.path {student}")
    models = [AutoModelForCausalLM.from_pretrained(p, dtype=getattr(torch, dtype)) for p in (teacher, student)]
    sizes = [m.config.get_text_config().vocab_size for m in models]
    if sizes[0] != sizes[1]:
        raise ConfigError(f"teacher.path: its vocab_size is {sizes[0]}, the student's {sizes[1]}")
    data = {key: rows(config, key, student, tokenizer) for key in ("train", "validation")}
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    trainer = taught_by(
        models[0], float(config["distill"]["temperature"]),
        model=models[1], args=arguments, train_dataset=data["train"], eval_dataset=data["validation"],
        data_collator=lambda batch: collate(batch, padding or 0), processing_class=tokenizer,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(step_lines())
    return trainer, models[1], tokenizer


def taught_by(teacher: Any, temperature: float, **arguments: Any) -> Any:
    """Model Optimizer's KDTrainer with this teacher, as 0.43 and 0.44 take it or as 0.45 to 0.47; read there."""
    from modelopt.torch.distill.plugins import huggingface

    if "distill_config" in inspect.signature(huggingface.KDTrainer.__init__).parameters:
        # The student becomes a DistillationModel that holds the teacher. Its loss is a mean already, which
        # transformers' Trainer would multiply by the number of processes.
        arguments["args"].average_tokens_across_devices = False
        criterion = huggingface.LMLogitsLoss(temperature=temperature)
        trainer = huggingface.KDTrainer(distill_config={"teacher_model": teacher, "criterion": criterion}, **arguments)
    else:
        trainer = huggingface.KDTrainer(
            distill_args={"teacher_model": teacher, "temperature": temperature}, **arguments
        )
        # It would wrap the teacher as it wraps the student, and torch's DistributedDataParallel refuses a module
        # without gradients. A frozen teacher that every process holds whole needs no wrapper.
        trainer._teacher_prepared = True
    teacher.to(arguments["args"].device)
    return trainer


def rows(config: dict[str, Any], key: str, folder: Path, tokenizer: Any) -> list[dict[str, list[int]]] | None:
    """The conversations of `train` or `validation` as the trainer takes them; None where there is no path.

    Raises ConfigError where none of them has a token to learn from.
    """
    if not config[key].get("path"):
        return None
    length = common.number(config, "distill.seq_length", 2)
    source, marked = common.path_of(config, f"{key}.path"), marks_answers(folder)
    found = [row for c in common.conversations(source, f"{key}.path") if (row := one_row(c, tokenizer, length, marked))]
    if not found:
        raise ConfigError(f"{key}.path: {source} holds nothing to learn from in its first {length} tokens")
    if slipway_step.rank() == 0:
        what = "the assistant's tokens" if marked else "all tokens: the chat template marks no {% generation %}"
        print(f"{key}: {len(found)} conversations, loss on {what}", flush=True)
    return found


def marks_answers(folder: Path) -> bool:
    """Whether the chat template says which tokens are the assistant's."""
    return bool(re.search(r"\{%-?\s*generation\s*-?%\}", chat_template(folder)))


def one_row(messages: list[Any], tokenizer: Any, length: int, marked: bool) -> dict[str, list[int]] | None:
    """Token ids and labels, none longer than `length`; None where no label is left."""
    ids, learnt = (part[:length] for part in tokens(messages, tokenizer, marked))
    if not any(learnt[1:]):
        return None
    return {"input_ids": ids, "labels": [i if m else IGNORED for i, m in zip(ids, learnt, strict=True)]}


def tokens(messages: list[Any], tokenizer: Any, marked: bool) -> tuple[list[int], list[int]]:
    """A conversation's token ids, and a 1 for each that is learned; the first one is never a label."""
    told = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=marked)
    ids = list(told["input_ids"])
    return ids, list(told["assistant_masks"]) if marked else [1] * len(ids)


def collate(batch: list[dict[str, list[int]]], padding: int) -> dict[str, Any]:
    """Rows padded to the longest."""
    import torch

    longest = max(len(row["input_ids"]) for row in batch)

    def padded(values: Iterator[list[int]], fill: int) -> Any:
        return torch.tensor([v + [fill] * (longest - len(v)) for v in values])

    return {
        "input_ids": padded((row["input_ids"] for row in batch), padding),
        "attention_mask": padded(([1] * len(row["input_ids"]) for row in batch), 0),
        "labels": padded((row["labels"] for row in batch), IGNORED),
    }


def step_lines() -> Any:
    """A callback that prints what the trainer logs, one line each."""
    from transformers import TrainerCallback

    class StepLines(TrainerCallback):
        def __init__(self) -> None:
            self.before, self.steps = time.monotonic(), 0

        def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
            told = " | ".join(f"{k} {v:.4g}" for k, v in logs.items() if isinstance(v, float) and "second" not in k)
            now, steps = time.monotonic(), state.global_step - self.steps
            took = f" | step_s {(now - self.before) / steps:.3f}" if steps > 0 else ""
            self.before, self.steps = now, state.global_step
            if state.is_world_process_zero:
                print(f"step {state.global_step}/{state.max_steps} | {told}{took}", flush=True)

    return StepLines()


def save(model: Any, tokenizer: Any, student: Path, output: Path) -> None:
    """The student in the type that it came in, with its tokenizer, and without a teacher that it holds."""
    import modelopt.torch.distill as mtd
    import torch
    from transformers import AutoConfig

    options = {}
    if isinstance(model, mtd.DistillationModel):
        # Hiding the teacher would be enough for the weights, but config.json would name the class that holds it.
        model, options = mtd.export(model), {"save_modelopt_state": False}
    own = AutoConfig.from_pretrained(student).dtype
    (model.to(own) if isinstance(own, torch.dtype) else model).save_pretrained(output, **options)
    tokenizer.save_pretrained(output)


def result(state: Any, output: Path) -> dict[str, Any]:
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    checked = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
    return {
        "type": "checkpoint_hf",
        "checkpoint": str(output),
        "steps": state.global_step,
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "validation_loss": checked[-1] if checked else None,
    }


if __name__ == "__main__":
    slipway_step.run(main)

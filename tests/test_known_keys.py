"""launcher/planning/checks/known_keys.py: keys that the library does not take, by what the image's record says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import IMAGE, Engine, Inputs, Project, errors, record_image

from images.building.identity import Classes, Taken
from images.locking import lock as locks


def taken(name: str, *keys: str, **facts: Any) -> Taken:
    return Taken(name=name, keys={key: [] for key in keys}, **facts)


STEPS = ("global_batch_size", "max_steps", "num_epochs", "ckpt_every_steps", "val_every_steps", "window")
KNOWN = Classes(
    sections={"step_scheduler": "lib.Steps"},
    targets={"nemo_automodel.components.datasets.llm.chat_dataset.ChatDataset": "lib.chats.Chats"},
    known={
        "lib.Steps": taken("Steps", *STEPS, plain=["max_steps", "window"]),
        "lib.chats.Chats": taken("Chats", "path_or_dataset_id", "seq_length", "truncation"),
        "torch.optim.adamw.AdamW": taken("AdamW", "lr", "betas", "weight_decay"),
        "lib.Open": taken("Open", "inner", open=True),
    },
)


@pytest.fixture
def check(project: Project, engine: Engine, inputs: Inputs) -> Any:
    """`launch check sft/automodel` of an image whose record says what KNOWN does, or `classes`."""

    def run(*words: str, classes: Classes | None = KNOWN) -> str:
        entry = locks.select(locks.load_lock(project.root), "automodel", "cpu")
        record_image(project.root, entry, classes=classes)
        engine.holds(images={IMAGE: IMAGE})
        done = project.launch("check", "sft/automodel", "--flavour", "cpu", *inputs.words, *words)
        said = errors(done.stderr).replace(str(inputs.train.parent), "T")
        assert done.code == (0 if "nothing stops it" in said else 78 if "T/mine" in said else 64), done
        return said

    return run


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("step_scheduler.mx_steps=20", "Steps of automodel 0.7.0 has no such argument\n  did you mean 'max_steps'?"),
        ("step_scheduler.window.size=20", "Steps.window of automodel 0.7.0 is no section"),
        ("dataset.seq_len=20", "Chats of automodel 0.7.0 has no such argument\n  did you mean 'seq_length'?"),
        ("validation_dataset.seq_len=20", ""),  # goes with its input
        ("optimizer.weight_decy=0.1", "AdamW of automodel 0.7.0 has no such argument\n  did you mean 'weight_decay'?"),
    ],
)
def test_a_key_that_the_class_does_not_take(check: Any, word: str, said: str) -> None:
    found = check(word)
    assert found == f"error: {word}: {said}\nit would not be submitted\n" if said else "means nothing without" in found


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("step_scheduler.local_batch_size=2", "step_scheduler.window=2"),  # the first the library takes out before
        ("optimizer._target_=mine.Adam", "optimizer.weight_decy=0.1"),  # another class, of which nothing is known
        ("mfu.anything=2",),
        ("loss_fn._target_=lib.Open", "loss_fn.anything=2"),
    ],
)
def test_nothing_is_claimed_of_what_is_known_to_be_taken_or_not_known(check: Any, words: tuple[str, ...]) -> None:
    assert check(*words) == "nothing stops it\n"


def test_of_a_file_the_line_is_named(check: Any, inputs: Inputs) -> None:
    mine: Path = inputs.train.parent / "mine.yaml"
    mine.write_text("seed: 1\nstep_scheduler:\n  num_epochs: 1\n  max_step: 3\n")
    said = check("-c", str(mine))
    assert said.startswith(
        "error: T/mine.yaml:4:3: step_scheduler.max_step: Steps of automodel 0.7.0 has no such argument"
    )


def test_a_record_that_does_not_say_it_claims_nothing(check: Any) -> None:
    assert check("step_scheduler.mx_steps=20", classes=None) == "nothing stops it\n"

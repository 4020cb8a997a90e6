"""Stands for modelopt.torch.distill as it is in 0.44: a student holds its teacher until it is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Model


class DistillationModel(Model):
    """A student with its teacher."""

    def save_pretrained(self, output: Path, save_modelopt_state: bool = True) -> None:
        raise AssertionError("the teacher would be saved, too")


class Exported(Model):
    """A student alone."""

    def save_pretrained(self, output: Path, save_modelopt_state: bool = True) -> None:
        assert not save_modelopt_state
        super().save_pretrained(output)


def export(model: Any) -> Any:
    model.__class__ = Exported
    return model

"""Stands for AutoModel's loader of configurations."""

from pathlib import Path
from typing import Any

import yaml


def parse_args_and_load_config(path: str, argv: list[str]) -> Any:
    return yaml.safe_load(Path(path).read_text())

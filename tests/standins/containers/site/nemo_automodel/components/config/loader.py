"""Stands for AutoModel's loader of configurations."""

from pathlib import Path
from typing import Any

import yaml


def load_yaml_config(path: str) -> Any:
    return yaml.safe_load(Path(path).read_text())

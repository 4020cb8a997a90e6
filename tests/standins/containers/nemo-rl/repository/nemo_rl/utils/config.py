"""Stands for the loader of NeMo RL's configurations."""

from pathlib import Path
from typing import Any

import yaml


def load_config(path: str | Path) -> Any:
    return yaml.safe_load(Path(path).read_text())

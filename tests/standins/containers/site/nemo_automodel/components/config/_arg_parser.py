"""Stands for what AutoModel's command does with its arguments, before 0.4 those of the process."""

import sys
from typing import Any

from nemo_automodel.components.config.loader import load_yaml_config


def parse_args_and_load_config(path: str, argv: list[str] | None = None) -> Any:
    assert not (sys.argv[1:] if argv is None else argv), "overrides"
    return load_yaml_config(path)

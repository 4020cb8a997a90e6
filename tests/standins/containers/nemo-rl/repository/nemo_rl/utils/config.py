"""Stands for the loader of NeMo RL's configurations, which name others that they say only the difference to."""

from pathlib import Path
from typing import Any

import yaml


def load_config(path: str | Path) -> Any:
    found = yaml.safe_load(Path(path).read_text())
    below = found.pop("defaults", None)
    return over(load_config(Path(path).parent / below), found) if below else found


def over(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: over(below.get(key), value) for key, value in above.items()}

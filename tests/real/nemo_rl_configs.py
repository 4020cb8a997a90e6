"""Run in the nemo-rl image's Python: nemo_rl_configs.py STEPS PLANS. STEPS holds the step programs, PLANS one folder a
plan with plan.json and tree/ (NeMo RL's source at a release); each gets made.yaml by the step program's own functions,
resolved.json by the release's load_config, parse_hydra_overrides and OmegaConf, and base.json of the base alone."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

sys.path.insert(0, sys.argv[1])
import nemo_rl_train as program
import slipway_step


def library(tree: Path) -> Any:
    """The release's own nemo_rl/utils/config.py."""
    spec = importlib.util.spec_from_file_location("config_of_the_release", tree / "nemo_rl" / "utils" / "config.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def register() -> None:
    """What the releases' scripts register before they resolve anything."""
    for name, function in {"mul": lambda a, b: a * b, "div": lambda a, b: a / b, "max": max}.items():
        OmegaConf.register_new_resolver(name, function, replace=True)


def resolved(config: Any) -> Any:
    return OmegaConf.to_container(config, resolve=True)


def main() -> None:
    register()
    for folder in sorted(Path(sys.argv[2]).iterdir()):
        config = json.loads((folder / "plan.json").read_text())
        config.pop("resume")
        tree = folder / "tree"
        of_release = library(tree)
        merged = slipway_step.merge_config(config, lambda base, tree=tree: program.load_base(base, tree))
        merged.pop("deadline", None)
        (folder / "made.yaml").write_text(yaml.safe_dump(merged, sort_keys=False))
        found = of_release.parse_hydra_overrides(of_release.load_config(folder / "made.yaml"), [])
        (folder / "resolved.json").write_text(json.dumps(resolved(found)))
        (folder / "base.json").write_text(json.dumps(resolved(of_release.load_config(config["base"]["path"]))))


main()

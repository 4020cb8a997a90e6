"""What the tests of conversions share: models that are converted as they say, and launches of what reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ..support import Run, Tree

CACHE = Path(__file__).parent


def model(source: Path, place: Path, *stages: str) -> Path:
    """A model whose conversion waits at these stages (cache_converts.py); another content, hence another folder."""
    folder = place / "model"
    shutil.copytree(source, folder)
    (folder / "of").write_text(place.name)
    for stage in stages:
        (folder / f"at-{stage}").touch()
    return folder


def reads(model: Path, output: Path, step: str = "reads") -> tuple[str, ...]:
    """A launch of the step that needs the model converted."""
    return (f"test/{step}", "--flavour", "cpu", f"policy={model}", f"output={output}")


def takes(config: Path) -> None:
    """Steps of a user's, below that folder: a converter that waits, and one that takes what it makes."""
    steps = config / "slipway" / "steps" / "a"
    shutil.copytree(CACHE / "converts", steps / "converts")
    shutil.copytree(CACHE.parent / "toy" / "step", steps / "takes")
    step = steps / "takes" / "step.yaml"
    inputs = "inputs:\n  policy: {types: [checkpoint_megatron], help: the model}\n"
    step.write_text(step.read_text().replace("inputs: {}\n", inputs))


def converted(tree: Tree, cache: Path) -> list[dict[str, Any]]:
    """What `launch cache list` says of the Megatron cache."""
    done = tree.launch("cache", "list", "--megatron-cache", str(cache), "--json")
    assert done.code == 0, done
    return [item for item in json.loads(done.out) if item["libraries"] != "converted"]


def conversions(tree: Tree, before: list[Run], step: str = "test/converts") -> list[Run]:
    """Runs of the converter since then."""
    return [run for run in tree.since(before) if f"-{step.replace('/', '.')}-" in run.id]


def leftovers(cache: Path) -> list[str]:
    """Leases that nobody has given back."""
    return [str(path) for path in cache.glob("*/.leases/*")]

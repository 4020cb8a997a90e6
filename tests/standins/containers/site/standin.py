"""What a library's entry points in a stand-in share: they write down what they were given, and check what is there."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

NUMBERS = {"rank": ("RANK", 0), "local_rank": ("LOCAL_RANK", 0), "world_size": ("WORLD_SIZE", 1)}


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def devices() -> list[str]:
    """The GPUs that this process sees: device files, less those that a variable hides."""
    found = sorted(p.name.removeprefix("nvidia") for p in Path("/dev").glob("nvidia[0-9]*"))
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return found if shown is None else [found[int(n)] for n in shown.split(",") if n.isdigit() and int(n) < len(found)]


def seen(folder: str | Path, config: Any, name: str = "seen") -> dict[str, Any]:
    """Writes NAME.json (NAME-<rank>.json for other ranks than the first) into `folder`, and returns what it says."""
    facts: dict[str, Any] = {key: int(os.environ.get(n, default)) for key, (n, default) in NUMBERS.items()}
    facts |= {"argv": sys.argv, "executable": sys.executable, "cwd": str(Path.cwd()), "uid": os.getuid()}
    facts |= {"environ": dict(os.environ), "config": config, "gpus": devices(), "host": os.uname().nodename}
    Path(folder).mkdir(parents=True, exist_ok=True)
    number = f"-{rank()}" if rank() else ""
    Path(folder, f"{name}{number}.json").write_text(json.dumps(facts, indent=1, default=str) + "\n")
    return facts


def need(path: str | Path, *names: str) -> Path:
    """`path`, in which something has to match each pattern. Raises FileNotFoundError."""
    folder = Path(path)
    for name in names or (".",):
        if not (folder.exists() if name == "." else any(folder.glob(name))):
            raise FileNotFoundError(f"{folder}: there is no {name}")
    return folder


def hugging_face(path: str | Path) -> Path:
    """A Hugging Face checkpoint with its weights and tokenizer."""
    return need(path, "config.json", "*.safetensors", "tokenizer*")


def lines(path: str | Path) -> int:
    """How many rows of JSON a file, or a folder of them, has. Raises ValueError for a line that is none."""
    found = sorted(Path(path).glob("*.jsonl")) if Path(path).is_dir() else [need(path)]
    return len([json.loads(line) for file in found for line in file.read_text().splitlines()])


def copy_model(source: str | Path, target: Path, weights: bool = True) -> None:
    """A model's files beside each other; only its tokenizer and configuration without `weights`."""
    target.mkdir(parents=True, exist_ok=True)
    for path in Path(source).iterdir():
        if path.is_file() and (weights or "safetensors" not in path.name):
            shutil.copyfile(path, target / path.name)


def shard(folder: Path) -> None:
    """A distributed checkpoint as torch writes it: one shard, and the file that names it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__0_0.distcp").write_bytes(b"weights")
    (folder / ".metadata").write_bytes(b"__0_0.distcp")


def adapter(model: Path, target: Path, rank: int) -> None:
    """An adapter of ones, in PEFT's layout, for every matrix of a model."""
    from safetensors import safe_open
    from safetensors.torch import save_file
    from torch import Tensor

    tensors = {}
    for file in (safe_open(path, "pt") for path in sorted(model.glob("*.safetensors"))):
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            if len(shape := file.get_slice(name).get_shape()) == 2:
                module = f"base_model.model.{name.removesuffix('.weight')}"
                tensors[f"{module}.lora_A.weight"] = Tensor([[1.0] * shape[1]] * rank)
                tensors[f"{module}.lora_B.weight"] = Tensor([[1.0] * rank] * shape[0])
    save_file(tensors, target)

"""What the Megatron-Bridge programs share: its checkpoints and its process group."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import slipway_inputs
from slipway_step import ConfigError

LATEST = "latest_checkpointed_iteration.txt"
GENERATION = re.compile(r"\{%-?\s+generation\s+-?%\}")  # as the library looks for it


def iteration_folder(root: Path, key: str) -> Path:
    """The iter_* folder to read: `root` itself, or the newest that is complete. Raises ConfigError naming `key`."""
    folder = root
    if (root / LATEST).is_file():
        named = (root / LATEST).read_text(encoding="utf-8").strip()
        folder = root / (f"iter_{int(named):07d}" if named.isdecimal() else named)
    if not (folder / "run_config.yaml").is_file():
        raise ConfigError(f"{key}: {folder} is no Megatron-Bridge checkpoint: it has no run_config.yaml")
    return folder


def refuse_unmarked_template(tokenizer: Path, key: str) -> None:
    """Megatron-Bridge 0.4 and 0.5 learn what the chat template marks; without marks 0.4 learns all, 0.5 fails.

    Raises ConfigError naming `key` where it marks nothing.
    """
    if not GENERATION.search(slipway_inputs.chat_template(tokenizer)):
        raise ConfigError(
            f"{key}: the chat template of {tokenizer} marks no {{% generation %}}, by which Megatron-Bridge "
            "before 0.6 knows the answers; wrap them in it, or take a release with 0.6"
        )


def lead_process_group() -> None:
    """Gives a process that torchrun did not start its own rendezvous: the library would always listen on port 29500."""
    if "MASTER_PORT" in os.environ:
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")


def start_process_group() -> None:
    """torch's process group on NCCL, or on gloo where there is no CUDA device."""
    import torch

    lead_process_group()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("nccl")
    else:
        torch.distributed.init_process_group("gloo")

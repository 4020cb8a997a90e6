"""Stands for safetensors.torch."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import standin
from torch import Tensor

from safetensors import header_of


def load_file(path: str | Path) -> dict[str, Tensor]:
    header, data = header_of(Path(path).read_bytes())
    return {name: tensor(known["shape"], data[slice(*known["data_offsets"])]) for name, known in header.items()}


def tensor(shape: list[int], data: bytes) -> Tensor:
    numbers = list(struct.unpack(f"<{math.prod(shape)}f", data))
    if len(shape) == 1:
        return Tensor(numbers)
    return Tensor([numbers[n * shape[1] : (n + 1) * shape[1]] for n in range(shape[0])])


def save_file(tensors: dict[str, Tensor], path: str | Path, metadata: dict[str, str] | None = None) -> None:
    header: dict[str, object] = {"__metadata__": metadata or {}}
    data = b""
    for name, value in tensors.items():
        numbers = value.rows if len(value.shape) == 1 else [n for row in value.rows for n in row]
        packed = struct.pack(f"<{len(numbers)}f", *numbers)
        header[name] = {"dtype": "F32", "shape": value.shape, "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    text = json.dumps(header).encode()
    standin.seen(Path(path).parent, {name: value.rows for name, value in tensors.items()})
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)

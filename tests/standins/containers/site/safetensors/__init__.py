"""Stands for safetensors: files of F32, whose layout is the real one's."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class safe_open:
    """The names and shapes in a file."""

    def __init__(self, path: str | Path, framework: str) -> None:
        self.header = header_of(Path(path).read_bytes())[0]

    def __enter__(self) -> safe_open:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def keys(self) -> list[str]:
        return list(self.header)

    def get_slice(self, name: str) -> Any:
        return SimpleNamespace(get_shape=lambda: self.header[name]["shape"])


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """What is in a file, by name, and the bytes behind that."""
    end = 8 + int.from_bytes(data[:8], "little")
    known = json.loads(data[8:end])
    known.pop("__metadata__", None)
    return known, data[end:]

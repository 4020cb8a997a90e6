"""Canonical JSON: one text, hence one hash, for one value."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec


def dumps(value: Any) -> str:
    """The canonical text of `value` (msgspec Structs included): sorted keys, no spaces, UTF-8.

    Raises ValueError for NaN and infinities: JSON has none, and readers of it refuse what Python would write.
    """
    return json.dumps(
        msgspec.to_builtins(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def pretty(value: Any) -> str:
    """The same order, indented, for files that people read; ends with a newline."""
    return json.dumps(msgspec.to_builtins(value), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def sha256(value: Any) -> str:
    """Hex sha256 of the canonical text; of the bytes themselves where `value` is bytes."""
    data = value if isinstance(value, bytes) else dumps(value).encode()
    return hashlib.sha256(data).hexdigest()

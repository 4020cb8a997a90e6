"""Stands for transformers.utils."""

from __future__ import annotations

from types import SimpleNamespace

logging = SimpleNamespace(set_verbosity_error=lambda: None)

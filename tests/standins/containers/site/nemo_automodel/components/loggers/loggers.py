"""Stands for nemo_automodel.components.loggers.loggers: sections of AutoModel 0.5.0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class MLflowConfig:
    experiment_name: int | str | None = None
    run_name: int | str | None = None
    tracking_uri: int | str | None = None
    artifact_location: int | str | None = None
    tags: Any = None
    resume: int | str | None = None
    description: int | str | None = None
    flatten_depth: int | str | None = None


@dataclass
class CometConfig:
    project_name: int | str | None = None
    workspace: int | str | None = None
    api_key: int | str | None = None
    experiment_name: int | str | None = None
    tags: Any = None
    auto_metric_logging: int | str | None = None

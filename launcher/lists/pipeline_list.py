"""Pipelines for people and programs: those that are found by name, and how the steps of one stand."""

from __future__ import annotations

from typing import Any

from launcher.catalog import pipelines
from launcher.catalog.pipelines import Pipeline
from launcher.records.pipeline_state import Book
from launcher.runs import lifecycle, progress
from slipway import canonical, tables
from slipway.project import Root


def names(root: Root) -> str:
    """One line each: name, steps, title."""
    found = {name: pipelines.find(root, name) for name in sorted(pipelines.files(root))}
    rows = [(name, " -> ".join(f.order), f.title) for name, f in found.items()]
    return tables.columns([("PIPELINE", "STEPS", "TITLE"), *rows], width=tables.terminal_width())


def standing(pipeline: Pipeline, book: Book, as_json: bool) -> str:
    """How the last run of each step stands."""
    rows = [_row(name, book) for name in pipeline.order]
    if as_json:
        return canonical.pretty({"schema": 1, "pipeline": pipeline.name, "file": pipeline.file, "steps": rows})
    heads = ("STEP", "STATE", "PROGRESS", "RUN")
    cells = [(r["step"], r["state"], r["progress"], r["run"] or "") for r in rows]
    return tables.columns([heads, *cells], width=tables.terminal_width())


def _row(name: str, book: Book) -> dict[str, Any]:
    run = book.run_of(name)
    record, state = lifecycle.refresh(run) if run else (None, "not started")
    outcome = record.outcome if record else None
    said = outcome.reported.loss() if outcome else progress.of(run, record).line if run and record else ""
    directory = str(run.path) if run else None
    return {"step": name, "state": state, "progress": said, "run": run.id if run else None, "directory": directory,
            "exit_code": outcome.exit_code if outcome else None}  # fmt: skip

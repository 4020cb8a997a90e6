"""What a launch was asked for beside its plan, so that the same can be asked again; and the runs that it follows."""

from __future__ import annotations

from slipway.yamldoc import Noun


class Former(Noun, frozen=True, kw_only=True):
    """Another run, by its id, and where its directory was."""

    run: str
    directory: str


class Replayed(Former, frozen=True, kw_only=True):
    """The run that another one repeats. `differs`: what was not as it was then (--allow-drift)."""

    differs: list[str] = []


class Asked(Noun, frozen=True, kw_only=True):
    """What the command line said that a plan does not say again: which words set parameters and keys, which shape.

    `inputs`: their names, in order; `words`: less inputs and output; `overlays`: of `-c`, whose values are in the plan;
    `secrets`, `code`: as options, with whole paths and commits; `commit`: of the project, empty where git knows none.
    `resumes`: the run that this one goes on from; `replays`: the one that it repeats; `expect`: of `--expect`.
    """

    inputs: list[str] = []
    words: list[str] = []
    overlays: list[str] = []
    nodes: int | None = None
    gpus: int | None = None
    gpu_ids: str | None = None
    procs: int | None = None
    secrets: list[str] = []
    code: list[str] = []
    allow_dirty: bool = False
    megatron_cache: str | None = None
    commit: str = ""
    resumes: Former | None = None
    replays: Replayed | None = None
    expect: list[str] = []

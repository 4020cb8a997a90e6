"""What a profile says in `sbatch:` arrives in Slurm as it was written, through Slurm's own parser of #SBATCH lines."""

from __future__ import annotations

import os

import pytest

from launcher.engines import slurm as engine

from .cluster import Cluster

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons and containers need root here"),
]
VALUES = [
    "plain",
    "a b",
    'a"b',
    "it's",
    "a\\",
    "#",
    "a #b",
    "x=y z,w",
    "$HOME `id` $(id)",
    "--nodes=9 é",
    "* ? ~ ! ; | & < >",
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_is_what_was_written(slurm: Cluster, value: str) -> None:
    options = engine._options({"comment": value, "hold": True, "nodes": 2}, engine._directive)
    script = slurm.folder / "directives.sh"
    script.write_text("\n".join(["#!/bin/bash", *(f"#SBATCH {option}" for option in options), "true", ""]))
    done = slurm.call("sbatch", "--parsable", str(script))
    assert done.code == 0, done
    shown = slurm.job(done.out.strip())
    slurm.call("scancel", done.out.strip())
    assert (shown["Comment"], shown["Reason"], shown["NumNodes"][0]) == (value, "JobHeldUser", "2")

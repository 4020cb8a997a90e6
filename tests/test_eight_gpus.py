"""docs/eight-gpus.md: the sizes of pretraining on one node of eight GPUs, and what the estimate says of each."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import REPO, Project

PAGE = REPO / "docs" / "eight-gpus.md"
STEP = "pretrain/megatron_bridge"
SITE = """\
schema: 1
kind: slurm
extends: slurm-pyxis
gpu: {model: H100, memory: 80GiB}
gpus: 8
"""
ROWS = [["-c", "1b"], ["-c", "1b", "-c", "tp4"], ["-c", "3b"], ["-c", "3b", "-c", "tp4"], ["-c", "8b"]]
NOTE = re.compile(
    r"memory: about ([0-9.]+) of 80 GiB a GPU: (.*) \(estimated; tensor (\d) x pipeline (\d) x context 1 x"
)
SHAPE = re.compile(r"data parallel (\d); a batch of 128 is (\d) x 1 x (\d+) accumulated")


@pytest.fixture
def site(project: Project) -> Project:
    project.write("slipway.d/profiles/site.yaml", SITE)
    return project


def planned(site: Project, *words: str) -> str:
    done = site.launch(STEP, "--profile", "site", "--dry-run", *words)
    assert not [line for line in done.stderr.splitlines() if line.startswith("error: ") and "image" not in line], done
    return done.stderr


def row(site: Project, words: list[str]) -> str:
    said = planned(site, *words)
    note, shape = NOTE.search(said), SHAPE.search(said)
    assert note and shape, said
    terms = dict(term.rsplit(" ", 1) for term in note[2].split(", "))
    cells = [f"`-c {' -c '.join(words[1::2])}`", note[3], note[4], shape[1], f"{shape[2]} x {shape[3]}"]
    cells += [terms[t] for t in ("weights", "gradients", "optimizer", "activations")]
    return f"| {' | '.join([*cells, note[1]])} |"


def test_the_page_says_what_a_launch_says(site: Project) -> None:
    rows = [row(site, words) for words in ROWS]
    text = PAGE.read_text()
    begin, end = "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n", "\n\n<!-- end of the table -->"
    head, _, rest = text.partition(begin)
    table, _, tail = rest.partition(end)
    if os.environ.get("SLIPWAY_ACCEPT"):
        PAGE.write_text("".join([head, begin, "\n".join(rows), end, tail]))
    else:
        assert table.splitlines() == rows, "accept with: SLIPWAY_ACCEPT=1 pytest tests/test_eight_gpus.py"
    assert all(float(line.split(" | ")[-1].removesuffix(" |")) < 0.85 * 80 for line in rows)


def configured(site: Project, *words: str) -> dict[str, Any]:
    done = site.launch("config", STEP, "--profile", "site", *words)
    assert done.stdout, done
    return dict(yaml.safe_load(done.stdout))


def test_one_thing_changes_at_a_time(site: Project) -> None:
    """Between a size and its -c tp4 the tensor parallel size alone; between two sizes what makes the model."""
    sizes = {size: configured(site, "-c", size) for size in ("1b", "3b", "8b")}
    for size in ("1b", "3b"):
        model = sizes[size]["model"] | {"tensor_model_parallel_size": 4}
        assert configured(site, "-c", size, "-c", "tp4") == sizes[size] | {"model": model}
        assert sizes[size]["model"]["tensor_model_parallel_size"] == 2
    assert {k for k in sizes["1b"] if sizes["1b"][k] != sizes["3b"][k] or sizes["1b"][k] != sizes["8b"][k]} == {"model"}


def test_mock_is_a_first_look(site: Project) -> None:
    said = planned(site, "-c", "1b", "-c", "mock")
    assert "Megatron-Bridge trains on its mock data, from which no model learns anything" in said
    found = configured(site, "-c", "1b", "-c", "mock")
    assert (found["train"]["train_iters"], found["validation"]["eval_iters"]) == (20, 0)
    assert found["checkpoint"]["save_interval"] == 20 and found["model"] == configured(site, "-c", "1b")["model"]


def test_nothing_of_the_hub_is_named() -> None:
    """The sizes are numbers of the configuration: no model's name, no address."""
    for path in (REPO / "launcher" / "steps" / Path(STEP)).glob("*.yaml"):
        assert "hf://" not in path.read_text() and "meta-llama" not in path.read_text()

"""A launch with GPUs is planned by the command that a user types: nothing of a probe is made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import Inputs, Project, record_image
from test_sqsh import squash

from images import lock as locks
from images import sidecar


@pytest.fixture
def words(project: Project, inputs: Inputs, tmp_path: Path) -> tuple[str, ...]:
    """The README's `launch rl/grpo policy=… train=…`, with the recorded .sqsh of NeMo RL's default cuda release."""
    entry = locks.select(locks.load_lock(project.root), "nemo-rl", "cuda")
    record = record_image(project.root, entry)
    squash(sidecar.folder(project.root), record, name=entry.name, entry=entry.checksum)
    (Path(inputs.model) / "chat_template.jinja").write_text("{{ messages }}")
    rows = tmp_path / "prompts.jsonl"
    rows.write_text(json.dumps({"input": "2 + 2", "output": "4"}) + "\n")
    return ("rl/grpo", f"policy={inputs.model}", f"train={rows}", f"output={tmp_path}/out")


@pytest.mark.parametrize(
    ("given", "said"),
    [((), ["--nodes=1", "--gpus-per-node=8"]), (("--nodes", "2", "--gpus", "4"), ["--nodes=2", "--gpus-per-node=4"])],
)
def test_slurm_is_asked_for_gpus_and_decides_itself(
    project: Project, words: tuple[str, ...], given: tuple[str, ...], said: list[str]
) -> None:
    done = project.launch("--profile", "slurm-pyxis", *words, *given, "--dry-run")
    assert done.code == 0, done.stderr
    assert {f"#SBATCH {option}" for option in said} <= set(done.stdout.splitlines())


def test_a_release_is_planned_as_its_tag_whatever_its_package_calls_itself(
    project: Project, words: tuple[str, ...], tmp_path: Path
) -> None:
    """NeMo RL's container v0.7.0 holds the commit before its tag, whose package is still 0.6.0's."""
    words = ("rl/dapo", *words[1:])
    done = project.launch("--profile", "slurm-pyxis", *words, "--dry-run", "-o", str(tmp_path / "plan"))
    assert done.code == 0, done.stderr
    plan = json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert plan["environments"]["main"]["packages"]["nemo-rl"] == "0.6.0"
    assert plan["config"]["base"]["path"].endswith("/recipes/llm/dapo-qwen2.5-7b.v2.yaml")
    assert plan["config"]["script"] == "/opt/nemo-rl/examples/run_grpo.py"

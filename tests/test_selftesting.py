"""launcher/cli/selftesting.py and launcher/selftest/trial.py, by the command line, over an engine that starts nothing.

What really runs is in tests/real/test_selftest.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import Engine, Project, Refused, record_image, squash, tree

from images.locking import lock as locks
from images.squashing import sidecar

CPU = ("selftest", "--flavour", "cpu")


@pytest.mark.usefixtures("built")
def test_a_dry_run_says_what_would_run_and_makes_nothing(project: Project, tmp_path: Path) -> None:
    before = tree(tmp_path)
    done = project.launch(*CPU, "--library", "automodel", "--dry-run")
    assert done.code == 0 and tree(tmp_path) == before
    first, *_, last = done.stdout.splitlines()
    made = project.path / "runs" / ".selftest-"
    assert first.startswith(
        "launch --profile docker peft/automodel --flavour cpu --release 0.7.0 --procs 1 -c tiny train="
    )
    assert f"train={made}" in first and first.endswith("/edition-1/model")
    assert last.startswith("launch --profile docker convert/merge_lora_hf ") and " adapter=run:peft/automodel " in last


def test_on_slurm_it_needs_the_sqsh_files(project: Project) -> None:
    """Of what cannot run the words are said, too, behind a #."""
    entry = locks.select(locks.load_lock(project.root), "nemo-rl", "cuda")
    squash(sidecar.folder(project.root), record_image(project.root, entry))
    done = project.launch("selftest", "--profile", "slurm-pyxis", "--dry-run", "--json")
    assert done.code == 0, done
    steps = {step["step"]: step for step in json.loads(done.stdout)["steps"]}
    assert steps["rl/nemo_rl/grpo"]["why"] == "" and "--gpus" in steps["rl/nemo_rl/grpo"]["command"]
    assert "there is no automodel-26.08.00-cuda" in steps["sft/automodel"]["why"]
    shown = project.launch("selftest", "--profile", "slurm-pyxis", "--dry-run").stdout
    assert "# skipped: sft/automodel in automodel/26.08.00-cuda: no image: " in shown
    assert "\n# launch --profile slurm-pyxis sft/automodel " in shown
    assert "\nlaunch --profile slurm-pyxis rl/nemo_rl/grpo --flavour cuda --release v0.7.0 --gpus 1 -c tiny " in shown


def test_where_there_is_no_image_nothing_runs_and_nothing_is_made(
    project: Project, engine: Engine, tmp_path: Path
) -> None:
    before = tree(tmp_path)
    done = project.launch(*CPU, "--library", "automodel")
    assert done.code == 69 and tree(tmp_path) == before
    assert done.stdout.count("skipped  ") == 4 and "no image: it has not been built; images build" in done.stdout
    assert done.stderr == "no step could be run with the profile docker\n  launch selftest --dry-run says why of each\n"
    assert not [line for line in engine.asked if line.startswith("POST")]


@pytest.mark.usefixtures("built")
def test_a_step_that_fails_takes_its_successors_with_it_and_is_not_attested(project: Project) -> None:
    """The engine makes no container: each launch is refused, and leaves nothing."""
    done = project.launch(*CPU, "--library", "automodel", "--json")
    assert done.code == 69, done
    told = json.loads(done.stdout)
    results = {step["step"]: step["tested"] for step in told["steps"]}
    assert {name: step["result"] for name, step in results.items()} == {
        "peft/automodel": "failed", "pretrain/automodel": "failed", "sft/automodel": "failed",
        "convert/merge_lora_hf": "skipped",
    }  # fmt: skip
    assert "a stand-in makes nothing" in results["sft/automodel"]["why"] and results["sft/automodel"]["exit_code"] == 69
    assert results["convert/merge_lora_hf"]["why"] == "peft/automodel, whose output it takes, has made none"
    assert (told["exit_code"], told["attestations"]) == (69, []) and not (project.root.state / "attestations").exists()
    (made,) = (project.path / "runs").glob(".selftest-*/*")
    assert made.name == "edition-1" and made.parent.stat().st_mode & 0o777 == 0o700
    assert list((project.path / "runs").iterdir()) == [made.parent]


@pytest.mark.usefixtures("built")
def test_what_a_launch_would_refuse_is_a_failure(project: Project) -> None:
    project.write(
        "slipway.d/steps/mine/sft/step.yaml",
        "extends: [sft/automodel]\ntitle: Ours\nselftest: {words: [step_scheduler.mx_steps=1, sed=1]}\n",
    )
    done = project.launch(*CPU, "--library", "automodel", cwd=project.path)
    line = next(line for line in done.stdout.splitlines() if " mine/sft " in line)
    assert line.startswith("failed ") and "sed=1: mine/sft has no input or parameter 'sed'" in line


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--library", "automodle"), 64, "error: unknown library 'automodle'\n  did you mean 'automodel'?\n"),
        (("--release", "0.7.0"), 64, "error: --release: a release is of one library\n  name it: --library L\n"),
        (("--library", "automodel", "--release", "0.7.1"), 64, "error: automodel has no release '0.7.1' for"),
        (("--profile", "dokcer"), 64, "error: unknown profile 'dokcer'\n  did you mean 'docker'?\n"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("built")
def test_words_that_fit_nothing(refused: Refused, words: tuple[str, ...], code: int, said: str) -> None:
    assert refused(code, *CPU, *words).startswith(said)

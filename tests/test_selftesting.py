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
        "launch --profile docker peft/automodel --flavour cpu --release 0.7.0 --procs 2 -c tiny train="
    )
    assert f"train={made}" in first and first.endswith("/edition-2/model")
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
    assert made.name == "edition-2" and made.parent.stat().st_mode & 0o777 == 0o700
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


# What Slurm's commands do at a site where each job is over when sbatch returns, and has left a checkpoint.
SBATCH = """
/bin/mkdir -p container/0/ranks output
/bin/cp -r ../.selftest-*/edition-*/model/. output
echo '{"exit_code": 0, "cause": "step", "machine": "EPYC, 2 processors"}' >container/0/status.json
echo '{"gpu_names": ["NVIDIA H200"], "driver": "575"}' >container/0/versions.json
echo '{"checkpoint": "/output", "type": "checkpoint_hf"}' >container/result.json
printf '%s\\n' '{"event": "start", "attempt": 0, "job": "7", "time": "2026-01-01T00:00:00Z"}' \\
    '{"event": "end", "attempt": 0, "job": "7", "exit": "0", "requeued": "false", "time": "2026-01-01T00:00:09Z"}' \\
    >attempts.jsonl
echo 7
"""


def test_on_slurm_each_job_is_waited_for_and_what_it_has_made_is_looked_at(project: Project, tmp_path: Path) -> None:
    """The adapter that peft promises is a whole model here: a failure, although its job ended well."""
    entry = locks.select(locks.load_lock(project.root), "automodel", "cuda")
    squash(tmp_path / "shared" / "squash", record_image(project.root, entry))
    lines = ["schema: 1", "kind: slurm", "gpus: 8", f"shared: [{tmp_path}/shared]"]
    lines += [
        f"squash: {tmp_path}/shared/squash",
        f"runs: {tmp_path}/shared/runs",
        f"hf_home: {tmp_path}/shared/hf",
        "",
    ]
    project.write("slipway.d/profiles/site.yaml", "\n".join(lines))
    project.program("sbatch", SBATCH)
    project.program("scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    for name in ("sacct", "squeue"):
        project.program(name, "echo 'accounting storage is disabled' >&2; exit 1")
    done = project.launch("selftest", "--profile", "site", "--library", "automodel", "--json")
    assert done.code == 65, done
    told = json.loads(done.stdout)
    steps = {step["step"]: step["tested"] for step in told["steps"]}
    assert {name: step["result"] for name, step in steps.items()} == {
        "peft/automodel": "failed", "pretrain/automodel": "ok", "sft/automodel": "ok",
        "convert/merge_lora_hf": "skipped",
    }  # fmt: skip
    assert (
        steps["peft/automodel"]["why"] == "it ended with 0, and its output is checkpoint_hf, expected checkpoint_lora"
    )
    (file,) = told["attestations"]
    found = json.loads(Path(file).read_text())
    assert (found["hardware"], found["driver"], found["engine"]) == ("1 x NVIDIA H200", "575", "slurm")
    refused = project.images("lock", "--attest", file)
    assert refused.code == 65 and f"error: {file}: peft/automodel failed: it ended with 0" in refused.stderr
    runs = project.launch("runs", "--profile", "site", "--tag", "selftest", "--json").stdout.splitlines()
    assert [json.loads(run)["step"] for run in runs] == ["peft/automodel", "pretrain/automodel", "sft/automodel"]

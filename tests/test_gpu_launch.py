"""A launch with GPUs is planned by the command that a user types: nothing of a probe is made by hand."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers import HERE, REPO, Done, Inputs, Project, record_image, squash, write_checkpoint
from test_checkpoints import write_megatron

from images.locking import lock as locks
from images.locking import platforms
from images.squashing import sidecar


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


def site(project: Project, *lines: str) -> Path:
    """A site's profile, whose own lines begin with the fourth."""
    text = "\n".join(["schema: 1", "kind: slurm", "extends: slurm-pyxis", *lines, ""])
    return project.write("slipway.d/profiles/site.yaml", text)


def dry(project: Project, *words: str) -> Done:
    return project.launch("--profile", "site", *words, "--dry-run")


def directives(done: Done) -> set[str]:
    return {line.removeprefix("#SBATCH --") for line in done.stdout.splitlines() if line.startswith("#SBATCH --")}


GPU_OPTIONS = ("gpus", "gres", "gpus-per-node")


@pytest.mark.parametrize(
    ("lines", "given", "said", "procs"),
    [
        (["gpus: 4"], (), "gpus-per-node=4", 4),
        (["gpus: 4"], ("--gpus", "2"), "gpus-per-node=2", 2),
        (["gpus: 16", "gpus_by: gres", "gpu_type: v100"], (), "gres=gpu:v100:16", 16),
    ],
)
def test_a_step_that_wants_a_whole_node_gets_as_many_gpus_as_the_sites_have(
    project: Project, words: tuple[str, ...], lines: list[str], given: tuple[str, ...], said: str, procs: int
) -> None:
    site(project, *lines)
    done = dry(project, *words, *given)
    assert done.code == 0, done.stderr
    assert said in directives(done)
    assert f"shape: Ray with 1 x {procs} workers" in done.stderr
    assert (f"gpus {procs}: a node has as many (profile site)\n" in done.stderr) == (not given)


def test_more_gpus_than_a_node_has_are_refused_with_the_profiles_line(project: Project, words: tuple[str, ...]) -> None:
    """Also where another profile extends the one that says it."""
    file = site(project, "gpus: 4")
    project.write("slipway.d/profiles/mine.yaml", "schema: 1\nkind: slurm\nextends: site\naccount: me\n")
    for profile in ("site", "mine"):
        done = project.launch("--profile", profile, *words, "--gpus", "8", "--dry-run")
        assert done.code == 64
        assert (
            f"error: {file}:4:1: gpus: 8 GPUs asked for on each node, which has 4\n"
            "  say --gpus 4 or less, and more --nodes; or correct what the profile says\n"
        ) in done.stderr


def test_a_step_of_one_process_may_have_several_gpus(project: Project, inputs: Inputs, tmp_path: Path) -> None:
    """A model larger than one GPU is spread over them by the process itself; more processes would each load it."""
    entry = locks.select(locks.load_lock(project.root), "modelopt", "cuda")
    squash(sidecar.folder(project.root), record_image(project.root, entry))
    site(project)
    words = ("optimize/modelopt/quantize", f"model={inputs.model}", f"output={tmp_path}/out")
    done = dry(project, *words, "--gpus", "4", "-o", str(tmp_path / "plan"))
    assert done.code == 0, done.stderr
    assert {"nodes=1", "gpus-per-node=4"} <= directives(done)
    plan = json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert plan["shape"] == {"nodes": 1, "gpus": 4, "procs": 1} and plan["env"]["SLIPWAY_PROCS"]["value"] == "1"
    for option in ("--procs", "--nodes"):
        done = dry(project, *words, option, "2")
        said = f"error: {option}: optimize/modelopt/quantize runs in one process, 2 asked for\n  leave it out; --gpus"
        assert done.code == 64 and said in done.stderr


def test_where_gpus_are_no_resource_of_slurms_a_job_takes_whole_nodes(project: Project, words: tuple[str, ...]) -> None:
    site(project, "exclusive: false", "gpus_by: none", "gpus: 4")
    done = dry(project, *words)
    assert done.code == 0, done.stderr
    assert "exclusive" in directives(done) and "GPUS=4" in done.stdout.splitlines()
    assert not any(d.startswith(GPU_OPTIONS) for d in directives(done))
    site(project, "exclusive: false", "gpus_by: none", "gpus: 4", "gpu_type: h100")
    assert "site.yaml:7:1: gpu_type: says as which type GPUs are asked for, and" in dry(project, *words).stderr


def test_a_job_may_have_no_limit_of_time(project: Project, words: tuple[str, ...]) -> None:
    site(project, "time: UNLIMITED")
    assert "time=UNLIMITED" in directives(dry(project, *words))


@pytest.mark.parametrize(
    ("lines", "by"),
    [
        (["gpu: {model: GB200, memory: 186GiB}"], "gpu.model, profile site"),
        (["arch: arm64"], "arch, profile site"),
    ],
)
def test_an_image_for_another_processor_is_refused(
    project: Project, words: tuple[str, ...], lines: list[str], by: str
) -> None:
    site(project, *lines)
    done = dry(project, *words)
    assert done.code == 65
    (file,) = sidecar.folder(project.root).glob("*.sqsh")
    assert f"error: {file}: is for linux/amd64; containers run on linux/arm64 ({by})\n" in done.stderr
    assert "--flavour cuda --platform linux/arm64, then: images squash nemo-rl/" in done.stderr
    beside = sidecar.path_of(file)
    beside.write_text(beside.read_text().replace("linux/amd64", "linux/arm64"))
    assert dry(project, *words).code == 0
    site(project, "arch: amd64")
    assert dry(project, *words).code == 65


def test_enroot_runs_an_image_of_this_machines_processor(project: Project, words: tuple[str, ...]) -> None:
    project.program("enroot", "echo 4.1.2")
    (file,) = sidecar.folder(project.root).glob("*.sqsh")
    beside, here = sidecar.path_of(file), platforms.named(os.uname().machine)
    text = beside.read_text()
    for platform, refused in (("linux/riscv64", True), (here, False)):
        beside.write_text(text.replace("linux/amd64", platform))
        done = project.launch("--profile", "enroot", *words, "--flavour", "cuda", "--dry-run")
        said = f"error: {file}: is for {platform}; containers run on {here} (uname -m)\n"
        assert (said in done.stderr) == refused
        assert ("images build nemo-rl" in done.stderr) == refused and "correct what the profile" not in done.stderr


def run(text: str, folder: Path) -> tuple[int, str]:
    """Piped into bash, as one does with what a dry run prints; there is nothing on PATH that it could do."""
    done = subprocess.run(["/bin/bash"], input=text, cwd=folder, env={"PATH": ""}, capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_a_dry_run_that_found_errors_prints_a_script_that_refuses_to_run(
    project: Project, words: tuple[str, ...], tmp_path: Path, as_json: bool
) -> None:
    """Every error is in it, and all of the script; sbatch reads none of its options, and so asks for little."""
    site(project, "gpus: 4")
    good, bad = (
        project.launch("--profile", "site", *words, *more, "--dry-run", *(["--json"] if as_json else []))
        for more in (("--gpus", "4"), ("--gpus", "8", "--env", "RANK=it's"))
    )
    assert (good.code, bad.code) == (0, 64)
    texts: Any = [json.loads(d.stdout)["script"] if as_json else d.stdout for d in (good, bad)]
    assert "exit 78" not in texts[0].splitlines()
    first, *rest = texts[1].splitlines()
    assert first == "#!/usr/bin/env bash" and rest.index("exit 78") < rest.index("#SBATCH --gpus-per-node=8")
    assert texts[1].rstrip().endswith(texts[0].rstrip().splitlines()[-1])
    (tmp_path / "empty").mkdir()
    code, said = run(texts[1], tmp_path / "empty")
    assert code == 78 and not list((tmp_path / "empty").iterdir())
    for line in ("slipway: refused: --env: RANK: is set by the launcher", "gpus: 8 GPUs asked for on each node"):
        assert line in said


def test_a_script_refuses_likewise_where_what_comes_first_is_refused(
    project: Project, words: tuple[str, ...], tmp_path: Path
) -> None:
    """NeMo RL's cpu image is there, the image with which its model is converted first is not."""
    entry = locks.select(locks.load_lock(project.root), "nemo-rl", "cpu")
    record = record_image(project.root, entry)
    squash(sidecar.folder(project.root), record)
    given = ("backend=megatron", "policy.megatron_cfg.optimizer.bf16=false")  # since without CUDA all is in float32
    given = (*given, "--flavour", "cpu", "--dry-run", "--megatron-cache", f"{tmp_path}/cache")
    done = project.launch("--profile", "slurm-pyxis", *words, *given)
    assert done.code == 66 and "error: image of megatron-bridge/" in done.stderr, done.stderr
    assert done.stderr.count("error: ") == 1
    code, said = run(done.stdout, tmp_path)
    assert (code, said) == (78, "slipway: refused: what has to be made first is refused (66): the dry run says why\n")


def test_dockers_command_refuses_likewise_and_leaves_the_shell_alone(
    project: Project, inputs: Inputs, tmp_path: Path
) -> None:
    done = project.launch("--dry-run", "sft/automodel", *inputs.words)
    assert done.code == 69 and "docker run --name" in done.stdout
    code, said = run(done.stdout, tmp_path)
    assert code == 78 and "slipway: refused: unix://" in said and "docker: " not in said
    assert run(f"{done.stdout}echo and on >&2\n", tmp_path)[1].endswith("and on\n")


def readmes(heading: str) -> list[str]:
    """The blocks of a part of the README that are typed or written, less their indentation."""
    part = (REPO / "README.md").read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"(?:^    .*\n)+", part, re.M)
    return [re.sub(r"^    ", "", block, flags=re.M) for block in blocks]


def test_the_readmes_command_and_profile_for_a_cluster_as_they_stand(project: Project, tmp_path: Path) -> None:
    """With nothing put to them: what is below /lustre is below a folder of this test's."""
    command, profile, *_ = (block.replace("/lustre", f"{tmp_path}/lustre") for block in readmes("On a cluster"))
    project.write("slipway.d/profiles/site.yaml", profile)
    project.env["HF_TOKEN"] = "a token"
    lustre = tmp_path / "lustre"
    write_megatron(lustre / "base")
    write_checkpoint(lustre / "llama")
    (lustre / "packed").mkdir()
    shutil.copy(HERE / "data" / "packed.parquet", lustre / "packed" / "training_2048.idx.parquet")
    (lustre / "packed" / "2048_metadata.jsonl").write_text('[{"dataset_max_seqlen": 39, "pack_size": 2048}]')
    entry = locks.select(locks.load_lock(project.root), "megatron-bridge", "cuda")
    squash(lustre / "me" / "squash", record_image(project.root, entry))
    program, *words = shlex.split(command.replace("\\\n", ""))
    done = project.launch(*words, "--dry-run")
    assert (program, done.code) == ("launch", 0), done.stderr
    said = {"nodes=4", "gpus-per-node=8", "account=nemotron", "time=4:00:00", "comment=nemotron", "partition=batch"}
    assert said <= directives(done)
    assert "model.tensor_model_parallel_size=4" in done.stderr and "data parallel 8" in done.stderr

"""launcher/records/outputs.py and what is made of it: going on from a checkpoint, and one run at a time in a folder."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from helpers import CHAT, Engine, Inputs, Project, Refused, errors, record_of, write_chat_model

from launcher.artifacts import detection
from launcher.artifacts.detection import OF_RUNS
from launcher.core.plan import Plan
from launcher.records import leases, outputs
from launcher.records.run_directory import Run
from slipway.errors import SlipwayError

STEP = "sft/automodel"
RUN = "20260101T000000Z-sft.automodel-aaaaaa"


def living(held: leases.Holder, remedy: str) -> bool:
    """An engine that has every run."""
    return bool(held.run and remedy)


@pytest.fixture
def made(project: Project, inputs: Inputs, built: Engine, tmp_path: Path) -> Path:
    """An output that a run of `sft/automodel train=… model=…` has left, with a checkpoint."""
    assert built.address
    out = checkpointed(tmp_path / "out")
    plan = plan_of(project, tmp_path, STEP, *inputs.words, f"output={tmp_path}/fresh")
    outputs.sign(out, outputs.of_plan(plan, Run(tmp_path / RUN)))
    return out


def checkpointed(out: Path) -> Path:
    """As AutoModel leaves it: the name of the last checkpoint is a link."""
    (out / "epoch_0_step_9" / "model").mkdir(parents=True)
    (out / "epoch_0_step_9" / "model" / "weights").touch()
    (out / "LATEST").symlink_to("epoch_0_step_9")
    return out


def plan_of(project: Project, tmp_path: Path, *words: str) -> Plan:
    done = project.launch("-o", str(tmp_path / "planned"), *words)
    assert done.code == 0, done
    text = (tmp_path / "planned" / "plan.json").read_text()
    shutil.rmtree(tmp_path / "planned")
    return msgspec.json.decode(text, type=Plan)


def test_a_run_goes_on_from_what_it_was_made_with(project: Project, inputs: Inputs, made: Path) -> None:
    """Also with other settings, and from a link to the folder."""
    words = ["--dry-run", "--resume", STEP, *inputs.words, "max_steps=7"]
    (made.parent / "link").symlink_to(made)
    for name in ("out", "link"):
        done = project.launch(*words, f"output={made.parent}/{name}")
        assert (done.code, errors(done.stderr)) == (0, ""), done


@pytest.mark.parametrize("what", ["train", "model", "validation", "moved"])
def test_with_other_inputs_it_is_refused_and_each_difference_is_named(
    project: Project, inputs: Inputs, made: Path, tmp_path: Path, what: str
) -> None:
    words = list(inputs.words)
    if what == "train":
        with inputs.train.open("a") as f:
            f.write(json.dumps(CHAT) + "\n")
    elif what == "model":
        words[1] = f"model={write_chat_model(tmp_path / 'other')}"
        (tmp_path / "other" / "config.json").write_text('{"architectures": ["MistralForCausalLM"]}')
    elif what == "validation":
        words.append(f"validation={inputs.train}")
    else:
        words[1] = f"model={inputs.model.rename(tmp_path / 'elsewhere')}"
    done = project.launch("--dry-run", "--resume", STEP, *words, f"output={made}")
    if what == "moved":
        assert (done.code, errors(done.stderr)) == (0, ""), "its content counts, not its place"
        return
    said = f"error: output={made}: --resume: run {RUN} made what is there with another {what}: "
    assert done.code == 65 and errors(done.stderr).startswith(said)
    assert "accept it with --allow-drift" in done.stderr
    allowed = project.launch("--dry-run", "--resume", "--allow-drift", STEP, *words, f"output={made}")
    assert allowed.code == 0 and f"warning: {said.removeprefix('error: ')}" in allowed.stderr


def test_two_differences_are_two_lines(project: Project, inputs: Inputs, made: Path, tmp_path: Path) -> None:
    write_chat_model(tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text('{"architectures": ["MistralForCausalLM"]}')
    words = [f"train={inputs.train}", f"model={tmp_path}/other", f"output={made}", "--resume"]
    done = project.launch("check", "peft/automodel", *words)
    found = [line.partition("with another ")[2].partition(":")[0] for line in done.stderr.splitlines()]
    assert done.code == 65 and [w for w in found if w] == ["step", "model"]
    assert "step: sft/automodel, this is peft/automodel" in done.stderr


def test_a_checkpoint_of_another_release_is_refused(project: Project, inputs: Inputs, made: Path) -> None:
    origin = outputs.origin(made)
    assert origin
    outputs.sign(made, msgspec.structs.replace(origin, release="0.6.9", entry="f" * 64))
    done = project.launch("--dry-run", "--resume", STEP, *inputs.words, f"output={made}")
    assert done.code == 65 and "with another library: automodel/0.6.9-cpu, this is automodel/" in done.stderr
    outputs.sign(made, msgspec.structs.replace(origin, entry="f" * 64))
    done = project.launch("--dry-run", "--resume", STEP, *inputs.words, f"output={made}")
    assert done.code == 0 and f"{made} was made with entry {'f' * 12}, this is" in done.stderr


@pytest.mark.parametrize(
    ("named", "how", "meant"),
    [
        ("{R}", "has no checkpoint", "{R}/output"),
        ("{T}/deep", "has no checkpoint", "{T}/deep/a/b"),
        ("{T}/out/epoch_0_step_9", "has no checkpoint", "{T}/out"),
        ("{T}/out/epoch_0_step_9/model", "has no checkpoint", "{T}/out"),
        ("{T}/outt", "there is nothing there", "{T}/out"),
        ("{T}/empty", "is empty", ""),
        ("{T}/project/images", "has no checkpoint", ""),
    ],
)
@pytest.mark.usefixtures("made")
def test_a_folder_without_a_checkpoint_is_refused_and_the_nearest_named(
    project: Project, refused: Refused, inputs: Inputs, tmp_path: Path, named: str, how: str, meant: str
) -> None:
    plan = plan_of(project, tmp_path, STEP, *inputs.words)
    run = Run(project.path / "runs" / RUN)
    run.path.mkdir(parents=True)
    (run.path / "plan.json").write_bytes(msgspec.json.encode(plan))
    run.write(record_of(run, plan))
    checkpointed(run.path / "output")
    checkpointed(tmp_path / "deep" / "a" / "b")
    (tmp_path / "empty").mkdir()
    given = named.format(T=tmp_path, R=run.path)
    said = errors(refused(66, "--resume", STEP, *inputs.words, f"output={given}"))
    where, remedy = named.format(T="T", R=f"T/project/runs/{RUN}"), meant.format(T="T", R=f"T/project/runs/{RUN}")
    assert said.startswith(f"error: output={where}: --resume: {how}; expected LATEST, which sft/automodel leaves\n")
    expected = f"did you mean output={remedy}" if meant else "name the output of the run that goes on, or leave --resum"
    assert said.splitlines()[1].startswith(f"  {expected}")


def test_an_output_in_a_run_directory_is_compared_with_that_runs_plan(
    project: Project, inputs: Inputs, built: Engine, tmp_path: Path
) -> None:
    plan, path = plan_of(project, tmp_path, STEP, *inputs.words), project.path / "runs" / RUN
    checkpointed(path / "output")
    (path / "plan.json").write_bytes(msgspec.json.encode(plan))
    words = ["--dry-run", "--resume", STEP, *inputs.words, f"output={path}/output"]
    done = project.launch(*words)
    assert built.asked and (done.code, errors(done.stderr)) == (0, "")
    (inputs.model / "config.json").write_text('{"architectures": ["MistralForCausalLM"]}')
    done = project.launch(*words)
    assert done.code == 65 and f"run {RUN} made what is there with another model: " in done.stderr


@pytest.mark.parametrize("left", ["{", "link", "fifo"])
def test_an_origin_that_cannot_be_read_is_said(project: Project, inputs: Inputs, made: Path, left: str) -> None:
    file = made / OF_RUNS / "origin.json"
    file.unlink()
    {
        "{": lambda: file.write_text("{"),
        "link": lambda: file.symlink_to("/etc/passwd"),
        "fifo": lambda: os.mkfifo(file),
    }[left]()
    done = project.launch("--dry-run", "--resume", STEP, *inputs.words, f"output={made}")
    assert done.code == 0 and f"note: --resume: {file}: " in done.stderr and "is not known" in done.stderr


def test_a_run_that_saved_nothing_may_be_launched_into_its_folder_again(
    project: Project, inputs: Inputs, made: Path
) -> None:
    (made / "LATEST").unlink()
    done = project.launch("--dry-run", "--resume", STEP, *inputs.words, f"output={made}")
    assert (
        done.code == 0 and f"run {RUN} has saved no checkpoint there, so the run starts from the begin" in done.stderr
    )


def test_a_step_that_cannot_go_on_says_so(refused: Refused, inputs: Inputs, built: Engine) -> None:
    words = ["convert/hf_to_megatron", f"model={inputs.model}", "--resume", "--flavour", "cpu"]
    assert built.address and "convert/hf_to_megatron has nothing to go on from" in refused(64, *words)


def test_what_launchers_leave_is_no_part_of_an_output(tmp_path: Path, made: Path) -> None:
    before = detection.inspect("x", made)
    shutil.rmtree(made / OF_RUNS)
    assert detection.inspect("x", made) == before
    (tmp_path / "empty" / OF_RUNS).mkdir(parents=True)
    assert outputs.is_empty(tmp_path / "empty") and not outputs.is_empty(made)


def test_a_launch_that_the_engine_refuses_leaves_an_output_as_it_was(
    project: Project, inputs: Inputs, made: Path, built: Engine, tmp_path: Path
) -> None:
    origin = outputs.origin(made)
    for words, out in ((["--resume"], made), ([], tmp_path / "new")):
        assert project.launch(*words, STEP, *inputs.words, f"output={out}").code == 69
        assert built.refused
    assert outputs.origin(made) == origin and not (made / OF_RUNS / "lease").exists()
    assert not (tmp_path / "new").exists()


def test_one_run_at_a_time_writes_into_a_folder(tmp_path: Path, made: Path, project: Project, inputs: Inputs) -> None:
    plan = plan_of(project, tmp_path, STEP, *inputs.words, f"output={tmp_path}/new")

    def take(number: int) -> str:
        run = Run(tmp_path / "runs" / f"r{number}")
        try:
            outputs.Claim(tmp_path / "new", run).take(plan, "unix:///x", living)
        except SlipwayError as e:
            assert e.code == 75 and e.where == f"output={tmp_path}/new", e
            return ""
        return run.id

    assert made
    (tmp_path / "new").mkdir()
    with ThreadPoolExecutor(16) as pool:
        (winner,) = filter(None, pool.map(take, range(16)))
    held = leases.holder(outputs.lease(tmp_path / "new"))
    origin = outputs.origin(tmp_path / "new")
    assert held and origin and held.run == origin.run == winner


def test_a_folder_that_a_run_has_written_into_since_the_plan_is_refused(
    tmp_path: Path, made: Path, project: Project, inputs: Inputs
) -> None:
    """The other run has even ended, and given its lease back."""
    plan = plan_of(project, tmp_path, STEP, *inputs.words, f"output={tmp_path}/new")
    claim = outputs.Claim(made, Run(tmp_path / "r"))
    with pytest.raises(SlipwayError, match="is not empty any more") as e:
        claim.take(plan, "unix:///x", living)
    claim.give_back()
    assert e.value.code == 73 and outputs.origin(made).run == RUN  # type: ignore[union-attr]
    assert not outputs.lease(made).exists()


def test_of_two_jobs_of_slurm_into_one_output_the_second_is_refused_until_the_first_has_ended(
    project: Project, words: tuple[str, ...], tmp_path: Path
) -> None:
    """The job's state is the controller's word; which run it is stands in the lease, wherever its directory is."""
    project.program("sbatch", "echo 7")
    project.program("squeue", "exit 0")
    for name in ("cat", "bash"):
        (Path(project.env["PATH"]) / name).symlink_to(str(shutil.which(name)))
    launch = ("--profile", "slurm-pyxis", *words)
    controller(project, "PENDING", "Reason=Resources")
    first = project.launch(*launch)
    assert first.code == 0, first
    second = project.launch(*launch, "--runs-dir", str(tmp_path / "elsewhere"))
    assert second.code == 75 and f"output={tmp_path}/out: run {first.stdout.strip()} writes there\n" in second.stderr
    assert not list((tmp_path / "elsewhere").glob("2*"))
    controller(project, "CANCELLED", "Reason=None")
    third = project.launch(*launch, "--runs-dir", str(tmp_path / "elsewhere"))
    assert third.code == 0, third
    held = leases.holder(outputs.lease(tmp_path / "out"))
    assert held and held.directory == str(tmp_path / "elsewhere" / third.stdout.strip()) and held.kind == "slurm"


def controller(project: Project, state: str, *facts: str) -> None:
    """What Slurm's controller says of every job."""
    text = " ".join(["JobId=7 JobName=x", f"JobState={state} ExitCode=0:0 Restarts=0 Requeue=1", *facts])
    project.program("scontrol", f"echo '{text}'")

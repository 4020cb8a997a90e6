"""Runs that follow others: launch resume, run:RUN as an input, --after, launch replay. By the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import IMAGE, Engine, Inputs, Project, errors, record_of, tree, write_chat_model
from test_code import commit, repository, write
from test_outputs import checkpointed, controller

from launcher.catalog.definitions import Resume
from launcher.core.asked import Asked
from launcher.core.plan import Plan
from launcher.planning import repeating
from launcher.records import outputs
from launcher.records.run_directory import Outcome, Run

STEP = "sft/automodel"
PINS = {"ATEN_CPU_CAPABILITY", "MKL_CBWR", "OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA"}
ID = "20260101T000000Z-sft.automodel-aaaaaa"
DONE = Outcome(exit_code=0, cause="step", reason="done", result={"steps": 10, "total_steps": 10})
STOPPED = Outcome(exit_code=130, cause="signal", reason="stopped", result={"steps": 10, "total_steps": 40})
FAILED = Outcome(exit_code=3, cause="step", reason="the step failed: ValueError: no")


def replaced(outcome: Outcome, **changes: Any) -> Outcome:
    return msgspec.structs.replace(outcome, **changes)


def ended(project: Project, outcome: Outcome | None, *words: str, run_id: str = ID) -> Run:
    """A run of `launch WORDS` with that outcome, in the project's runs; its plan is what `-o` writes."""
    run = Run(project.path / "runs" / run_id)
    done = project.launch("-o", str(run.path), *words)
    assert done.code == 0, done
    plan = msgspec.json.decode((run.path / "plan.json").read_bytes(), type=Plan)
    asked = msgspec.json.decode((run.path / "asked.json").read_bytes(), type=Asked)
    state: Any = "ended" if outcome else "submitted"
    run.write(record_of(run, plan, project.env["DOCKER_HOST"], state=state, outcome=outcome, asked=asked))
    (run.path / "lock").touch()
    run.event("started")
    if outcome:
        run.event("ended")
    return run


def signed(run: Run) -> Path:
    """What the run would have left in its output: a checkpoint after ten steps, and its name."""
    record = run.record()
    assert record
    out = checkpointed(repeating.output(run, record.plan))
    outputs.sign(out, outputs.of_plan(record.plan, run))
    return out


def dry(project: Project, *words: str) -> tuple[int, str, str]:
    """Exit code and words of a dry run, and the request that it prints."""
    before = tree(project.path)
    done = project.launch("--dry-run", *words)
    assert tree(project.path) == before
    return done.code, errors(done.stderr), done.stdout


def planless(request: str) -> list[str]:
    """The lines of a request but for the plan's hash, which is another where the plan says more."""
    return [line for line in request.splitlines() if "slipway.plan=" not in line]


def test_a_run_goes_on_as_it_was_launched(project: Project, inputs: Inputs, built: Engine, tmp_path: Path) -> None:
    """Whatever has become of the file of `-c`, and from any folder."""
    (tmp_path / "mine.yaml").write_text("optimizer: {lr: 0.5}\n")
    words = (STEP, *inputs.words, f"output={tmp_path}/out", "max_steps=40", "dataset.seq_length=77")
    words += ("-c", "tiny", "-c", str(tmp_path / "mine.yaml"), "--env", "MINE=1", "--procs", "2")
    run = ended(project, STOPPED, *words)
    signed(run)
    expected = dry(project, *words, "--resume")
    (tmp_path / "mine.yaml").unlink()
    code, said, request = dry(project, "resume", "last")
    assert built.address
    assert (code, said, request) == (0, "steps 11 to 40\n", expected[2])


def test_words_are_added_or_replaced(project: Project, inputs: Inputs, built: Engine, tmp_path: Path) -> None:
    words = (STEP, *inputs.words, f"output={tmp_path}/out", "max_steps=40", "-c", "tiny")
    signed(ended(project, STOPPED, *words))
    code, said, request = dry(project, "resume", "aaaaaa", "max_steps=200", "optimizer.lr=0.1")
    assert built.address
    assert (code, said) == (0, "steps 11 to 200\n")
    again = (STEP, *inputs.words, f"output={tmp_path}/out", "-c", "tiny", "--resume")
    assert request == dry(project, *again, "max_steps=200", "optimizer.lr=0.1")[2]
    (other := tmp_path / "other").mkdir()
    code, said, _ = dry(project, "resume", "last", f"model={write_chat_model(other / 'm')}", "seed=3")
    assert code == 0, "the same content is the same model"
    code, said, _ = dry(project, "resume", "last", f"train={_longer(inputs, tmp_path)}")
    assert code == 65 and f"run {ID} made what is there with another train: " in said, said
    assert dry(project, "resume", "last", "--allow-drift", f"train={tmp_path}/longer.jsonl")[0] == 0


def _longer(inputs: Inputs, tmp_path: Path) -> Path:
    path = tmp_path / "longer.jsonl"
    path.write_text(inputs.train.read_text() * 2)
    return path


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("step", "there", "said"),
    [
        ("40", "LATEST", "nothing to do: at step 40 of 40\n"),
        ("39", "LATEST", "steps 40 to 40\n"),
        ("39", "", f"run {ID} has saved no checkpoint there, so the run starts from the beginning\n"),
    ],
)
def test_how_far_the_checkpoint_is_is_said(
    project: Project, inputs: Inputs, tmp_path: Path, step: str, there: str, said: str
) -> None:
    """LATEST is a link, or a file with the same name in it; it may lead to where it stands in the container."""
    run = ended(project, STOPPED, STEP, *inputs.words, f"output={tmp_path}/out", "max_steps=40")
    out = signed(run)
    (out / "LATEST").unlink()
    (out / "epoch_0_step_9").rename(out / f"epoch_1_step_{int(step) - 1}")
    for make in (Path.symlink_to, Path.write_text):
        if there:
            make(out / there, f"/output/epoch_1_step_{int(step) - 1}")
        code, told, request = dry(project, "resume", "last")
        (out / "LATEST").unlink(missing_ok=True)
        assert (code, bool(request)) == (0, not said.startswith("nothing"))
        assert told.endswith(said) if there else said in project.launch("--dry-run", "resume", "last").stderr


@pytest.mark.parametrize(
    ("where", "pattern", "first", "names", "at"),
    [
        ("latest_checkpointed_iteration.txt", "([0-9]+)", 1, {"latest_checkpointed_iteration.txt": "93\n"}, 93),
        ("latest_checkpointed_iteration.txt", "([0-9]+)", 1, {"latest_checkpointed_iteration.txt": "release\n"}, None),
        ("step_*", "step_([0-9]+)", 1, {"step_9": "", "step_10": "", "step_11.tmp": ""}, 10),
        ("LATEST", "", 1, {"LATEST": "epoch_0_step_9"}, None),
        ("LATEST", "epoch_[0-9]+_step_([0-9]+)", 0, {}, None),
    ],
)
def test_every_library_says_its_step_in_its_own_way(
    tmp_path: Path, where: str, pattern: str, first: Any, names: dict[str, str], at: int | None
) -> None:
    for name, text in names.items():
        (tmp_path / name).write_text(text)
    asked = Resume(where=where, set={}, step=pattern, first=first)
    assert repeating.reached(tmp_path, asked) == at


@pytest.mark.usefixtures("built")
def test_what_cannot_go_on_is_refused(project: Project, inputs: Inputs, tmp_path: Path) -> None:
    words = (STEP, *inputs.words, f"output={tmp_path}/out")
    run = ended(project, STOPPED, *words)
    code, said, _ = dry(project, "resume", "last", f"output={tmp_path}/new")
    assert code == 64 and f"output={tmp_path}/new: run {ID} goes on in its own output\n" in said
    code, said, _ = dry(project, "resume", "last", "max_stepz=3")
    assert code == 64 and "did you mean 'max_steps'?" in said
    code, said, _ = dry(project, "resume", "last", "seed=1", "seed=2")
    assert code == 64 and "seed is given twice" in said
    record = run.record()
    assert record
    run.write(msgspec.structs.replace(record, asked=None))
    code, said, _ = dry(project, "resume", "last")
    assert code == 65 and f"run {ID}: the record does not say what was asked for: " in said
    assert f"launch --resume {STEP} … output={tmp_path}/out" in said


@pytest.fixture
def queue(project: Project, words: tuple[str, ...]) -> tuple[str, ...]:
    """`launch` of a job of Slurm, whose sbatch writes down its words; the controller says that each is running."""
    project.program("sbatch", f'echo "$@" >>{project.path}/../asked; echo 7')
    project.program("squeue", "exit 0")
    for name in ("cat", "bash"):
        (Path(project.env["PATH"]) / name).symlink_to(str(shutil.which(name)))
    controller(project, "RUNNING", "Reason=None")
    return ("--profile", "slurm-pyxis", *words[:-1])


def test_a_run_that_goes_on_is_not_resumed(project: Project, queue: tuple[str, ...]) -> None:
    assert project.launch(*queue).code == 0
    done = project.launch("resume", "last")
    assert done.code == 75 and "goes on: running\n  launch wait 2" in done.stderr, done


def test_both_records_name_each_other(project: Project, queue: tuple[str, ...], tmp_path: Path) -> None:
    first = project.launch(*queue, f"output={tmp_path}/out", "max_steps=40")
    controller(project, "CANCELLED", "Reason=None")
    (tmp_path / "out" / "step_9").mkdir()
    second = project.launch("resume", "last")
    assert second.code == 0 and "steps 10 to 40\n" in second.stderr, second
    records = {r.parent.name: json.loads(r.read_text()) for r in (project.path / "runs").glob("*/record.json")}
    before, after = first.stdout.strip(), second.stdout.strip()
    assert [run["run"] for run in records[before]["resumed_by"]] == [after]
    assert records[after]["asked"]["resumes"] == {"run": before, "directory": str(project.path / "runs" / before)}
    assert records[after]["plan"]["resume"] and records[after]["plan"]["output"] == f"{tmp_path}/out"
    shown = project.launch("show", after).stdout, project.launch("show", before).stdout
    assert f"\nresumes    {before}\n" in shown[0] and f"\nresumed by {after}\n" in shown[1]
    (tmp_path / "out" / "step_40").mkdir()
    controller(project, "CANCELLED", "Reason=None")
    third = project.launch("resume", "last")
    assert (third.code, third.stdout) == (0, "") and "nothing to do: at step 40 of 40\n" in third.stderr
    assert f"note: run {after} has gone on from it already: " in project.launch("resume", before).stderr


@pytest.mark.usefixtures("built")
def test_what_a_run_has_made_is_an_input(project: Project, inputs: Inputs, tmp_path: Path) -> None:
    made = write_chat_model(tmp_path / "made")
    (made / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "made": 1}')
    ended(project, replaced(DONE, checkpoint=str(made)), STEP, *inputs.words)
    for name in ("last", "aaaaaa", ID):
        code, said, request = dry(project, STEP, inputs.words[0], f"model=run:{name}")
        assert (code, said) == (0, f"note: model=: of run {ID}, {made}\n")
        assert planless(request) == planless(dry(project, STEP, inputs.words[0], f"model={made}")[2])
    assert project.launch("-o", str(tmp_path / "d"), STEP, inputs.words[0], "model=run:last").code == 0
    plan = json.loads((tmp_path / "d" / "plan.json").read_text())
    assert plan["from_run"] == {"model": {"run": ID, "directory": str(project.path / "runs" / ID)}}
    assert plan["inputs"]["model"]["path"] == str(made)
    code, said, _ = dry(project, STEP, "train=run:last", inputs.words[1])
    assert code == 65 and f"train={made}: " in said and "checkpoint_hf" in said, said


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("outcome", "code", "what"),
    [
        (FAILED, 66, f"run {ID} has not ended well: failed (the step failed: ValueError: no)\n"),
        (replaced(STOPPED, checkpoint="/c"), 66, "launch resume {ID}; or name what it left yourself: /c\n"),
        (DONE, 66, f"run {ID} ({STEP}) has reported no output\n"),
    ],
)
def test_a_run_that_has_made_nothing_is_no_input(
    project: Project, inputs: Inputs, outcome: Outcome, code: int, what: str
) -> None:
    ended(project, outcome, STEP, *inputs.words)
    done = project.launch("check", STEP, inputs.words[0], "model=run:aaaaaa")
    assert done.code == code and what.replace("{ID}", ID) in done.stderr, done
    assert f"error: model=run:{project.path}/runs/{ID}: run {ID} " in done.stderr


@pytest.mark.usefixtures("built")
def test_a_run_that_there_is_not_is_no_input(project: Project, inputs: Inputs) -> None:
    done = project.launch("check", STEP, inputs.words[0], "model=run:ffffff")
    assert done.code == 66 and "there is no run 'ffffff'" in done.stderr


def test_a_job_waits_for_others_to_end_well(project: Project, queue: tuple[str, ...], tmp_path: Path) -> None:
    """One that goes on is Slurm's to wait for; one that has ended well is no more to be waited for."""
    first = project.launch(*queue).stdout.strip()
    second = project.launch(*queue, "--after", first)
    assert second.code == 0, second
    asked = (tmp_path / "asked").read_text().splitlines()
    assert "--dependency" not in asked[0]
    assert "--dependency=afterok:7 --kill-on-invalid-dep=yes script.sh" in asked[1]
    events = (project.path / "runs" / second.stdout.strip() / "events.jsonl").read_text()
    assert '"after": ["7"]' in events
    controller(project, "CANCELLED", "Reason=None")
    third = project.launch(*queue, "--after", second.stdout.strip())
    said = f"error: --after {second.stdout.strip()}: it has not ended well: cancelled (cancelled"
    assert third.code == 78 and said in third.stderr and len((tmp_path / "asked").read_text().splitlines()) == 2


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("outcome", "code"),
    [(DONE, 69), (FAILED, 78), (Outcome(exit_code=75, cause="node", reason="a node failed"), 75)],
)
def test_a_launch_starts_only_after_runs_that_have_ended_well(
    project: Project, inputs: Inputs, outcome: Outcome, code: int
) -> None:
    ended(project, outcome, STEP, *inputs.words)
    done = project.launch(STEP, *inputs.words, "--after", "last")
    assert done.code == code, done
    assert (f"--after {ID}: it has not ended well: {outcome.word} (" in done.stderr) == (code != 69)
    assert [run.name for run in (project.path / "runs").iterdir()] == [ID]


def test_words_are_understood_before_anybody_waits(project: Project, queue: tuple[str, ...], inputs: Inputs) -> None:
    """A profile of another engine has to wait here; with --dry-run nobody does."""
    run = project.launch(*queue).stdout.strip()
    done = project.launch(STEP, *inputs.words, "max_stepz=1", "--after", "last")
    assert done.code == 64 and "did you mean 'max_steps'?" in done.stderr
    done = project.launch("--dry-run", STEP, *inputs.words, "--after", "last")
    assert f"note: --after: run {run} is running: the launch would wait for it\n" in done.stderr


@pytest.fixture
def copied(project: Project, inputs: Inputs, built: Engine, tmp_path: Path) -> Path:
    """The record of a run that has ended, alone in a folder, its run directory gone."""
    assert built.address
    (tmp_path / "mine.yaml").write_text("optimizer: {lr: 0.5}\n")
    words = (STEP, *inputs.words, f"output={tmp_path}/out", "max_steps=40", "-c", "tiny", "--env", "MINE=1")
    run = ended(project, DONE, *words, "-c", str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").unlink()
    (tmp_path / "copy").mkdir()
    shutil.move(run.record_file, tmp_path / "copy" / "record.json")
    shutil.rmtree(run.path)
    return tmp_path / "copy" / "record.json"


def test_a_replay_asks_for_the_same_from_the_record_alone(
    project: Project, inputs: Inputs, copied: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("optimizer: {lr: 0.5}\n")
    words = (STEP, *inputs.words, f"output={tmp_path}/out", "max_steps=40", "-c", "tiny", "--env", "MINE=1")
    expected = dry(project, *words, "-c", str(tmp_path / "mine.yaml"))[2]
    (tmp_path / "mine.yaml").unlink()
    assert dry(project, "replay", str(copied), f"output={tmp_path}/out") == (0, "", expected)
    code, said, request = dry(project, "replay", str(copied))
    assert (code, said) == (0, "") and 'source="${RUN_DIR}"/output,target=/output' in request


def test_inputs_that_moved_are_given_again_and_have_to_be_the_same(
    project: Project, inputs: Inputs, copied: Path, tmp_path: Path
) -> None:
    (tmp_path / "new").mkdir()
    moved = inputs.train.rename(tmp_path / "new" / inputs.train.name)
    code, said, _ = dry(project, "replay", str(copied))
    assert code == 66 and f"error: train={inputs.train}: is not there any more (chat_jsonl, fingerprint " in said
    assert "say where it is now: train=/new/path" in said
    code, said, request = dry(project, "replay", str(copied), f"train={moved}")
    assert code == 0 and f"source={moved},target=/inputs/train-" in request, said
    moved.write_text(moved.read_text() * 2)
    code, said, _ = dry(project, "replay", str(copied), f"train={moved}")
    assert code == 65 and f"error: replay of {ID}: input train: {moved} has fingerprint " in said
    assert dry(project, "replay", str(copied), f"train={moved}", "max_steps=3")[0] == 64
    shutil.move(moved, tmp_path / "renamed.jsonl")
    code, said, _ = dry(project, "replay", str(copied), f"train={tmp_path}/renamed.jsonl")
    assert code == 65 and "as chats.jsonl: a file's name counts\n" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"entry": "f" * 64}, "entry: was automodel/"),
        ({"image": f"sha256:{'9' * 64}"}, f"image: was sha256:{'9' * 64}, is {IMAGE} now"),
        ({"files": {"steps/automodel_finetune.py": "0" * 64}}, "code: steps/automodel_finetune.py is another"),
        ({"files": {"steps/gone.py": "0" * 64}}, "code: steps/gone.py is gone"),
        (
            {"env": {"MKL_CBWR": {"value": "AVX512", "by": "launcher"}}},
            "environment: MKL_CBWR was AVX512, is COMPATIBLE",
        ),
        ({"env": {"OTHER": {"value": "1", "by": "profile"}}}, "environment: OTHER was 1, is not set now"),
        ({"shape": {"nodes": 2, "gpus": 0, "procs": 1}}, "shape: was 2 nodes, 0 GPUs, 1 processes, is 1 nodes"),
        ({"config": {"remove": ["mine"]}}, 'configuration: remove was ["mine"], is '),
    ],
)
def test_what_differs_is_named_and_refused_unless_it_is_accepted(
    project: Project, built: Engine, copied: Path, change: dict[str, Any], said: str
) -> None:
    record = json.loads(copied.read_text())
    for key, value in change.items():
        record["plan"][key] = {**record["plan"][key], **value} if isinstance(value, dict) else value
    record["asked"]["commit"], record["plan"]["allow_drift"] = "c" * 40, True  # which is not asked for again
    copied.write_text(json.dumps(record))
    code, told, request = dry(project, "replay", str(copied))
    assert (code, told.count("error: ")) == (65, 1) and f"error: replay of {ID}: {said}" in told, told
    assert (
        "accept it with --allow-drift, which is recorded" in told and f"slipway: refused: replay of {ID}: " in request
    )
    if said.startswith(("entry", "code", "config", "env")):
        assert f"check out {'c' * 12}, at which it was launched" in told
    allowed = project.launch("replay", "--allow-drift", str(copied))
    assert allowed.code == 69 and f"warning: replay of {ID}: {said}" in allowed.stderr, "a stand-in makes nothing"
    assert built.refused


def test_a_file_of_the_step_that_changed_is_named_by_its_keys(project: Project, copied: Path) -> None:
    project.edit("launcher/steps/sft/automodel/tiny.yaml", "seq_length: 128", "seq_length: 64")
    project.edit("entrypoints/steps/slipway_step.py", "import json", "import json\n")
    code, told, _ = dry(project, "replay", str(copied))
    assert code == 65
    assert f"error: replay of {ID}: configuration: layer 1: dataset.seq_length was 128, is 64 now\n" in told
    assert f"error: replay of {ID}: code: steps/slipway_step.py is another\n" in told


def test_another_profile_may_differ_in_what_is_of_the_place(project: Project, copied: Path) -> None:
    other = "schema: 1\nkind: docker\nextends: docker\nenv: {SITE: here}\nshm_size: 1GiB\n"
    project.write("slipway.d/profiles/other.yaml", other)
    code, told, request = dry(project, "replay", str(copied), "--profile", "other")
    assert (code, told) == (0, "") and "--env SITE=here" in request and "--shm-size 1073741824" in request
    project.write("slipway.d/profiles/other.yaml", other + "flavour: cuda\n")
    assert dry(project, "replay", str(copied), "--profile", "other")[0] == 0, "the flavour is the record's"


def test_the_record_of_a_replay_says_of_what_and_what_differed(
    project: Project, queue: tuple[str, ...], tmp_path: Path
) -> None:
    first = project.launch(*queue, f"output={tmp_path}/out", "max_steps=40").stdout.strip()
    file = project.path / "runs" / first / "record.json"
    again = project.launch("replay", first)
    assert again.code == 0, again
    record = json.loads((project.path / "runs" / again.stdout.strip() / "record.json").read_text())
    of = {"run": first, "directory": str(file.parent)}
    assert record["asked"]["replays"] == {**of, "differs": []}
    changed = json.loads(file.read_text())
    changed["plan"]["env"]["OTHER"] = {"value": "1", "by": "profile"}
    file.write_text(json.dumps(changed))
    again = project.launch("replay", first, "--allow-drift")
    record = json.loads((project.path / "runs" / again.stdout.strip() / "record.json").read_text())
    assert record["asked"]["replays"] == {**of, "differs": ["environment: OTHER was 1, is not set now"]}
    assert record["plan"]["allow_drift"] is True
    shown = project.launch("show", again.stdout.strip()).stdout
    assert f"\nreplays    {first}, but for: environment: OTHER was 1, is not set now\n" in shown


@pytest.mark.usefixtures("built")
def test_what_cannot_be_replayed_is_refused(project: Project, inputs: Inputs, tmp_path: Path) -> None:
    run = ended(project, STOPPED, STEP, *inputs.words, f"output={tmp_path}/out")
    signed(run)
    ended(
        project, DONE, STEP, *inputs.words, f"output={tmp_path}/out", "--resume", run_id=ID.replace("aaaaaa", "bbbbbb")
    )
    code, said, _ = dry(project, "replay", "bbbbbb")
    assert code == 64 and "went on from a checkpoint, which a replay does not have" in said
    (tmp_path / "record.json").write_text("{}")
    code, said, _ = dry(project, "replay", str(tmp_path / "record.json"))
    assert code == 65 and "not a run record" in said


def test_a_tree_of_code_is_replayed_at_its_commit(project: Project, queue: tuple[str, ...], tmp_path: Path) -> None:
    """Whatever has been committed since; a tree that was packed with changes is compared as it stands."""
    (Path(project.env["PATH"]) / "git").symlink_to(str(shutil.which("git")))
    base = "examples/configs/grpo_math_1B.yaml"
    folder = repository(tmp_path / "RL", {"nemo_rl/a.py": "A = 1\n", "examples/run_grpo.py": "", base: ""})
    begun = project.launch(*queue, "--code", f"nemo-rl={folder}")
    assert begun.code == 0, begun.stderr
    first = begun.stdout.strip()
    write(folder, {"nemo_rl/a.py": "A = 2\n"})
    commit(folder)
    code, said, _ = dry(project, "replay", first)
    assert code == 0, said
    write(folder, {"nemo_rl/a.py": "A = 3\n"})
    dirty = project.launch(*queue, "--code", f"nemo-rl={folder}", "--allow-dirty")
    assert dirty.code == 0 and dry(project, "replay", dirty.stdout.strip())[0] == 0, dirty
    write(folder, {"nemo_rl/a.py": "A = 4\n"})
    code, said, _ = dry(project, "replay", dirty.stdout.strip())
    assert code == 65 and "code: --code nemo-rl: was " in said and " with changes, is " in said, said


def test_what_o_wrote_can_be_gone_on_with_and_replayed(
    project: Project, queue: tuple[str, ...], tmp_path: Path
) -> None:
    assert project.launch("-o", str(tmp_path / "d"), *queue, "max_steps=40").code == 0
    done = project.launch("submit", str(tmp_path / "d"))
    assert done.code == 0, done
    record = json.loads((project.path / "runs" / done.stdout.strip() / "record.json").read_text())
    assert record["asked"]["words"] == ["max_steps=40"]
    assert dry(project, "replay", "last")[0] == 0


@pytest.mark.usefixtures("built")
def test_without_gpus_threads_and_instructions_are_pinned(project: Project, inputs: Inputs) -> None:
    def seen(*words: str) -> dict[str, Any]:
        done = project.launch("env", "--json", *words)
        assert done.code == 0, done
        return {row["name"]: (row["value"], row["by"]) for row in json.loads(done.stdout) if row["name"] in PINS}

    assert seen(STEP, *inputs.words) == {
        "ATEN_CPU_CAPABILITY": ("avx2", "launcher"), "MKL_CBWR": ("COMPATIBLE", "launcher"),
        "OMP_NUM_THREADS": ("1", "step"), "ONEDNN_MAX_CPU_ISA": ("AVX2", "launcher"),
    }  # fmt: skip
    assert seen(STEP, *inputs.words, "--env", "MKL_CBWR=AUTO")["MKL_CBWR"] == ("AUTO", "command line")
    assert seen(STEP, *inputs.words, "--flavour", "cuda") == {"OMP_NUM_THREADS": ("1", "step")}

"""launch pipeline, by the command line, where nothing can be started: files, checks, what would run and why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import Engine, Inputs, Project, record_image, record_of, squash, tree
from test_outputs import controller

from images.locking import lock as locks
from images.squashing import sidecar
from launcher.core.asked import Asked
from launcher.core.plan import Plan
from launcher.records.run_directory import Outcome, Run

CHAIN = """\
schema: 1
params:
  train: {help: conversations}
  model: {help: a model}
  steps: {help: how many, default: 3}
flavour: cpu
steps:
  sft:
    step: sft/automodel
    inputs: {train: params.train, model: params.model}
    set: {max_steps: params.steps}
    config: [tiny]
  lora:
    step: peft/automodel
    inputs: {train: params.train, model: steps.sft}
    config: [tiny]
  merge:
    step: convert/merge_lora_hf
    inputs: {adapter: steps.lora, base: steps.sft}
  again:
    step: sft/automodel
    inputs: {train: params.train, model: params.model}
    set: {seed: 5}
    config: [tiny]
"""
LOSSES = {"steps": 3, "steps_of_this_run": 3, "first_loss": 7.5, "last_loss": 7.1}


@pytest.fixture
def chain(project: Project, inputs: Inputs, built: Engine) -> Project:
    """The project with a pipeline `chain.yaml`, whose parameters are whole inputs."""
    assert built.address and inputs.train.exists()
    project.write("chain.yaml", CHAIN)
    return project


def look(project: Project, inputs: Inputs, *words: str) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Exit code of a dry run, the steps as it tells them, and what it said."""
    before = tree(project.path)
    done = project.launch("pipeline", "chain.yaml", *inputs.words, "--dry-run", "--json", *words)
    assert tree(project.path) == before, "a dry run has made something"
    steps = json.loads(done.stdout)["steps"] if done.stdout else []
    return done.code, {step["step"]: step for step in steps}, done.stderr


def stands(steps: dict[str, dict[str, Any]]) -> dict[str, tuple[str, str]]:
    return {name: (step["stands"], step["why"]) for name, step in steps.items()}


def ended(project: Project, inputs: Inputs, name: str, outcome: Outcome | None, *words: str) -> Run:
    """A run of a step, as a launcher that was killed behind it would have left it: the state knows only its key."""
    step = look(project, inputs, *words)[1][name]
    number = len(list((project.path / "runs").glob("2*"))) + 1
    run = Run(project.path / "runs" / f"20990101T0000{number:02d}Z-{step['launch'].replace('/', '.')}-aaaaaa")
    made = project.launch("-o", str(run.path), "sft/automodel", *inputs.words, "--flavour", "cpu", "-c", "tiny")
    assert made.code == 0, made
    plan = msgspec.json.decode((run.path / "plan.json").read_bytes(), type=Plan)
    plan = msgspec.structs.replace(plan, step=step["launch"])
    tags = {"pipeline": "chain", "pipeline-step": name, "pipeline-key": step["key"]}
    if outcome and not outcome.checkpoint:
        shutil.copytree(inputs.model, run.path / "output" / "model")
        outcome = msgspec.structs.replace(outcome, checkpoint=str(run.path / "output" / "model"))
    run.write(record_of(run, plan, project.env["DOCKER_HOST"], state="ended" if outcome else "submitted",
                        outcome=outcome, asked=Asked(), tags=tags))  # fmt: skip
    (run.path / "lock").touch()
    run.event("started")
    if outcome:
        run.event("ended")
    told(project, step, run)
    return run


def told(project: Project, step: dict[str, Any], run: Run) -> None:
    """What a launcher writes before it starts a run, and is killed."""
    from launcher.chains import links
    from launcher.records.pipeline_state import Book

    found = links.pipelines.load(project.path / "chain.yaml")
    book = Book(project.path / "runs", found.name, found.file)
    book.read()
    with book.lock():
        book.intend(step["step"], step["launch"], step["key"], {"what": "a"}, run.path.parent)


def done(**changes: Any) -> Outcome:
    facts: dict[str, Any] = {"exit_code": 0, "cause": "step", "reason": "done", "result": LOSSES}
    return Outcome(**(facts | changes))


def test_a_chain_is_checked_before_any_of_it_is_there(chain: Project, inputs: Inputs) -> None:
    code, steps, said = look(chain, inputs)
    assert (code, list(steps)) == (0, ["sft", "lora", "merge", "again"]), said
    assert set(stands(steps).values()) == {("to run", "has not run yet")}
    assert steps["merge"]["needs"] == {"adapter": "lora", "base": "sft"}
    assert steps["sft"]["expect"] == ["learns"] and steps["merge"]["expect"] == []


def test_the_table_is_for_people(chain: Project, inputs: Inputs) -> None:
    shown = chain.launch("pipeline", "chain.yaml", *inputs.words, "--dry-run")
    heads, first, *_ = shown.stdout.splitlines()
    assert heads.split() == ["STEP", "LAUNCH", "PROFILE", "STANDS", "RUN", "WHY"]
    assert first.split() == ["sft", "sft/automodel", "docker", "to", "run", "has", "not", "run", "yet"]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            "model: steps.sft}",
            "model: steps.stf}",
            "T/chain.yaml:15:35: steps.lora.inputs.model: there is no step 'stf'\n  did you mean 'sft'?",
        ),
        (
            "train: params.train, model: steps.sft",
            "train: params.trian, model: steps.sft",
            "T/chain.yaml:15:14: steps.lora.inputs.train: there is no parameter 'trian'\n  did you mean 'train'?",
        ),
        (
            "model: params.model}\n    set: {max",
            "model: steps.merge}\n    set: {max",
            "T/chain.yaml:8:3: steps.sft: the steps need each other: sft -> lora -> merge -> sft\n"
            "  one of them has to come first",
        ),
        (
            "  again:\n    step:",
            "  again:\n    stpe: x\n    step:",
            "T/chain.yaml:21:5: unknown key 'stpe'\n  did you mean 'step'?",
        ),
        (
            "  again:",
            "  a.b:",
            "T/chain.yaml:20:3: steps.a.b: 'a.b' is no name\n"
            "  begin with a letter; letters, digits, '_' and '-' follow",
        ),
        (
            "default: 3}",
            "default: 3}\n  more: {help: unused}",
            "T/chain.yaml:6:3: params.more: no step uses it\n  say params.more where it belongs, or leave it out",
        ),
        (
            "set: {seed: 5}",
            "set: {seed: steps.sft}",
            "T/chain.yaml:23:11: steps.again.set.seed: steps.sft is what a step "
            "makes, which only an input can be\n  name it under inputs:",
        ),
        (
            "set: {seed: 5}",
            "set: {seed: 5}\n    expect: {loss: low}",
            "T/chain.yaml:24:14: steps.again.expect.loss: 'low' is no condition\n  such as '<2.0', '>= 100', in quotes",
        ),
        (
            "set: {seed: 5}",
            "set: {seed: 5}\n    expect: {learns: '<1'}",
            "T/chain.yaml:24:14: steps.again.expect.learns: "
            "'<1' is no condition\n  learns: true or false; of a number such as loss: '<2.0'",
        ),
        (
            "set: {seed: 5}",
            "set: {seed: 5, train: x}",
            "T/chain.yaml:23:20: steps.again.set.train: train is among the inputs, too\n  say it once",
        ),
        ("schema: 1", "schema: 1\nfile: x", "T/chain.yaml:2:1: unknown key 'file'"),
    ],
)
def test_a_file_that_cannot_be(chain: Project, inputs: Inputs, before: str, after: str, said: str) -> None:
    chain.edit("chain.yaml", before, after)
    code, _, words = look(chain, inputs)
    assert (code, words.replace(f"{chain.path}/", "T/")) == (78, f"error: {said}\n")


@pytest.mark.parametrize(
    ("before", "after", "code", "said"),
    [
        (
            "step: peft/automodel",
            "step: peft/automodl",
            64,
            "chain.yaml:14:5: steps.lora: unknown step 'peft/automodl'\n  did you mean 'peft/automodel'?",
        ),
        (
            "set: {seed: 5}",
            "set: {sed: 5}",
            64,
            "chain.yaml:23:11: steps.again: sed=5: sft/automodel has no input or "
            "parameter 'sed'\n  did you mean 'seed'?",
        ),
        (
            "base: steps.sft}",
            "base: steps.lora}",
            65,
            "chain.yaml:19:35: steps.merge: base=steps.lora: is no checkpoint_hf: "
            "found checkpoint_lora\n  put a step between: launch convert/merge_lora adapter=steps.lora",
        ),
        (
            "set: {seed: 5}",
            "set: {seed: 5}\n    expect: {los: '<2'}",
            64,
            "chain.yaml:24:5: steps.again: --expect los<2: sft/automodel reports no 'los'\n  did you mean 'loss'?",
        ),
        ("adapter: steps.lora, ", "", 64, "chain.yaml:18:5: steps.merge: convert/merge_lora_hf needs adapter=PATH"),
    ],
)
def test_a_launch_of_it_that_cannot_be_is_told_with_its_place(
    chain: Project, inputs: Inputs, before: str, after: str, code: int, said: str
) -> None:
    """Of a step in the middle, too, whose inputs are not there."""
    chain.edit("chain.yaml", before, after)
    found, _, words = look(chain, inputs)
    assert (found, said in words) == (code, True), words


def test_words_are_its_parameters(chain: Project, inputs: Inputs) -> None:
    for words, said in {
        ("stps=4",): "error: stps=4: pipeline chain has no parameter 'stps'\n  did you mean 'steps'?\n",
        ("steps=4", "steps=5"): "error: steps=5: steps is given twice\n",
        ("steps=four",): ": steps.sft: max_steps=four: 'four' is not a whole number",
        ("--until", "x"): "error: --until x: there is no step 'x'\n  its steps: sft, lora, merge, again\n",
        ("--from", "again", "--until", "merge"): "error: --from again: merge does not need it\n",
    }.items():
        code, _, told = look(chain, inputs, *words)
        assert code == 64 and said in told, told
    shown = chain.launch("pipeline", "chain.yaml")
    assert (shown.code, shown.stderr) == (
        64,
        "error: pipeline chain needs train=… (conversations); model=… (a model)\n",
    )


def test_until_and_from_choose(chain: Project, inputs: Inputs) -> None:
    assert list(look(chain, inputs, "--until", "lora")[1]) == ["sft", "lora"]
    steps = look(chain, inputs, "--from", "lora")[1]
    why = ["has not run yet", "--from", "--from", "has not run yet"]
    assert [step["why"] for step in steps.values()] == why


def test_what_is_finished_and_unchanged_is_taken(chain: Project, inputs: Inputs) -> None:
    """Also where the launcher was killed before it could say which run it had started."""
    run = ended(chain, inputs, "sft", done())
    steps = look(chain, inputs)[1]
    assert stands(steps)["sft"] == ("done", "unchanged")
    assert steps["sft"]["run"] == run.id
    assert stands(steps)["lora"] == ("to run", "has not run yet")
    assert stands(look(chain, inputs, "--from", "sft")[1])["sft"] == ("to run", "--from")


def test_a_run_that_failed_is_run_again(chain: Project, inputs: Inputs) -> None:
    run = ended(chain, inputs, "sft", done(exit_code=3, reason="the step failed: exit code 3"))
    assert stands(look(chain, inputs)[1])["sft"] == (
        "to run", f"failed before: {run.id} (the step failed: exit code 3)")  # fmt: skip


def test_what_is_gone_is_made_again(chain: Project, inputs: Inputs) -> None:
    run = ended(chain, inputs, "sft", done())
    shutil.rmtree(run.path / "output")
    assert stands(look(chain, inputs)[1])["sft"] == ("to run", f"what {run.id} has made is not there any more")
    shutil.rmtree(run.path)
    assert stands(look(chain, inputs)[1])["sft"] == ("to run", "was not started the last time")


def test_what_is_not_met_stays_so_until_something_changes(chain: Project, inputs: Inputs) -> None:
    """It is judged by its record: another condition needs no other run."""
    run = ended(chain, inputs, "sft", done(result=LOSSES | {"last_loss": 7.5}))
    code, steps, _ = look(chain, inputs)
    flat = "learnt nothing: the loss is flat, 7.5 at the first step and 7.5 at the last of 3"
    assert (code, stands(steps)["sft"]) == (76, ("not met", f"in {run.id}: {flat}"))
    chain.edit("chain.yaml", "    set: {max_steps", "    expect: {learns: false}\n    set: {max_steps")
    assert stands(look(chain, inputs)[1])["sft"] == ("done", "unchanged")
    chain.edit("chain.yaml", "{learns: false}", "{learns: false, loss: '<7'}")
    assert stands(look(chain, inputs)[1])["sft"] == ("not met", f"in {run.id}: expected loss < 7, found 7.5")


def test_a_file_that_is_not_of_this_schema_is_told_with_its_place(chain: Project, inputs: Inputs) -> None:
    ended(chain, inputs, "sft", done())
    (state,) = (chain.path / "runs" / ".pipelines").glob("chain-*/state.json")
    state.write_text("{}")
    code, _, said = look(chain, inputs)
    assert code == 65 and f"{state}: " in said


@pytest.fixture
def gpus(project: Project, inputs: Inputs) -> tuple[Project, tuple[str, ...]]:
    """A site with a profile of Slurm's and the images of all cuda entries, and words of the longest pipeline."""
    lock = locks.load_lock(project.root)
    for library in ("automodel", "nemo-rl", "modelopt", "megatron-bridge"):
        record_image(project.root, locks.select(lock, library, "cuda"))
    prompts = inputs.train.parent / "prompts.jsonl"
    prompts.write_text('{"input": "1 + 1", "output": "2"}\n')
    return project, (*inputs.words, f"prompts={prompts}")


@pytest.mark.parametrize("name", ["sft-lora-quantize", "sft-megatron", "sft-grpo-quantize"])
def test_shipped_pipelines_fit_together(gpus: tuple[Project, tuple[str, ...]], name: str) -> None:
    """On Slurm, with official containers: every launch of them is planned, and only images are missing."""
    project, words = gpus
    given = words if name == "sft-grpo-quantize" else words[:2]
    shown = project.launch("pipeline", name, *given, "--profile", "slurm-pyxis", "--dry-run", "--json")
    wrong = [line for line in shown.stderr.splitlines() if line.startswith("error: ")]
    assert wrong and all(": image of " in line for line in wrong), wrong
    assert len(json.loads(shown.stdout)["steps"]) == 4


def test_what_a_step_needs_first_is_checked_with_it(gpus: tuple[Project, tuple[str, ...]]) -> None:
    """A model that is not there yet is to be converted for NeMo RL's cache: that launch is planned, too."""
    project, words = gpus
    project.own("launcher/pipelines/sft-grpo-quantize.yaml")
    project.edit(
        "launcher/pipelines/sft-grpo-quantize.yaml", "set: {max_steps: params.rl_steps}", "set: {backend: megatron}"
    )
    project.edit("launcher/pipelines/sft-grpo-quantize.yaml", "  rl_steps: {help: steps of GRPO, default: 200}\n", "")
    shown = project.launch("pipeline", "sft-grpo-quantize", *words, "--profile", "slurm-pyxis", "--dry-run")
    wrong = [line for line in shown.stderr.splitlines() if line.startswith("error: ") and "steps.grpo" in line]
    assert len(wrong) == 2 and all(": image of nemo-rl/v0.7.0-cuda: " in line for line in wrong), shown.stderr


def test_pipelines_are_listed_and_known_by_schema(project: Project) -> None:
    listed = project.launch("pipeline").stdout.splitlines()
    assert [line.split()[0] for line in listed] == [
        "PIPELINE",
        "sft-grpo-quantize",
        "sft-lora-quantize",
        "sft-megatron",
    ]
    schema = json.loads(project.launch("schema", "pipeline").stdout)
    assert set(schema["$defs"]["Pipeline"]["properties"]) == {
        "schema",
        "title",
        "params",
        "profile",
        "flavour",
        "steps",
    }
    unknown = project.launch("pipeline", "sft-megatrn")
    assert (unknown.code, unknown.stderr.splitlines()[1]) == (
        64, "  did you mean 'sft-megatron'?; or name a file: sft-megatrn.yaml")  # fmt: skip


def test_show_says_how_steps_stand(chain: Project, inputs: Inputs) -> None:
    run = ended(chain, inputs, "sft", done())
    shown = chain.launch("pipeline", "chain.yaml", "--show")
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert rows[1] == ["sft", "done", "7.500", "->", "7.100", "in", "3", "steps", run.id]
    assert rows[2] == ["lora", "not", "started"]


def test_two_launchers_at_once(chain: Project, inputs: Inputs) -> None:
    from launcher.chains import links
    from launcher.records.pipeline_state import Book

    found = links.pipelines.load(chain.path / "chain.yaml")
    with Book(chain.path / "runs", found.name, found.file).lock():
        second = chain.launch("pipeline", "chain.yaml", *inputs.words)
    assert (second.code, second.stderr.splitlines()[-2:]) == (
        75, ["error: pipeline chain: another launcher is at it",
             "  wait for that, or look: launch pipeline … --show"])  # fmt: skip


def test_paths_of_a_file_are_relative_to_it(chain: Project, inputs: Inputs, tmp_path: Path) -> None:
    """And those of the command line to where it was typed."""
    chain.edit("chain.yaml", "{train: params.train, model: steps.sft}", "{train: chats.jsonl, model: steps.sft}")
    shutil.copy(inputs.train, chain.path / "chats.jsonl")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    shutil.copy(inputs.train, elsewhere / "mine.jsonl")
    words = ("train=mine.jsonl", f"model={inputs.model}", "--dry-run")
    chain.env["SLIPWAY_ROOT"] = str(chain.path)
    shown = chain.launch("pipeline", str(chain.path / "chain.yaml"), *words, cwd=elsewhere)
    assert shown.code == 0, shown


@pytest.fixture
def slurm(chain: Project, tmp_path: Path) -> Path:
    """A Slurm that takes every job and never starts one; the folder in which its words are written down."""
    image = record_image(chain.root, locks.select(locks.load_lock(chain.root), "automodel", "cuda"))
    squash(sidecar.folder(chain.root), image)
    chain.edit("chain.yaml", "flavour: cpu\n", "flavour: cuda\nprofile: slurm-pyxis\n")
    counter = f'echo "$@" >>{tmp_path}/sbatch; n=0; while read -r _; do n=$((n+1)); done <{tmp_path}/sbatch; echo $n'
    chain.program("sbatch", counter)
    controller(chain, "PENDING", "Reason=Dependency")
    return tmp_path


def test_on_slurm_all_jobs_are_submitted_each_after_those_that_it_needs(
    chain: Project, inputs: Inputs, slurm: Path
) -> None:
    """Planned by the link that the job before will leave, under that job's key; a second launcher takes them."""
    done = chain.launch("pipeline", "chain.yaml", *inputs.words)
    assert done.code == 0, done
    runs = {Run(chain.path / "runs" / name) for name in done.stdout.split()}
    records = {r.tags["pipeline-step"]: r for run in runs if (r := run.record())}
    words = [line.split() for line in (slurm / "sbatch").read_text().splitlines()]
    assert [next((w for w in line if w.startswith("--dependency")), "") for line in words] == [
        "", "--dependency=afterok:1", "--dependency=afterok:2:1", ""]  # fmt: skip
    assert all(("--kill-on-invalid-dep=yes" in line) == any("afterok" in w for w in line) for line in words)
    sft, lora = records["sft"], records["lora"]
    model = lora.plan.inputs["model"]
    assert (model.path, model.within) == (f"{sft.directory}/container/made", f"{sft.directory}/output")
    assert model.fingerprint == sft.tags["pipeline-key"] and lora.plan.from_run["model"].run == sft.run
    script = Path(lora.directory, "script.sh").read_text()
    assert (
        f"MADE=({model.path} {model.within})\n" in script
        and f"{model.path}:/inputs/model-{model.fingerprint[:8]}:ro" in script
    )
    assert "MADE=" not in Path(sft.directory, "script.sh").read_text()
    assert sft.plan.env["SLIPWAY_EXPECT"].value == "learns"
    again = chain.launch("pipeline", "chain.yaml", *inputs.words)
    assert (again.code, again.stdout) == (0, ""), again
    assert len((slurm / "sbatch").read_text().splitlines()) == 4


def test_what_sbatch_refuses_holds_what_needs_it_and_nothing_else(chain: Project, inputs: Inputs, slurm: Path) -> None:
    chain.program("sbatch", f"case $* in *peft*) echo no >&2; exit 1;; esac; echo $* >>{slurm}/sbatch; echo 7")
    done = chain.launch("pipeline", "chain.yaml", *inputs.words)
    assert done.code == 69 and len(done.stdout.split()) == 2, done
    assert "not started: merge (needs steps.lora)\n" in done.stderr
    assert stands(look(chain, inputs)[1])["lora"] == ("to run", "was not started the last time")

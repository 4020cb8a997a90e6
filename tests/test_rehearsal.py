"""launcher/planning/rehearsal.py, launcher/runs/rehearsal.py: a rehearsal's plan, and what is made of its findings."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from helpers import STEP_FILE, Engine, Inputs, Project, Refused

from launcher.catalog import definitions
from launcher.cli import rehearsing
from launcher.core.plan import Mount
from launcher.core.requirement import Requirement
from launcher.planning import preparation
from launcher.planning import rehearsal as planning
from launcher.planning.preparation import Options
from launcher.planning.run_files import Prepared
from launcher.runs import rehearsal
from slipway.errors import SlipwayError


@pytest.fixture
def prepare(project: Project, built: Engine, inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DOCKER_HOST", built.address)
    monkeypatch.setenv("HOME", project.env["HOME"])

    def run(*words: str, **options: Any) -> Prepared:
        return preparation.prepare(
            project.root, Options(step="sft/automodel", words=(*inputs.words, *words), **options)
        )

    return run


def value(prepared: Prepared, key: str) -> Any:
    assert prepared.spec is not None
    return prepared.spec.config.value(key)


def test_what_a_rehearsal_sets_counts_whoever_says_otherwise(prepare: Any) -> None:
    words = ("max_steps=1000", "global_batch_size=64", "distributed.tp_size=8", "wandb.project=mine", "seq_length=77")
    small = prepare(*words, flavour="cpu", rehearsal="cpu")
    assert not [f for f in small.findings if f.severity == "error"]
    assert small.plan.command[-1] == "/slipway/steps/automodel_rehearse.py"
    assert {"steps/automodel_finetune.py", "steps/slipway_rehearsal.py"} <= small.plan.files.keys()
    assert value(small, "step_scheduler.max_steps") == 2 and value(small, "step_scheduler.global_batch_size") == 2
    assert value(small, "distributed") == {"strategy": "ddp"} and value(small, "wandb") is None
    assert value(small, "dataset.seq_length") == 77  # the data are read as they will be
    said = [key for key, _ in small.plan.config["set"]]
    assert said.index("step_scheduler.max_steps") < len(said) - 1 - said[::-1].index("step_scheduler.max_steps")
    assert "resume" not in small.plan.config


def test_a_launch_knows_nothing_of_it(prepare: Any) -> None:
    run = prepare("max_steps=1000", flavour="cpu")
    assert run.plan.command[-1] == "/slipway/steps/automodel_finetune.py"
    assert value(run, "step_scheduler.max_steps") == 1000


def test_what_differs_is_told_key_by_key(prepare: Any) -> None:
    run = prepare("max_steps=1000", "local_batch_size=1", "model.torch_dtype=bfloat16", flavour="cpu", procs=4)
    small = prepare(
        "max_steps=1000", "local_batch_size=1", "model.torch_dtype=bfloat16", flavour="cpu", rehearsal="cpu"
    )
    assert run.spec and small.spec
    told = {d.what: (d.run, d.rehearsal) for d in planning.differences(run.spec, small.spec)}
    assert told["step_scheduler.max_steps"] == ("1000", "2")
    assert told["model.torch_dtype"] == ("bfloat16", "float32")
    assert told["processes of a node"] == ("4", "1")
    assert told.keys().isdisjoint({"step_scheduler.local_batch_size", "image", "fp8", "nodes"})  # as in the run


def test_a_step_without_a_way_to_is_refused(refused: Refused, inputs: Inputs, project: Project) -> None:
    project.edit(STEP_FILE, "\nrehearse:", "\nrehears:")
    assert "did you mean 'rehearse'" in refused(78, "rehearse", "sft/automodel", *inputs.words)
    assert "cannot be rehearsed" in refused(64, "rehearse", "convert/hf_to_megatron", f"model={inputs.model}")


NEED = Requirement(
    input="model", type="checkpoint_megatron", source="/llama", fingerprint="f", by="convert/hf_to_megatron",
    place="/runs/.converted/x", words=["model=/llama"], nodes=1, gpus=1, procs=1, key="k",
)  # fmt: skip


@pytest.mark.parametrize(
    ("step", "made", "expected"),
    [
        ("peft/megatron_bridge", set(), ["train=/a", "model=/llama"]),  # a small one is converted there
        ("peft/megatron_bridge", {NEED.place}, ["train=/a", "model=/llama"]),
        ("sft/automodel", {NEED.place}, ["train=/a", f"model={NEED.place}"]),
    ],
)
def test_what_would_be_converted_is_rehearsed_as_it_is_or_as_it_was_made(
    project: Project, step: str, made: set[str], expected: list[str]
) -> None:
    found = planning.unconverted(definitions.find_step(project.root, step), ["train=/a", "model=/llama"], [NEED], made)
    assert found == expected


def test_what_has_to_be_converted_first_and_was_not_is_refused(project: Project) -> None:
    with pytest.raises(SlipwayError) as raised:
        planning.unconverted(definitions.find_step(project.root, "sft/automodel"), ["model=/llama"], [NEED], set())
    assert raised.value.code == 66 and "launch convert/hf_to_megatron model=/llama" in str(raised.value)


def test_a_rehearsal_is_told_the_flavour_of_its_run(project: Project) -> None:
    step = definitions.find_step(project.root, "optimize/modelopt/prune")
    assert planning.imposed(step, "cuda") == {"prune.run": "cuda"}
    assert planning.imposed(definitions.find_step(project.root, "optimize/modelopt/quantize"), "cuda") == {}


@pytest.mark.usefixtures("engine")
def test_without_the_image_it_says_what_to_do(refused: Refused, inputs: Inputs) -> None:
    said = refused(69, "rehearse", "sft/automodel", *inputs.words, "--profile", "slurm-pyxis")
    assert "image of automodel/0.7.0-cpu: has not been built" in said
    assert "images build automodel" in said and "cannot be rehearsed on this machine" in said


def test_what_would_be_refused_is_not_rehearsed(refused: Refused, inputs: Inputs, built: Engine) -> None:
    inputs.train.write_text("{}\n")
    assert "nothing was rehearsed" in refused(65, "rehearse", "sft/automodel", *inputs.words)
    assert built.asked and not any("containers/create" in request for request in built.asked)


PIECES = [{"text": "user\nhow\n", "learned": False}, {"text": "so", "learned": True}]
TOKENS = {"p50": 4, "p99": 9, "most": 12}
PLACE = {"file": "/inputs/train-12345678/a.jsonl", "line": 3}
DATA = {
    "rows": 10,
    "faulty": 0,
    "tokens": TOKENS,
    "share": 0.25,
    "samples": [{**PLACE, "pieces": PIECES, "whole": True}],
}
STEPS = {"error": "", "losses": [2.5, 2.25], "models": {"model": "Llama"}, "did": [], "none": ""}


def found(data: dict[str, Any] | None = None, steps: dict[str, Any] | None = None) -> rehearsal.Rehearsal:
    told = {"data": {"train": {**DATA, **(data or {})}}, "steps": {**STEPS, **(steps or {})}}
    return msgspec.convert(json.loads(json.dumps(told)), rehearsal.Rehearsal)


def said(of: rehearsal.Rehearsal) -> list[tuple[str, int, str]]:
    return [(f.where, f.code, f.what) for f in rehearsal.findings(of, "lib 1.0")]


def test_nothing_is_wrong_with_a_clean_one() -> None:
    assert said(found()) == []
    assert rehearsal.text(found(), [planning.Difference("nodes", "4", "1")]) == (
        "train       10 rows; tokens a row: 4 (p50), 9 (p99), 12 at most; 25.0 % of them learned\n"
        "  /inputs/train-12345678/a.jsonl:3, learned is what stands in [[ ]]:\n"
        "    user\n    how\n    [[so]]\n"
        "steps       loss 2.500 -> 2.250\n"
        "what the run has another way, which this does not show:\n"
        "  nodes  1 here, there 4\n"
    )


@pytest.mark.parametrize(
    ("data", "steps", "expected"),
    [
        ({"error": "E: no"}, {}, [("train=", 65, "lib 1.0 does not take it: E: no")]),
        (
            {"faulty": 3, "faults": [{**PLACE, "what": "KeyError: 'x'"}]}, {},
            [(f"{PLACE['file']}:3", 65, "KeyError: 'x'"), ("train=", 65, "2 more rows have faults")],
        ),
        ({"silent": 10}, {}, [("train=", 65, "none of its 10 rows has a token that is learned")]),
        (
            {"silent": 9, "faulty": 1, "faults": [{**PLACE, "what": "w"}]}, {},
            [(f"{PLACE['file']}:3", 65, "w"), ("train=", 65, "none of its 9 rows has a token that is learned")],
        ),
        (
            {"silent": 1, "silent_rows": [PLACE]}, {},
            [("train=", 0, f"1 of 10 rows have no token that is learned: {PLACE['file']}:3")],
        ),
        (
            {"limit": 8, "longer": 2, "beyond": "cut"}, {},
            [("train=", 0, "2 of 10 rows have more than 8 tokens (the most: 12), and are cut")],
        ),
        (
            {"limit": 8, "longer": 2}, {},
            [("train=", 0, "2 of 10 rows have more than 8 tokens (the most: 12), and stay whole, and take more memory "
              "than is planned")],
        ),
        ({}, {"losses": [2.5, None]}, [("steps", 65, "the loss of step 2 is not finite")]),
        ({}, {"error": "TypeError: x"}, [("steps", 65, "lib 1.0 raised TypeError: x")]),
        ({}, {"losses": [], "none": "why"}, [("steps", 0, "none were taken: why")]),
    ],
)  # fmt: skip
def test_what_is_wrong(data: dict[str, Any], steps: dict[str, Any], expected: list[tuple[str, int, str]]) -> None:
    assert said(found(data, steps)) == expected


def test_of_a_calibration_nothing_is_learned_and_only_some_is_taken() -> None:
    seen = found({"share": None, "taken": 4}, {"losses": [], "did": ["exported as FP8"]})
    assert said(seen) == []
    assert rehearsal.text(seen, []) == (
        "train       10 rows, of which the first 4 are taken; tokens a row: 4 (p50), 9 (p99), 12 at most\n"
        "  /inputs/train-12345678/a.jsonl:3:\n"
        "    user\n    how\n    so\n"
        "steps       exported as FP8\n"
    )


def test_paths_are_this_machines() -> None:
    mounts = [
        Mount(source="/data/a.jsonl", target=PLACE["file"], readonly=True),  # type: ignore[arg-type]
        Mount(source="/runs/x/output", target="/output", readonly=False),
    ]
    of = rehearsal.on_host(found({"silent": 1, "silent_rows": [PLACE, {"file": "/output/b", "line": 1}]}), mounts)
    assert [p.file for p in of.data["train"].silent_rows] == ["/data/a.jsonl", "/runs/x/output/b"]
    assert of.data["train"].samples[0].file == "/data/a.jsonl"


def test_what_a_container_says_steers_no_terminal() -> None:
    assert "\x1b" not in rehearsal.text(found({"samples": [{**PLACE, "pieces": [{"text": "\x1b[2J", "learned": True}],
                                                           "whole": True}]}), [])  # fmt: skip


def test_progress_is_told_and_the_rest_of_the_log_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    show = rehearsing._progress()
    for piece in (b"noise\nslipway: train: 64 of", b" 200 rows\nslipway: no CUDA\nslipway: train: 200 of 200 rows\n"):
        show(piece)
    assert capsys.readouterr().err == "train: 64 of 200 rows\ntrain: 200 of 200 rows\n"

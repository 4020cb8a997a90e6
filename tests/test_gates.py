"""slipway/gates.py and --expect: what a run has to have come to."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import REPO, Engine, Inputs, Project, errors

from slipway import gates

GOOD: dict[str, Any] = {"steps": 4, "steps_of_this_run": 4, "first_loss": 7.664, "last_loss": 7.427}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("loss<2.0", "loss < 2"),
        (" loss <= 2e-1 ", "loss <= 0.2"),
        ("steps>=100", "steps >= 100"),
        ("training_info.val:accuracy>.5", "training_info.val:accuracy > 0.5"),
        ("learns", "learns"),
    ],
)
def test_a_condition_is_read(text: str, said: str) -> None:
    assert str(gates.parse(text)) == said


@pytest.mark.parametrize("text", ["", "loss", "loss<", "loss<low", "<2", "loss<2;x", "loss=2", "learns<2x", "loss<nan"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no condition: expected NAME<NUMBER"):
        gates.parse(text)


@pytest.mark.parametrize(
    ("text", "changes", "wrong"),
    [
        ("loss<8", {}, []),
        ("loss<7.427", {}, ["expected loss < 7.427, found 7.427"]),
        ("loss<=7.427", {}, []),
        ("loss_drop>0.2", {}, []),
        ("loss_drop>0.3", {}, ["expected loss_drop > 0.3, found 0.237"]),
        ("loss<8", {"last_loss": None, "not_finite": {"last_loss": "NaN"}}, ["expected loss < 8, found last_loss NaN"]),
        ("loss<8", {"last_loss": None}, ["expected loss < 8, found last_loss not reported by the step"]),
        (
            "splits.training.rows>0",
            {"splits": {"training": {"rows": 0}}},
            ["expected splits.training.rows > 0, found 0"],
        ),
        ("steps==True", {}, None),
        ("learns", {}, []),
        ("learns", {"steps": 0}, ["learnt nothing: no step was trained"]),
        ("learns", {"steps_of_this_run": 0}, ["learnt nothing: no step was trained"]),
        ("learns", {"not_finite": {"last_loss": "NaN"}}, ["learnt nothing: last_loss is NaN"]),
        ("learns", {"training_info": {"consumed_samples": 0}}, ["learnt nothing: training_info.consumed_samples is 0"]),
        (
            "learns",
            {"last_loss": 7.6641},
            ["learnt nothing: the loss is flat, 7.664 at the first step and 7.6641 at the last of 4"],
        ),
        ("learns", {"last_loss": 7.664, "steps_of_this_run": 1}, []),
        ("learns", {"last_loss": 9.0}, []),
    ],
)
def test_a_result_is_judged(text: str, changes: dict[str, Any], wrong: list[str] | None) -> None:
    if wrong is None:
        with pytest.raises(ValueError, match="no condition"):
            gates.parse(text)
    else:
        assert gates.judge(GOOD | changes, [gates.parse(text)]) == wrong


def test_all_that_is_not_met_is_told() -> None:
    found = gates.judge(GOOD, [gates.parse("loss<2"), gates.parse("steps>=100")])
    assert found == ["expected loss < 2, found 7.427", "expected steps >= 100, found 4"]


def supervised(
    place: Path, result: Any, *expect: str, output: str = "${RUN_DIR}/output", pipe: bool = False
) -> tuple[int, dict[str, Any], Path]:
    """The supervisor's exit code and status.json, of a step that leaves this result; and the link to what it made."""
    state, plan = place / "container", place / "slipway" / "plan.json"
    for folder in (state, plan.parent):
        folder.mkdir(parents=True)
    plan.write_text(json.dumps({"output": output}))
    program = place / "step.py"
    file = str(state / "result.json")
    write = f"os.mkfifo({file!r})" if pipe else f"open({file!r}, 'w').write({json.dumps(result)!r})"
    program.write_text(f"{write}\n")
    shutil.copytree(REPO / "entrypoints" / "supervisor", place / "supervisor")
    text = f"""
import os, sys
sys.path.insert(0, {str(place)!r})
from supervisor.settings import Settings
from supervisor.outcome import looked_at
from supervisor import ends
exec(open({str(program)!r}).read())
end = looked_at(Settings(dict(os.environ)))
os.makedirs({str(state / "0")!r}, exist_ok=True)
ends.write_status({str(state / "0")!r}, end or ends.Ended(0, "step", "exit code 0"), "", 0, ends.now(), "")
"""
    env = {"SLIPWAY_STATE_DIR": str(state), "SLIPWAY_DIR": str(plan.parent), "SLIPWAY_EXPECT": "\n".join(expect)}
    done = subprocess.run([sys.executable, "-I", "-c", text], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    status = json.loads((state / "0" / "status.json").read_text())
    return status["exit_code"], status, state / "made"


def test_the_supervisor_says_what_was_not_met(tmp_path: Path) -> None:
    code, status, link = supervised(tmp_path, GOOD, "loss<2", "learns")
    assert (code, status["cause"], status["reason"]) == (76, "gate", "expected loss < 2, found 7.427")
    assert not link.is_symlink()


@pytest.mark.parametrize(
    ("made", "output", "leads"),
    [
        ({"checkpoint": "/output/epoch_0/model"}, "${RUN_DIR}/output", "../output/epoch_0/model"),
        ({"path": "/output"}, "${RUN_DIR}/output", "../output"),
        ({"path": "/output"}, "/data/out", "/data/out"),
        ({"checkpoint": "/output/step_3"}, "/data/out", "/data/out/step_3"),
        ({"checkpoint": "/output/../etc"}, "/data/out", None),
        ({"checkpoint": "/etc"}, "/data/out", None),
        ({"checkpoint": 3}, "/data/out", None),
        ({}, "/data/out", None),
    ],
)
def test_the_supervisor_leaves_a_link_to_what_was_made(
    tmp_path: Path, made: dict[str, Any], output: str, leads: str | None
) -> None:
    """Not in the output, which somebody may copy with all that links lead to."""
    code, _, link = supervised(tmp_path, GOOD | made, "learns", output=output)
    assert code == 0
    assert (str(link.readlink()) if link.is_symlink() else None) == leads


def test_a_pipe_in_place_of_the_result_is_none(tmp_path: Path) -> None:
    """Whoever opens it for reading would wait for ever."""
    code, status, link = supervised(tmp_path, None, "loss<2", pipe=True)
    assert (code, status["reason"]) == (76, "expected loss < 2, found last_loss not reported by the step")
    assert not link.is_symlink()


@pytest.mark.parametrize("result", ["no json", [1], None])
def test_a_result_that_cannot_be_read_meets_nothing(tmp_path: Path, result: Any) -> None:
    code, status, _ = supervised(tmp_path, result, "loss<2")
    assert (code, status["reason"]) == (76, "expected loss < 2, found last_loss not reported by the step")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "loss",
            "error: --expect loss: 'loss' is no condition: expected NAME<NUMBER (or <=, >, >=, ==, !=), or learns\n"
            "  such as --expect 'loss<2.0'\n",
        ),
        ("los<2", "error: --expect los<2: sft/automodel reports no 'los'\n  did you mean 'loss'?\n"),
    ],
)
def test_a_condition_is_checked_when_planning(
    project: Project, inputs: Inputs, built: Engine, word: str, said: str
) -> None:
    done = project.launch("sft/automodel", *inputs.words, "--dry-run", "--expect", word)
    assert built.address
    assert (done.code, errors(done.stderr)) == (64, said)


def test_a_step_that_trains_nothing_cannot_learn(project: Project, inputs: Inputs, built: Engine) -> None:
    done = project.launch(
        "optimize/modelopt/quantize", "--flavour", "cpu", f"model={inputs.model}", "--dry-run", "--expect", "learns"
    )
    assert built.address
    assert "error: --expect learns: optimize/modelopt/quantize trains nothing\n" in done.stderr
    assert "  it reports: quantized_layers, calibration_samples\n" in done.stderr


def test_what_is_expected_is_in_the_request_and_what_is_asked(
    project: Project, inputs: Inputs, built: Engine, tmp_path: Path
) -> None:
    words = ("sft/automodel", *inputs.words, "--expect", "loss<2.0", "--expect", "learns")
    done = project.launch(*words, "-o", str(tmp_path / "made"))
    assert built.address
    assert done.code == 0, done
    plan, asked = (json.loads((tmp_path / "made" / name).read_text()) for name in ("plan.json", "asked.json"))
    assert plan["env"]["SLIPWAY_EXPECT"] == {"value": "loss<2.0\nlearns", "by": "launcher"}
    assert asked["expect"] == ["loss<2.0", "learns"]


def test_every_number_that_a_step_reports_is_one_of_its_program(project: Project) -> None:
    """`reports:` of step.yaml against the text of the program that writes the result."""
    from launcher.catalog import definitions

    for step in definitions.all_steps(project.root):
        programs = [REPO / "entrypoints" / "steps" / c.program for c in step.commands]
        texts = [program.read_text() for program in programs]
        beside = {
            f"{name}.py" for text in texts for name in re.findall(r"^(?:import|from) (automodel_\w+)", text, re.M)
        }
        text = "".join([*texts, *((programs[0].parent / name).read_text() for name in beside)])
        for name in step.reports:
            assert f'"{name.removesuffix(".*")}"' in text, f"{step.id}: {name}"

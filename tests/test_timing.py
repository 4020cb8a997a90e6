"""launcher/runs/timing.py: `launch show --timing` of runs whose files say when what was over, or do not."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from helpers import Project, SpecOf, record_of, seen_of

from launcher.catalog.definitions import Step
from launcher.planning.planner import make_plan
from launcher.records.run_directory import Outcome, Run

ID = "20260101T000000Z-sft.automodel-aaaaaa"
OUTCOME = Outcome(exit_code=0, cause="step", reason="done", started="2026-01-01T00:00:04.2Z",
                  finished="2026-01-01T00:01:50Z")  # fmt: skip
STATUS = {
    "exit_code": 0,
    "started": "2026-01-01T00:00:05Z",
    "step_started": "2026-01-01T00:00:10Z",
    "finished": "2026-01-01T00:01:50Z",
}
STEPS = [
    {"step": 1, "time": "2026-01-01T00:00:32", "step_s": 2.0},
    {"step": 2, "time": "2026-01-01T00:00:34", "step_s": 2.0},
    {"step": 40, "time": "2026-01-01T00:01:40", "step_s": 1.5},
]


def run_of(project: Project, spec_of: SpecOf, step: Step, outcome: Outcome | None = OUTCOME, **status: Any) -> Run:
    plan = make_plan(spec_of(step=step), seen_of(), {})
    run = Run(project.path / "runs" / ID)
    (run.path / "container" / "0").mkdir(parents=True)
    state = "ended" if outcome else "submitted"
    run.write(record_of(run, plan, "unix:///gone", state=state, submitted="2026-01-01T00:00:00Z", outcome=outcome))
    (run.path / "lock").touch()
    events = [("prepared", "00:00:01"), ("started", "00:00:03"), ("ended", "00:01:52")]
    lines = [json.dumps({"event": e, "time": f"2026-01-01T{t}Z"}) for e, t in events[: 3 if outcome else 2]]
    (run.path / "events.jsonl").write_text("".join(f"{line}\n" for line in [*lines, '{"event": "cu']))
    (run.path / "container" / "0" / "status.json").write_text(json.dumps(STATUS | status))
    (run.path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in STEPS))
    return run


@pytest.mark.usefixtures("engine")
def test_the_phases_add_up_to_the_whole(project: Project, spec_of: SpecOf, step: Step) -> None:
    run_of(project, spec_of, step)
    told = json.loads(project.launch("show", "--timing", "--json").stdout)
    assert {p["phase"]: p["seconds"] for p in told["phases"]} == {
        "submitting": 3.0, "container": 2.0, "checks": 5.0, "loading": 20.0, "training": 70.0, "saving": 10.0,
        "collecting": 2.0,
    }  # fmt: skip
    assert (told["seconds"], told["unknown"], told["goes_on"]) == (112.0, {}, False)
    assert sum(p["seconds"] for p in told["phases"]) == told["seconds"]
    assert abs(sum(p["share"] for p in told["phases"]) - 1) < 0.001
    shown = [line.split() for line in project.launch("show", "--timing").stdout.splitlines()]
    assert shown[0] == ["PHASE", "TIME", "SHARE"] and shown[5] == ["training", "70.0", "s", "62.5", "%"]
    assert shown[-1] == ["whole", "112.0", "s"]


@pytest.mark.usefixtures("engine")
def test_what_nobody_has_written_down_is_one_phase_with_the_next(project: Project, spec_of: SpecOf, step: Step) -> None:
    """Of an older entrypoint, a library that says no times, and a metrics file that is cut off or no such file."""
    run = run_of(project, spec_of, step, step_started=None)
    for text in (
        '{"step": 1, "loss": 1.5}\n{"step": 2, "lo',
        "\x00\x01 of another release\n",
        '[1, 2]\n{"step": "x"}\n',
    ):
        (run.path / "metrics.jsonl").write_text(text)
        told = json.loads(project.launch("show", "--timing", "--json").stdout)
        assert [p["phase"] for p in told["phases"]] == [
            "submitting", "container", "checks + loading + training + saving", "collecting",
        ]  # fmt: skip
        assert told["seconds"] == 112.0 == sum(p["seconds"] for p in told["phases"])
        assert set(told["unknown"]) == {"checks", "loading", "training"}
        assert project.launch("show").code == 0
    said = project.launch("show", "--timing").stdout
    assert "unknown: when loading was over: the step's log (time of its first step) does not say it\n" in said


@pytest.mark.usefixtures("engine")
def test_clocks_that_differ_are_said(project: Project, spec_of: SpecOf, step: Step) -> None:
    run_of(project, spec_of, step, step_started="2025-12-31T23:00:10Z")
    told = json.loads(project.launch("show", "--timing", "--json").stdout)
    assert told["unknown"]["checks"].endswith("is earlier than what went before: the clocks differ")
    assert told["seconds"] == 112.0 == sum(p["seconds"] for p in told["phases"])


def test_a_run_that_goes_on(project: Project, spec_of: SpecOf, step: Step) -> None:
    """What is not over yet lasts until now; its engine cannot be asked here, which is no wrong answer."""
    from launcher.runs import timing

    run = run_of(project, spec_of, step, outcome=None)
    (run.path / "container" / "0" / "status.json").unlink()
    (run.path / "metrics.jsonl").unlink()
    record = run.record()
    assert record is not None
    now = timing._time("2026-01-01T00:10:03")
    told = msgspec.to_builtins(timing.of(run, record, now))
    assert [(p["phase"], p["seconds"]) for p in told["phases"]] == [("submitting", 3.0), ("container", 600.0)]
    assert told["goes_on"] is True and timing.text(timing.of(run, record, now)).splitlines()[2].startswith(
        "container (so"
    )

"""launcher/selftest/attesting.py: what is written of runs, by what their containers told of the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import IMAGE, Project, SpecOf, entry_of, left_by, seen_of

from images.locking.attestation import Attestation, load
from launcher.core.asked import Asked
from launcher.planning.planner import make_plan
from launcher.records.outcome import End
from launcher.records.run_directory import Outcome, Run
from launcher.selftest import attesting
from launcher.selftest.attesting import Row
from launcher.selftest.course import Lesson
from slipway.inbox import Damaged

STEP = "sft/automodel"
STATUS = {"exit_code": 0, "machine": "EPYC, 2 processors"}


def row(project: Project, spec_of: SpecOf, day: int = 1, step: str = STEP, **files: Any) -> Row:
    """Of a run on that day that has ended well, whose container has left `files`, status and versions."""
    plan = make_plan(spec_of(), seen_of(), {})
    run = left_by(project, plan, f"2026010{day}T000000Z-sft.automodel-aaaaaa")
    for name, value in {"status": STATUS, **files}.items():
        (run.path / "container" / "0" / f"{name}.json").write_text(json.dumps(value))
    record = run.record()
    assert record is not None
    times = {"started": f"2026-01-0{day}T00:00:00Z", "finished": f"2026-01-0{day}T00:01:02.500000000Z"}
    ended = msgspec.structs.replace(
        record, submitted=f"2026-01-0{day}T00:00:00Z", asked=Asked(commit="c" * 40),
        outcome=Outcome(exit_code=0, cause="step", reason="", end=End.DONE, **times),
    )  # fmt: skip
    return Row(Lesson(step, entry_of()), "ok", run=Run(run.path), record=ended)


def written(folder: Path, *rows: Row) -> list[Attestation]:
    for path, found in attesting.attestations(rows, [STEP, "peft/automodel"], folder):
        attesting.write(path, found)
    return [load(path) for path in sorted(folder.glob("*"))]


def test_it_says_what_ran_on_what(project: Project, spec_of: SpecOf, tmp_path: Path) -> None:
    skipped = Row(Lesson("peft/automodel", entry_of()), "skipped", "no room")
    (found,) = written(tmp_path / "made", row(project, spec_of), skipped)
    assert (found.name, found.entry, found.image) == ("automodel/1.0-cpu", entry_of().checksum, IMAGE)
    assert (found.hardware, found.driver, found.engine) == ("EPYC, 2 processors", "", "docker")
    assert (found.date, found.commit) == ("2026-01-01T00:01:02.500000000Z", "c" * 40)
    assert {name: (s.result, s.seconds, s.why) for name, s in found.steps.items()} == {
        STEP: ("ok", 62.5, ""), "peft/automodel": ("skipped", None, "no room"),
    }  # fmt: skip
    assert (tmp_path / "made" / "automodel-1.0-cpu.json").stat().st_mode & 0o777 == 0o644


def test_of_several_runs_the_last_tells_image_machine_and_date(
    project: Project, spec_of: SpecOf, tmp_path: Path
) -> None:
    gpus = {"gpu_names": ["NVIDIA H200", "NVIDIA H200", "NVIDIA T4"], "driver": "575.57.08"}
    rows = row(project, spec_of, 2, "peft/automodel", versions=gpus), row(project, spec_of, 1)
    (found,) = written(tmp_path / "made", *rows)
    assert (found.hardware, found.driver) == ("2 x NVIDIA H200, 1 x NVIDIA T4", "575.57.08")
    assert found.date.startswith("2026-01-02") and len(found.steps) == 2


def test_what_has_not_run_and_whose_steps_are_not_the_project_s_attest_nothing(
    project: Project, spec_of: SpecOf, tmp_path: Path
) -> None:
    skipped = Row(Lesson(STEP, entry_of()), "skipped", "no image")
    assert written(tmp_path / "made", skipped, row(project, spec_of, step="mine/sft")) == []


@pytest.mark.parametrize("versions", [{"gpu_names": "many"}, {"driver": 575}])
def test_what_a_container_made_up_is_refused(
    project: Project, spec_of: SpecOf, tmp_path: Path, versions: dict[str, Any]
) -> None:
    with pytest.raises(Damaged, match=r"versions\.json"):
        written(tmp_path / "made", row(project, spec_of, versions=versions))

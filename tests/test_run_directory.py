"""launcher/records/run_directory.py: run directories, and finding a run again."""

from __future__ import annotations

import datetime
import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from helpers import SpecOf, record_of, seen_of, tree

from launcher.core.plan import Plan
from launcher.planning.planner import make_plan
from launcher.records import claiming, run_directory
from launcher.records.run_directory import Outcome, Run
from slipway.errors import Exit, SlipwayError
from slipway.project import Root

DEEP: Any = functools.reduce(lambda below, _: [below], range(2000), [])
WHEN = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


@pytest.fixture
def plan(spec_of: SpecOf) -> Plan:
    return make_plan(spec_of(), seen_of(), {})


def test_a_run_is_named_by_time_step_and_plan_and_claimed_once(tmp_path: Path, plan: Plan) -> None:
    names = [claiming.claim(tmp_path / "runs", plan, WHEN).id for _ in range(3)]
    stem = f"20260102T030405Z-sft.automodel-{plan.hash[:6]}"
    assert names == [stem, f"{stem}-2", f"{stem}-3"]
    assert run_directory.list_ids(tmp_path / "runs") == names


def test_the_id_of_a_run_that_was_removed_is_no_other_runs(tmp_path: Path, plan: Plan) -> None:
    """Whoever has removed the directory, and when."""
    first = claiming.claim(tmp_path, plan, WHEN)
    claiming.remember(first)
    first.path.rmdir()
    second = claiming.claim(tmp_path, plan, WHEN)
    assert second.id != first.id and run_directory.order(second.id) > run_directory.order(first.id)
    (tmp_path / f".last-{os.geteuid()}").write_text("20990101T000000Z no id")
    assert claiming.claim(tmp_path, plan, WHEN).id == f"{second.id}-2"


def test_a_record_of_another_schema_is_refused_with_the_reason(tmp_path: Path) -> None:
    run = Run(tmp_path / "20260101T000000Z-a.b-aaaaaa")
    run.path.mkdir()
    run.record_file.write_text('{"schema": 2, "run": "x", "new": []}')
    with pytest.raises(SlipwayError, match="not a run record: schema 2, expected 1 ") as raised:
        run.record()
    assert raised.value.code == 65


@pytest.mark.parametrize(
    ("there", "name"),
    [
        ([], "20260102T030405Z-sft.automodel-{H}"),
        (["20260102T030404Z-sft.automodel-{H}", "20250102T030405Z-a.b-aaaaaa"], "20260102T030405Z-sft.automodel-{H}"),
        (["20260102T030405Z-a.b-aaaaaa"], "20260102T030406Z-sft.automodel-{H}"),  # sorts after it
        (["20260102T030405Z-z.b-aaaaaa"], "20260102T030406Z-sft.automodel-{H}"),
        (["20260102T040000Z-z.b-aaaaaa"], "20260102T040001Z-sft.automodel-{H}"),  # the clock went back
        (["20260102T040000Z-sft.automodel-{H}"], "20260102T040000Z-sft.automodel-{H}-2"),
        (["20269999T999999Z-z.b-aaaaaa"], "20260102T030405Z-sft.automodel-{H}"),  # no time
        (["20260102T030405Z-sft.automodel-{H}", *(f"20260102T030405Z-sft.automodel-{{H}}-{n}" for n in range(2, 11))],
         "20260102T030405Z-sft.automodel-{H}-11"),
    ],
)  # fmt: skip
def test_the_last_run_is_the_last_by_its_name(tmp_path: Path, plan: Plan, there: list[str], name: str) -> None:
    for other in there:
        (tmp_path / other.format(H=plan.hash[:6])).mkdir()
    assert claiming.claim(tmp_path, plan, WHEN).id == name.format(H=plan.hash[:6])
    if "20269999" not in "".join(there):
        assert run_directory.find(tmp_path, "last").id == name.format(H=plan.hash[:6])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
def test_another_users_run_of_the_future_moves_no_clock(tmp_path: Path, plan: Plan) -> None:
    (tmp_path / "20990101T000000Z-z.b-aaaaaa").mkdir()
    os.chown(tmp_path / "20990101T000000Z-z.b-aaaaaa", 65534, 65534)
    assert claiming.claim(tmp_path, plan, WHEN).id.startswith("20260102T030405Z-")


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path, plan: Plan) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SlipwayError) as e:
        claiming.claim(tmp_path / "file" / "runs", plan)
    assert (e.value.code, e.value.where) == (Exit.CANNOT_WRITE, str(tmp_path / "file" / "runs"))


def test_a_record_is_read_back_whole(tmp_path: Path, plan: Plan) -> None:
    run = claiming.claim(tmp_path, plan)
    assert run.record() is None
    written = record_of(run, plan)
    run.write(written)
    assert run.record() == written
    assert json.loads(run.record_file.read_text())["plan"]["step"] == "sft/automodel"


@pytest.mark.parametrize(
    "changes",
    [*({"versions": {"a": v}} for v in (float("nan"), float("inf"), "\ud800", DEEP)), {"submitted": 5}, {"argv": [1]}],
)
def test_a_record_that_could_not_be_read_again_is_not_written(
    tmp_path: Path, plan: Plan, changes: dict[str, Any]
) -> None:
    run = claiming.claim(tmp_path, plan)
    run.write(record_of(run, plan))
    before = tree(run.path)
    with pytest.raises(SlipwayError) as e:
        run.write(record_of(run, plan, state="ended", **changes))
    assert (e.value.code, e.value.where) == (Exit.DATA, str(run.record_file))
    assert tree(run.path) == before, "so that it can be collected once more"


def test_an_outcome_whose_result_could_not_be_shown_is_none() -> None:
    with pytest.raises(ValueError, match="last_loss"):
        Outcome(exit_code=0, cause="step", reason="", result={"last_loss": "low"})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2}'])
def test_a_broken_record_is_named(tmp_path: Path, plan: Plan, text: str) -> None:
    run = claiming.claim(tmp_path, plan)
    run.record_file.write_text(text)
    with pytest.raises(SlipwayError, match="not a run record") as e:
        run.record()
    assert (e.value.code, e.value.where) == (Exit.DATA, str(run.record_file))


def test_events_are_lines_with_their_time(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert not run.had_event("started")
    run.event("started", container="abc")
    run.event("ended")
    assert run.had_event("started") and run.had_event("ended") and not run.had_event("cancel")
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(e["event"], e.get("container")) for e in lines] == [("started", "abc"), ("ended", None)]
    assert all(datetime.datetime.fromisoformat(e["time"]) for e in lines)


def test_one_process_at_a_time_looks_after_a_run(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.lock() as mine, Run(tmp_path).lock() as other:
        assert (mine, other) == (True, False)
    with Run(tmp_path).lock() as after:
        assert after


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    """However it ends."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with Run(tmp_path).lock():
            os.write(writer, b"locked")
            os.kill(os.getpid(), 9)
    assert os.read(reader, 6) == b"locked"
    os.waitpid(child, 0)
    with Run(tmp_path).lock() as mine:
        assert mine


def test_the_runs_directory_option_profile_variable_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_RUNS", "/variable")
    monkeypatch.setenv("HOME", "/home/user")
    monkeypatch.chdir(tmp_path)
    root = Root(Path("/project"))
    assert run_directory.runs_dir(root, "option", "/profile") == tmp_path / "option"
    assert run_directory.runs_dir(root, None, "~/profile") == Path("/home/user/profile")
    assert run_directory.runs_dir(root, None, None) == Path("/variable")
    monkeypatch.setenv("SLIPWAY_RUNS", " ")
    assert run_directory.runs_dir(root, None, None) == Path("/project/runs")


IDS = ("20260101T000000Z-a.b-aaaaaa", "20260102T000000Z-a.b-bbbbbb", "20260102T000000Z-a.b-bbbbbb-2")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name in (*IDS, "something else", "20260103-a"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "plan.json").touch()
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("last", IDS[2]),
        (IDS[0], IDS[0]),
        ("20260101", IDS[0]),
        ("aaaaaa", IDS[0]),
        (IDS[1], IDS[1]),
        ("bbbbbb-2", IDS[2]),
        ("0101T", IDS[0]),
    ],
)
def test_a_run_is_found_by_a_part_that_is_its_own(runs: Path, name: str, found: str) -> None:
    assert run_directory.find(runs, name).id == found
    assert run_directory.list_ids(runs) == list(IDS)


def test_a_run_is_found_by_its_directory(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (f"runs/{IDS[0]}", str(runs / IDS[0])):
        assert run_directory.find(Path("/elsewhere"), name).path == runs / IDS[0]
    monkeypatch.chdir(runs)
    assert run_directory.find(Path("/elsewhere"), IDS[0]).path == runs / IDS[0]


@pytest.mark.parametrize(
    ("name", "code", "what"),
    [
        ("2026", 64, f"'2026' fits 3 runs: {', '.join(IDS)}"),
        ("bbbbbb", 64, f"'bbbbbb' fits 2 runs: {IDS[1]}, {IDS[2]}"),
        ("", 66, "there is no run ''"),
        ("x" * 300, 66, f"there is no run '{'x' * 300}'"),
        ("zzz", 66, "there is no run 'zzz'"),
        ("./nothing", 66, "there is no such run directory"),
        ("/", 66, "there is no such run directory"),
    ],
)
def test_a_run_that_is_not_one_is_refused(runs: Path, name: str, code: int, what: str) -> None:
    with pytest.raises(SlipwayError) as e:
        run_directory.find(runs, name)
    assert (e.value.code, e.value.what) == (code, what)


def test_the_nearest_run_is_named(runs: Path) -> None:
    with pytest.raises(SlipwayError) as e:
        run_directory.find(runs, "20260101T000000Z-a.b-aaaaab")
    assert e.value.remedy == f"did you mean {IDS[0]!r}?"


def test_where_nothing_was_launched_that_is_said(tmp_path: Path) -> None:
    for name in ("last", "abc"):
        with pytest.raises(SlipwayError) as e:
            run_directory.find(tmp_path / "runs", name)
        assert (e.value.code, e.value.remedy) == (
            Exit.NO_INPUT, "nothing has been launched from here yet; see also --runs-dir"
        )  # fmt: skip


def test_an_event_that_a_kill_cut_off_does_not_count(tmp_path: Path) -> None:
    run = run_directory.Run(tmp_path)
    run.event("started")
    with (tmp_path / "events.jsonl").open("a") as f:
        f.write('{"event": "ended", "ti')
    assert run.had_event("started") and not run.had_event("ended")
    run.event("ended")  # on a line of its own
    assert run.had_event("started") and run.had_event("ended")

"""launcher/runs/display.py on runs that have ended: no engine is needed to look at them."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from helpers import IMAGE, Project, SpecOf, listed, record_of, seen_of, tree

from launcher import cli
from launcher.planning.planner import make_plan
from launcher.records.run_directory import Outcome, Record, Run

DONE = Outcome(
    exit_code=0,
    cause="step",
    reason="done",
    started="2026-01-01T00:00:00.123456789Z",
    finished="2026-01-01T00:01:05.9Z",
    checkpoint="/data/out/epoch_0_step_39/model/consolidated",
    result={"first_loss": 6.5, "last_loss": 2.25, "steps": 40, "type": "checkpoint_hf"},
)
FAILED = Outcome(exit_code=3, cause="step", reason="ValueError: no")
CANCELLED = Outcome(exit_code=143, cause="cancelled", reason="told to stop by TERM")
IDS = [f"2026010{n}T000000Z-sft.automodel-aaaaaa" for n in range(1, 4)]


@pytest.fixture
def ended(project: Project, spec_of: SpecOf) -> list[Run]:
    """Three runs that have ended, in the project's runs directory."""
    plan = make_plan(spec_of(), seen_of(), {})
    made = []
    for run_id, outcome in zip(IDS, (DONE, FAILED, CANCELLED), strict=True):
        run = Run(project.path / "runs" / run_id)
        run.log.parent.mkdir(parents=True)
        run.log.write_bytes(b"step 1/2\xff\nstep 2/2\n")
        record = record_of(
            run, plan, "unix:///gone", state="ended", slipway="0.1.0", submitted="2026-01-01T00:00:00Z",
            argv=["sft/automodel", "train=/a b/c.jsonl"], outcome=outcome,
        )  # fmt: skip
        run.write(record)
        (run.path / "lock").touch()
        run.event("ended")
        made.append(run)
    return made


@pytest.mark.usefixtures("ended")
def test_runs_are_listed_newest_last_with_how_they_ended(project: Project) -> None:
    lines = [line.split() for line in listed(project.launch("runs"))]
    assert [(*line[:3], *line[5:]) for line in lines] == [
        (IDS[0], "done", "0", "40", "2.25", "sft/automodel", "docker"),
        (IDS[1], "failed", "3", "sft/automodel", "docker"),
        (IDS[2], "cancelled", "143", "sft/automodel", "docker"),
    ]
    assert {line[4] for line in lines} == {"d"}, "the unit of the age"


@pytest.mark.usefixtures("ended")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["-n", "2"], IDS[1:]),
        (["--state", "failed"], IDS[1:2]),
        (["--state", "failed", "--state", "done"], IDS[:2]),
        (["--state", "failed", "--state", "done", "-n", "1"], IDS[1:2]),
        (["--state", "fail"], []),
        (["--step", "sft"], IDS),
        (["--step", "sft/automodel"], IDS),
        (["--step", "sf"], []),
        (["--step", "rl/"], []),
    ],
)
def test_runs_can_be_chosen(project: Project, words: list[str], found: list[str]) -> None:
    assert [line.split()[0] for line in listed(project.launch("runs", *words))] == found
    done = project.launch("runs", "--json", *words)
    assert (done.code, [json.loads(line)["run"] for line in done.stdout.splitlines()]) == (0, found)


@pytest.mark.usefixtures("ended")
def test_runs_are_listed_as_json_for_programs(project: Project) -> None:
    facts = [json.loads(line) for line in project.launch("runs", "--json").stdout.splitlines()]
    assert [(f["run"], f["state"], f["exit_code"], f["cause"]) for f in facts] == [
        (IDS[0], "done", 0, "step"), (IDS[1], "failed", 3, "step"), (IDS[2], "cancelled", 143, "cancelled")
    ]  # fmt: skip
    assert {f["step"] for f in facts} == {"sft/automodel"}


@pytest.mark.usefixtures("ended")
def test_waiting_for_runs_that_have_ended_says_how(project: Project) -> None:
    done = project.launch("wait", IDS[0], IDS[1], "last")
    assert done.stdout.splitlines() == [f"{IDS[0]} done", f"{IDS[1]} failed", f"{IDS[2]} cancelled"]
    assert (done.code, project.launch("wait", IDS[2]).code, project.launch("wait", IDS[0]).code) == (3, 143, 0)
    assert (project.launch("wait").code, project.launch("wait", "other").code) == (2, 66)


@pytest.mark.parametrize("text", ["{", None])
def test_a_run_that_cannot_be_read_hides_no_other(project: Project, ended: list[Run], text: str | None) -> None:
    ended[1].record_file.unlink()
    if text:
        ended[1].record_file.write_text(text)
    done = project.launch("runs")
    states = [line.split()[1] for line in listed(done)]
    assert done.code == 0
    assert (states[0], states[2]) == ("done", "cancelled") and states[1] in ("damaged", "never")


def record_with(run: Run, *keys: str, value: Any) -> str:
    """The record's text with another value at a dotted place."""
    whole = json.loads(run.record_file.read_text())
    node = whole
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    return json.dumps(whole)


def deep(text: str) -> str:
    return text.replace('"odd"', "[" * 200_000)


ODD_RECORDS: list[tuple[tuple[str, ...], Any, str]] = [
    (("engine", "kind"), "podman", "the engine is 'podman', the profile is for docker"),
    (("engine", "kind"), "shell", "the engine is 'shell', the profile is for docker"),
    (("plan", "profile", "kind"), "podman", "Invalid value 'podman' - at `$.plan.profile.kind`"),
    (("engine",), {"kind": "docker"}, "Object missing required field `address` - at `$.engine`"),
    (("outcome", "exit_code"), "0", "Expected `int`, got `str` - at `$.outcome.exit_code`"),
    (("outcome", "result", "last_loss"), "low", "Expected `float | null`, got `str`"),
    (("outcome", "damaged"), {}, "Expected `array`, got `object` - at `$.outcome.damaged`"),
    (("outcome",), [], "Expected `object | null`, got `array` - at `$.outcome`"),
    (("plan", "inputs", "train", "fingerprint"), 5, "Expected `str`, got `int`"),
    (("request", "a"), "odd", "maximum recursion depth exceeded"),
]
ODD_FILES: list[tuple[str, Any, str]] = [
    ("record.json", os.mkfifo, "record.json: is no regular file"),
    ("record.json", Path.mkdir, "record.json: is no regular file"),
    ("record.json", lambda path: path.symlink_to("/dev/zero"), "record.json: record.json is a link"),
    ("record.json", lambda path: path.write_text("{"), "record.json: not a run record: Input data was truncated"),
    ("record.json", lambda path: path.write_bytes(b"{\xff\xfe"), "record.json: not a run record: "),
    ("events.jsonl", os.mkfifo, "events.jsonl: is no regular file"),
    ("events.jsonl", lambda path: path.symlink_to("/dev/zero"), "events.jsonl: events.jsonl is a link"),
]


def test_what_is_wrong_with_a_run_directory_is_said_and_hides_no_other(project: Project, ended: list[Run]) -> None:
    """Each of these in a run directory of its own."""
    said = {}
    for keys, value, why in ODD_RECORDS:
        run = copied(ended[0], len(said))
        run.record_file.write_text(deep(record_with(run, *keys, value=value)))
        said[run.id] = f"record.json: not a run record: {why}"
    for name, make, why in ODD_FILES:
        run = copied(ended[0], len(said))
        (run.path / name).unlink()
        make(run.path / name)
        said[run.id] = why
    file = Run(ended[0].path.parent / "20260102T000000Z-sft.automodel-bbbbbb")
    file.path.write_text("no folder")
    done = project.launch("runs")
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in listed(done)}
    assert (done.code, done.stderr, len(rows)) == (0, "", len(said) + 4)
    assert [rows[run_id].split()[0] for run_id in IDS] == ["done", "failed", "cancelled"]
    assert re.fullmatch(rf"damaged \d+ \w+ events.jsonl: {file.id} is no folder", rows[file.id])
    for run_id, why in said.items():
        assert rows[run_id].startswith("damaged ") and f" {why}" in rows[run_id], (run_id, why, rows[run_id])
    for run_id in list(said)[8:]:
        for verb in ("show", "logs", "cancel") if said[run_id].startswith("record.json") else ("show", "logs"):
            done = project.launch(verb, run_id)
            assert (done.code, done.stdout) == (65, "") and run_id in done.stderr


def copied(run: Run, number: int) -> Run:
    to = run.path.with_name(f"20260102T000000Z-sft.automodel-{number:06}")
    shutil.copytree(run.path, to)
    return Run(to)


def test_lines_that_are_no_events_do_not_count(project: Project, ended: list[Run]) -> None:
    events = ended[0].path / "events.jsonl"
    ended_line = events.read_text()
    odd = ['{"event": "ended"', "[]", '"ended"', '{"event": 5, "ended": 1}', "[" * 200_000 + '"ended"', "\x00ended"]
    events.write_text("".join(f"{line}\n" for line in odd) + ended_line)
    assert project.launch("show", IDS[0]).code == 0
    events.write_text("".join(f"{line}\n" for line in odd))
    assert not ended[0].had_event("ended")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("../../../kept")])
def test_a_lock_that_is_none_keeps_nobody_waiting(project: Project, ended: list[Run], make: Any) -> None:
    (project.path.parent / "kept").write_text("kept")
    (ended[0].path / "lock").unlink()
    ended[0].record_file.unlink()
    make(ended[0].path / "lock")
    done = project.launch("runs")
    assert (done.code, len(listed(done))) == (0, 3)
    assert listed(done)[0].split()[1] == "unknown" and " lock: cannot write: " in listed(done)[0]
    assert (project.path.parent / "kept").read_text() == "kept"


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_log_that_is_none_is_not_printed(project: Project, ended: list[Run], make: Any) -> None:
    ended[0].log.unlink()
    make(ended[0].log)
    done = project.launch("logs", IDS[0])
    assert (done.code, done.stdout) == (65, "") and f"{ended[0].log}: " in done.stderr


def test_another_users_run_is_looked_at_and_never_acted_upon(
    project: Project, ended: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it has not been collected; its engine would be asked, were it the caller's."""
    for run in ended[1:]:
        (run.path / "events.jsonl").unlink()
    run = ended[1]
    run.write(msgspec.structs.replace(ended[1].record(), outcome=None, state="submitted"))
    before = tree(project.path)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.chdir(project.path)

    def launch(*words: str) -> Any:
        return CliRunner().invoke(cli.main, words, env={"SLIPWAY_RUNS": str(project.path / "runs")})

    done = launch("runs")
    assert (done.exit_code, [" ".join(line.split()[1:3]) for line in done.stdout.splitlines()[1:]]) == (
        0, ["another user's"] * 3
    )  # fmt: skip
    shown = launch("show", IDS[1])
    assert (shown.exit_code, "state      another user's\n" in shown.stdout) == (0, True)
    assert launch("logs", IDS[1]).stdout_bytes == run.log.read_bytes()
    refused = launch("cancel", IDS[1])
    assert (refused.exit_code, "another user's run" in refused.stderr) == (77, True)
    assert tree(project.path) == before
    for file in run.path.glob("*.json"):
        file.unlink()
    assert "another user's" in launch("runs").stdout.splitlines()[2]


def test_a_link_that_another_user_made_is_no_run_of_the_callers(
    ended: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Run(ended[0].path.with_name("20260105T000000Z-sft.automodel-aaaaaa"))
    link.path.symlink_to(ended[0].path)
    assert link.ours
    real = Path.lstat
    monkeypatch.setattr(Path, "lstat", lambda path: os.stat_result((*real(path)[:4], 54321, *real(path)[5:])))
    assert not link.ours


def test_a_run_is_shown_whole(project: Project, ended: list[Run]) -> None:
    done = project.launch("show", IDS[0])
    run = ended[0]
    assert done.code == 0
    assert dict(line.split(maxsplit=1) for line in done.stdout.splitlines()) == {
        "run": run.id,
        "state": "done",
        "step": "sft/automodel: exit 0",
        "time": "66 s",
        "checkpoint": "/data/out/epoch_0_step_39/model/consolidated (checkpoint_hf)",
        "loss": "6.500 -> 2.250 in 40 steps",
        "image": f"automodel/1.0-cpu, {IMAGE}",
        "input": "train = /data/chats.jsonl (chat_jsonl, fingerprint aaaaaaaaaaaa)",
        "submitted": "2026-01-01T00:00:00Z, with slipway 0.1.0: launch sft/automodel 'train=/a b/c.jsonl'",
        "log": str(run.log),
        "record": str(run.record_file),
    }
    assert "input      model = /data/llama (checkpoint_hf, fingerprint bbbbbbbbbbbb)\n" in done.stdout


@pytest.mark.usefixtures("ended")
def test_a_run_that_failed_says_why_and_where_its_output_is(project: Project) -> None:
    shown = project.launch("show", IDS[1]).stdout
    assert "step       sft/automodel: exit 3 (step: ValueError: no)\n" in shown
    assert "output     /data/out (no finished checkpoint was reported)\n" in shown


def test_the_record_itself_is_shown_as_json(project: Project, ended: list[Run]) -> None:
    shown = project.launch("show", "--json", "last").stdout
    assert shown == ended[2].record_file.read_text()
    assert msgspec.json.decode(shown, type=Record) == ended[2].record()


@pytest.mark.parametrize("words", [["logs", "last"], ["logs", "-f", "last"]])
@pytest.mark.usefixtures("ended")
def test_a_log_that_was_collected_is_printed_byte_by_byte(project: Project, tmp_path: Path, words: list[str]) -> None:
    log = Path(tmp_path / "project" / "runs" / IDS[2] / "logs" / "step.log")
    log.write_text("step 1/2\nstep 2/2\n")
    assert project.launch(*words).stdout == log.read_text()


@pytest.mark.usefixtures("ended")
def test_what_ray_wrote_is_printed_by_node_before_the_drivers_log(project: Project) -> None:
    run = project.path / "runs" / IDS[2]
    (run / "logs" / "step.log").write_text("step 2/2\n")
    for rank, host in ((0, "n1"), (10, "n11"), (2, "n3")):
        folder = run / "container" / str(rank) / "ray"
        folder.mkdir(parents=True)
        (folder / "host").write_text(f"{host}\n")
        (folder / "raylet.out").write_text(f"raylet of {host}")  # its last line has no end
        (folder / "worker-1.err").write_text("")
        (folder / "session.log").symlink_to(project.path / "versions.lock")  # Ray's own links are in the folder, too
        os.mkfifo(folder / "pipe.log")
    (run / "container" / "3").mkdir()
    (run / "container" / "3" / "ray").symlink_to(project.path / "launcher")
    (run / "container" / "0x").mkdir()
    done = project.launch("logs", "last", "--ray")
    said = [f"\n==> {host} raylet.out <==\nraylet of {host}" for host in ("n1", "n3", "n11")]
    assert (done.code, done.stdout) == (0, "".join(said) + "\n==> driver <==\nstep 2/2\n")


@pytest.mark.usefixtures("ended")
def test_a_run_without_ray_and_a_log_that_is_followed_are_refused(project: Project) -> None:
    done = project.launch("logs", IDS[0], "--ray")
    assert (done.code, done.stdout) == (66, "") and "this run has started no Ray" in done.stderr
    assert project.launch("logs", IDS[0], "--ray", "-f").code == 64


@pytest.mark.parametrize("words", [["runs"], ["show"], ["show", "--json"], ["logs"], ["cancel", "last"]])
@pytest.mark.usefixtures("ended")
def test_looking_changes_nothing(project: Project, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "project" / "runs" / IDS[2] / "logs" / "step.log").write_text("a\n")
    before = tree(tmp_path)
    assert project.launch(*words).code == 0
    assert tree(tmp_path) == before


@pytest.mark.usefixtures("ended")
def test_cancelling_what_has_ended_says_how_it_ended(project: Project) -> None:
    done = project.launch("cancel", IDS[0])
    assert (done.code, done.stdout) == (0, "") and f"run        {IDS[0]}: done\n" in done.stderr


@pytest.mark.usefixtures("ended")
def test_runs_are_looked_for_where_they_are_said_to_be(project: Project, tmp_path: Path) -> None:
    (project.path / "runs").rename(tmp_path / "elsewhere")
    assert project.launch("runs").stdout == ""
    ways: list[tuple[list[str], dict[str, Any]]] = [
        (["--runs-dir", str(tmp_path / "elsewhere")], {}), ([], {"SLIPWAY_RUNS": str(tmp_path / "elsewhere")})
    ]  # fmt: skip
    for words, env in ways:
        project.env |= env
        assert len(listed(project.launch("runs", *words))) == 3


@pytest.mark.usefixtures("ended")
def test_a_run_of_another_profile_is_found_by_its_id(project: Project, tmp_path: Path) -> None:
    """As `launch --profile site` has printed it, by a part of it, and as the last of all."""
    (project.path / "runs").rename(tmp_path / "elsewhere")
    project.write("slipway.d/profiles/broken.yaml", "schema: 1\n")
    project.write("slipway.d/profiles/site.yaml", f"schema: 1\nkind: docker\nruns: {tmp_path}/elsewhere\n")
    for verb in ("show", "cancel"):
        assert project.launch(verb, IDS[0]).code == 0
    assert f"{tmp_path}/elsewhere/{IDS[0]}/record.json" in project.launch("show", IDS[0]).stdout
    for name in ("20260101", "last"):
        assert project.launch("show", name).code == 0
    assert project.launch("show", IDS[0], "--runs-dir", str(tmp_path / "none")).code == 66


def test_what_o_wrote_is_shown_and_left_as_it_is(project: Project, spec_of: SpecOf, tmp_path: Path) -> None:
    plan = make_plan(spec_of(), seen_of(), {})
    project.write("written/plan.json", msgspec.json.encode(plan).decode())
    before = tree(tmp_path)
    for name in ("./written", str(project.path / "written"), "written"):
        assert project.launch("show", name).stdout == (
            f"run        written\nstate      never submitted\ndirectory  {project.path}/written\n"
        )
    assert json.loads(project.launch("show", "--json", "written").stdout)["step"] == "sft/automodel"
    for verb in ("logs", "cancel"):
        done = project.launch(verb, "./written")
        assert (done.code, done.stdout) == (66, "") and "never submitted" in done.stderr
    assert tree(tmp_path) == before


def test_a_runs_directory_that_is_a_file_is_refused(project: Project) -> None:
    project.write("runs.txt", "")
    done = project.launch("runs", "--runs-dir", "runs.txt")
    assert (done.code, "the runs directory is no folder" in done.stderr) == (64, True)


@pytest.fixture
def elsewhere(project: Project, ended: list[Run]) -> Run:
    """The latest of all runs, where the profile `site` has its own; `broken` is no profile at all."""
    project.write("slipway.d/profiles/site.yaml", "schema: 1\nkind: docker\nruns: ../../far\n")
    project.write("slipway.d/profiles/broken.yaml", "schema: 1\nkind: docker\nruns: $NOWHERE\n")
    project.write("slipway.d/profiles/absent.yaml", "schema: 1\nkind: docker\nruns: /nothing/there\n")
    (project.path / "far").mkdir()
    for run in ended:
        run.log.write_text("step 2/2\n")
    record = json.loads(ended[2].record_file.read_text())
    record["plan"]["profile"]["name"] = "site"
    ended[2].record_file.write_text(json.dumps(record))
    return Run(ended[2].path.rename(project.path / "far" / ended[2].id))


def test_every_command_knows_the_runs_of_every_profile(project: Project, elsewhere: Run, ended: list[Run]) -> None:
    assert [line.split()[0] for line in listed(project.launch("runs"))] == IDS
    for name in ("last", IDS[2], "20260103"):
        done = project.launch("show", name)
        assert done.code == 0 and f"run        {IDS[2]}\n" in done.stdout, done
        assert f"record     {elsewhere.record_file}\n" in done.stdout
        assert project.launch("logs", name).code == 0
        assert f"run        {IDS[2]}: cancelled\n" in project.launch("cancel", name).stderr
    assert project.launch("show", IDS[1]).code == 0 and ended


@pytest.mark.parametrize(("option", "found"), [("site", IDS[2:]), ("docker", IDS[:2]), ("absent", [])])
@pytest.mark.usefixtures("elsewhere")
def test_a_profile_may_be_named(project: Project, option: str, found: list[str]) -> None:
    lines = listed(project.launch("runs", "--profile", option))
    assert [line.split()[0] for line in lines] == found
    for command in (("show",), ("logs",), ("cancel", "last")):
        done = project.launch(*command, "--profile", option)
        assert done.code == (0 if found else 66), done
    if found:
        assert f"run        {found[-1]}\n" in project.launch("show", "--profile", option).stdout
    other = next(name for name in IDS if name not in found)
    assert project.launch("show", other, "--profile", option).code == 66


@pytest.mark.usefixtures("elsewhere")
def test_a_profile_that_is_named_and_wrong_is_an_error(project: Project) -> None:
    assert "did you mean 'site'" in project.launch("runs", "--profile", "sit").stderr
    assert project.launch("show", "--profile", "broken").code == 78
    assert project.launch("runs", "--profile", "site", "--runs-dir", "runs").code == 0


def test_a_part_that_fits_several_lists_them(project: Project, ended: list[Run], elsewhere: Run) -> None:
    done = project.launch("show", "aaaaaa")
    assert done.code == 64 and f"'aaaaaa' fits 3 runs: {', '.join(IDS)}\n  say more of one\n" in done.stderr
    (project.path / "runs" / IDS[2]).mkdir()
    done = project.launch("show", IDS[2])
    assert done.code == 64 and f"{project.path}/runs/{IDS[2]}, {elsewhere.path}\n" in done.stderr and ended

"""records/container_reports.py, as a user meets it: `runs`, `show`, `logs` and `cancel` on what a container left."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers import Done, Engine, Project, SpecOf, left_by, rows_of, seen_of

from launcher.planning.planner import make_plan
from launcher.records.run_directory import Run

ODD, WHOLE = "20260101T000000Z-sft.automodel-aaaaaa", "20260102T000000Z-sft.automodel-bbbbbb"
STATUS = {"exit_code": 0, "cause": "step", "reason": "", "started": "", "finished": ""}
RESULT = {"checkpoint": "/output/last", "type": "checkpoint_hf", "steps": 3, "first_loss": 7.664, "last_loss": 2.5}
DEEP = "[" * 200_000


@dataclass(frozen=True)
class Left:
    """Runs whose containers have ended and are gone, and which nobody has collected: an odd one, and a whole one."""

    project: Project
    make: Callable[[str], Run]

    @property
    def odd(self) -> Run:
        return Run(self.project.path / "runs" / ODD)

    def rows(self) -> dict[str, str]:
        """What is listed of each run, with single spaces. The whole one is, whatever became of the others."""
        done = self.project.launch("runs")
        assert (done.code, done.stderr) == (0, ""), done
        rows = rows_of(done)
        assert rows[WHOLE] == "done 0 3 2.5 sft/automodel docker"
        return rows

    @property
    def row(self) -> str:
        return self.rows()[ODD]

    def on(self, verb: str, run_id: str = ODD) -> Done:
        return self.project.launch(verb, run_id)

    @property
    def outcome(self) -> dict[str, Any]:
        return dict(json.loads(self.odd.record_file.read_text())["outcome"])


def write(run: Run, name: str, content: object) -> None:
    """A text, a value as JSON, or what makes something else of the path."""
    path = run.path / "container" / name
    path.unlink(missing_ok=True)
    if callable(content):
        content(path)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def left(project: Project, engine: Engine, spec_of: SpecOf) -> Left:
    assert project.env["DOCKER_HOST"] == engine.address
    plan = make_plan(spec_of(), seen_of(), {})

    def make(run_id: str) -> Run:
        run = left_by(project, plan, run_id)
        run.log.write_text("step 1/3\n")
        write(run, "0/status.json", STATUS)
        write(run, "result.json", RESULT)
        return run

    make(ODD)
    make(WHOLE)
    return Left(project, make)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_loss_that_is_no_number_is_named(left: Left, number: str) -> None:
    write(left.odd, "result.json", json.dumps(RESULT | {"last_loss": float(number)}))
    assert left.row == f"done 0 3 {number} sft/automodel docker"
    shown = left.on("show")
    assert (shown.code, f"loss       7.664 -> {number} in 3 steps\n" in shown.stdout) == (0, True)
    assert left.on("logs").stdout == "step 1/3\n"
    assert left.on("cancel").code == 0
    assert left.outcome["result"] == RESULT | {"last_loss": None, "not_finite": {"last_loss": number}}


def test_a_loss_that_the_step_has_named_already(left: Left) -> None:
    write(left.odd, "result.json", RESULT | {"last_loss": None, "not_finite": {"last_loss": "NaN"}})
    assert left.row == "done 0 3 NaN sft/automodel docker"


def test_half_a_character_in_a_reason(left: Left) -> None:
    write(left.odd, "0/status.json", r'{"exit_code": 3, "cause": "step", "reason": "no \ud800"}')
    assert left.row == "failed 3 3 2.5 sft/automodel docker"
    assert "exit 3 (step: the step failed: no \ufffd)\n" in left.on("show").stdout


ESCAPES = "a\x1b[2Jb\x9bc\x00d\re\u202ef\nrun gone"


def test_what_would_steer_the_terminal_is_shown(left: Left) -> None:
    write(left.odd, "0/status.json", STATUS | {"exit_code": 3, "reason": ESCAPES})
    left.rows()
    for done in (left.on("show"), left.on("cancel")):
        text = done.stdout + done.stderr
        assert r"(step: the step failed: a\x1b[2Jb\x9bc\x00d\re\u202ef\nrun gone)" in text
        assert all(line.isprintable() for line in text.splitlines())
    assert left.outcome["reason"] == f"the step failed: {ESCAPES}", "the record has it as it was"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text('{"exit_code": 0, "reason": "the treasure"}')
    return tmp_path / "secret"


def big(path: Path) -> None:
    with path.open("w") as f:
        os.truncate(f.fileno(), 100 * 2**20)


LINK: Callable[[Path], None] = lambda path: path.symlink_to(path.parents[4 + (path.parent.name == "0")] / "secret")  # noqa: E731
ZERO: Callable[[Path], None] = lambda path: path.symlink_to("/dev/zero")  # noqa: E731
ANY = [
    (LINK, "is a link"), (ZERO, "is a link"), (os.mkfifo, "is no regular file"), (Path.mkdir, "is no regular file"),
    (big, "is longer than"),
]  # fmt: skip
JSON = [*ANY, (DEEP, "is nested too deep"), ('{"exit', "is no JSON"), ("[]", "is no JSON object"), ("", "is no JSON")]


CASES: list[tuple[str, object, str]] = [
    *[("result.json", *case) for case in JSON],
    ("result.json", RESULT | {"last_loss": "low"}, "Expected `float | null`, got `str` - at `$.last_loss`"),
    ("result.json", RESULT | {"checkpoint": 5}, "Expected `str | null`, got `int` - at `$.checkpoint`"),
    ("result.json", RESULT | {"not_finite": 5}, "Expected `object`, got `int` - at `$.not_finite`"),
    *[("0/versions.json", *case) for case in JSON],
    *[("config.yaml", *case) for case in ANY],
    *[("failed", *case) for case in ANY],
    ("failed", "3 ../../../.. n1", "names no rank"),
    ("failed", "3 one n1", "names no rank"),
    ("failed", "3 \u0663 n1", "names no rank"),
    ("failed", "3", "names no rank"),
]
STATUSES: list[tuple[str, object, str]] = [
    *[("0/status.json", *case) for case in JSON],
    ("0/status.json", STATUS | {"exit_code": "0"}, "Expected `int`, got `str` - at `$.exit_code`"),
    ("0/status.json", STATUS | {"exit_code": 2**70}, "at `$.exit_code`"),
    ("0/status.json", STATUS | {"exit_code": -1}, "Expected `int` >= 0 - at `$.exit_code`"),
    ("0/status.json", STATUS | {"reason": 5}, "Expected `str`, got `int` - at `$.reason`"),
    ("0/status.json", STATUS | {"started": None}, "Expected `str`, got `null` - at `$.started`"),
    ("0/status.json", {}, "missing required field `exit_code`"),
    ("0/status.json", '{"exit_code": NaN}', "Expected `int`, got `null` - at `$.exit_code`"),
]


@pytest.mark.usefixtures("secret")
def test_a_report_that_cannot_be_read_is_named_and_hides_nothing(left: Left) -> None:
    """Every run is collected with all that can be read of it."""
    runs = {f"20260101T000000Z-sft.automodel-{n:06}": case for n, case in enumerate([*CASES, *STATUSES])}
    for run_id, (name, content, _) in runs.items():
        write(left.make(run_id), name, content)
    rows = left.rows()
    for run_id, (name, _, why) in runs.items():
        begin, _, said = rows[run_id].partition(" damaged: ")
        assert said.startswith(f"container/{name}: ") and why in said
        of = "sft/automodel docker"
        told = {"result.json": f"done 0 {of}", "0/status.json": f"lost 70 3 2.5 {of}"}
        assert begin == told.get(name, f"done 0 3 2.5 {of}")
        assert "treasure" not in Run(left.odd.path.parent / run_id).record_file.read_text()
    assert left.rows() == rows, "and stays as it is"
    # One of each kind is enough of these.
    for run_id, (name, _, why) in {case[2]: (run_id, case) for run_id, case in runs.items()}.values():
        shown = left.on("show", run_id)
        assert (shown.code, why in shown.stderr, f"\ndamaged    container/{name}: " in shown.stdout) == (65, True, True)
    assert left.on("logs", run_id).stdout == "step 1/3\n"
    assert left.on("cancel", run_id).code == 0


def test_the_node_that_failed_first_tells_the_end(left: Left) -> None:
    write(left.odd, "failed", "3 1 n2\n")
    (left.odd.path / "container" / "1").mkdir()
    write(left.odd, "1/status.json", STATUS | {"exit_code": 3, "reason": "the second"})
    assert left.row.startswith("failed 3 ")
    assert "(step: the step failed: the second)" in left.on("show").stdout


@pytest.mark.parametrize("path", ["/outputs/x", "/output/../etc", "/etc", "relative", ""])
def test_a_checkpoint_is_below_the_output_or_none(left: Left, path: str) -> None:
    write(left.odd, "result.json", RESULT | {"checkpoint": path})
    left.rows()
    assert left.outcome["checkpoint"] == ""


def test_times_that_are_none_are_no_time(left: Left) -> None:
    write(left.odd, "0/status.json", STATUS | {"started": "2026-01-01T00:00:00", "finished": "2026-01-01T00:00:00Z"})
    left.rows()
    assert (left.on("show").code, "time  " in left.on("show").stdout) == (0, False)

"""launcher/records/metrics.py and launcher/catalog/log_lines.py: what a log tells of training steps, while it grows."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from helpers import HERE, REPO, STEP_FILE, Project, SpecOf, engine_of, left_by, rows_of, script, seen_of
from test_engine_enroot import PROFILE, own

from launcher.catalog import definitions, releases
from launcher.core.plan import Metrics, Plan
from launcher.planning.planner import make_plan
from launcher.records import metrics
from launcher.records.metrics import Follower, Reader
from launcher.records.run_directory import Run
from slipway.project import Root

CASES: list[dict[str, Any]] = yaml.safe_load((HERE / "data" / "metrics.yaml").read_text())
EMPTY = dict.fromkeys(metrics.Measured.__struct_fields__) | {"not_finite": {}}
LINE = (
    "x | step {0}/120 | epoch 0 | loss {1} | grad_norm 1.0 | lr 1.00e-05 | mem 0.50 GiB | tps 1234.56(1.0/gpu)"
    " | step_s {2}\n"
)


def line(step: int, loss: str = "2.5", seconds: str = "2.000") -> str:
    return LINE.format(step, loss, seconds)


def steps() -> list[definitions.Step]:
    return definitions.all_steps(Root(REPO))


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["step"]))
def test_real_lines_of_a_library_become_numbers(case: dict[str, Any]) -> None:
    step = definitions.find_step(Root(REPO), case["step"])
    reader = Reader(Metrics(lines=step.metrics, sequence_length=4096))
    found = [msgspec.to_builtins(m) for m in reader.read(case["log"].encode())]
    assert found == [EMPTY | wanted for wanted in case["metrics"]]
    assert not step.releases or not any(r.metrics for r in step.releases), "lines of a release need a case of their own"


def test_every_step_that_trains_has_lines_and_every_line_has_a_case() -> None:
    training = {s.id: s for s in steps() if s.resume or s.id == "optimize/modelopt/distill"}
    assert {s.id for s in steps() if s.metrics} == set(training) and len(training) >= 12
    cases = [(definitions.find_step(Root(REPO), case["step"]).metrics, case["log"].encode()) for case in CASES]
    for step in training.values():
        logs = [log for lines, log in cases if lines == step.metrics]
        assert logs, f"tests/data/metrics.yaml has no log of {step.id}"
        assert all(any(wanted.expression.search(log) for log in logs) for wanted in step.metrics)


def test_a_release_may_print_other_lines(project: Project, spec_of: SpecOf) -> None:
    text = 'releases:\n  - {when: {nemo-automodel: ">=0.7"}, metrics: [{line: "at {step}: {loss}"}]}\n'
    project.edit(STEP_FILE, "releases: # all that match", text + "  # all that match")
    step = releases.at_release(definitions.find_step(project.root, "sft/automodel"), spec_of().entry)
    assert [wanted.line for wanted in step.metrics] == ["at {step}: {loss}"]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ('{line: "step {step} {lost}"}', "unknown name {lost}"),
        ('{line: "loss {loss}"}', "expected a {step}"),
        ('{line: "step {step}", keep: true}', "expected no {step}"),
        ('{line: "step {step} ("}', "is no regular expression"),
        ('{line: "step {step} {loss} {loss}"}', "is no regular expression"),
        ('{lines: "step {step}"}', "unknown key 'lines'"),
    ],
)
def test_a_line_that_is_wrong_is_refused_with_its_place(project: Project, wrong: str, why: str) -> None:
    file = project.edit(STEP_FILE, "metrics: #", f"metrics:\n  - {wrong}\nmisnamed: {{}} #")
    text = file.read_text()
    start, end = text.index("misnamed: {}"), text.index("env:\n  OMP")
    file.write_text(text[:start] + text[end:])
    done = project.launch("steps", "sft/automodel")
    assert done.code == 78 and why in done.stderr and f"{file}:" in done.stderr, done


@pytest.fixture
def plan(spec_of: SpecOf) -> Plan:
    return make_plan(spec_of(), seen_of(), {})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "run" / "logs").mkdir(parents=True)
    return Run(tmp_path / "run")


def told(run: Run) -> list[int]:
    """The steps in metrics.jsonl, every line of which has to be whole."""
    return [json.loads(text)["step"] for text in (run.path / "metrics.jsonl").read_text().splitlines()]


def test_a_log_is_read_on_where_the_last_reader_stopped(run: Run, plan: Plan) -> None:
    log = run.log
    for number in range(1, 6):
        with log.open("a") as f:
            f.write(
                f"{line(number)}noise\n{line(number + 1)[:30]}" if number == 3 else line(number)[30 * (number == 4) :]
            )
        metrics.update(run, plan)
        assert told(run) == list(range(1, number + 1)), "a line that is not whole is not read yet"
    assert {m.memory_bytes for m in metrics.everything(run)} == {2**29}
    assert (run.path / "metrics.jsonl").stat().st_mode & 0o777 == 0o600
    metrics.update(run, plan)
    assert told(run) == [1, 2, 3, 4, 5]


def test_what_a_killed_reader_added_is_read_again(run: Run, plan: Plan) -> None:
    run.log.write_text(line(1))
    metrics.update(run, plan)
    with (run.path / "metrics.jsonl").open("a") as f:
        f.write('{"step":2,"loss":1.0}\n{"step":3,"lo')
    with run.log.open("a") as f:
        f.write(line(2) + line(3))
    metrics.update(run, plan)
    assert told(run) == [1, 2, 3]
    (run.path / "metrics.place").write_text("{")
    metrics.update(run, plan)
    assert told(run) == [1, 2, 3], "without the place all is read anew"


def test_an_attempt_that_begins_anew_writes_its_log_anew(run: Run, plan: Plan) -> None:
    (run.path / "logs" / "node-0.log").write_text("".join(line(n) for n in (1, 2, 3)))
    (run.path / "logs" / "node-10.log").write_text("nothing\n")
    (run.path / "logs" / "job.log").write_text(line(9))
    metrics.update(run, plan)
    (run.path / "logs" / "node-0.log").write_text(line(3, "1.5"))
    metrics.update(run, plan)
    assert told(run) == [1, 2, 3, 3]
    assert [(m.step, m.loss) for m in metrics.everything(run)] == [(1, 2.5), (2, 2.5), (3, 1.5)]


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_a_log_that_is_followed_and_one_that_is_read_tell_the_same(run: Run, plan: Plan, size: int) -> None:
    text = "".join(f"noise {n}\n{line(n)}" for n in range(1, 20)).encode() + line(20).encode()[:-1]
    follow = Follower(run, plan)
    for at in range(0, len(text), size):
        follow(text[at : at + size])
    assert told(run) == list(range(1, 20))
    run.log.write_bytes(text + b"\n")
    metrics.update(run, plan)
    assert told(run) == list(range(1, 21))


def test_another_reader_of_the_same_log_adds_nothing_twice(run: Run, plan: Plan) -> None:
    """Somebody looks at a run while its launcher follows it: at once, and in between."""
    text = [line(n).encode() for n in range(1, 5)]
    follow = Follower(run, plan)
    follow(text[0])
    metrics.update(run, plan, iter([b"".join(text[:2])]))
    follow(text[1])
    assert told(run) == [1, 2]
    with run.lock(name=metrics.LOCK) as mine:
        assert mine
        follow(text[2])
        metrics.update(run, plan, iter([b"".join(text[:3])]))
        assert told(run) == [1, 2]
    follow(text[3])
    assert told(run) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "odd",
    [b"\xff\xfe" * 50, b"x" * (3 * 2**20), b"step 99999999999999/1 | epoch 0 | loss 1 | grad_norm 1 | lr 1", b"\0\r"],
    ids=["bytes", "long", "large", "control"],
)
def test_odd_lines_hide_no_others(run: Run, plan: Plan, odd: bytes) -> None:
    run.log.write_bytes(line(1).encode() + odd + b"\n" + line(2).encode())
    metrics.update(run, plan)
    assert told(run) == [1, 2]


def test_a_line_that_was_made_to_be_slow_is_left_out() -> None:
    lines = definitions.find_step(Root(REPO), "sft/megatron_bridge").metrics
    slow = (
        b"[2026-01-01 00:00:00] iteration 1/ 2 |" + b" elapsed time per iteration (ms): 1 | learning rate: 1 |" * 10_000
    )
    good = next(c["log"] for c in CASES if c["step"] == "sft/megatron_bridge").encode()
    found = list(Reader(Metrics(lines=lines)).read(slow + b"\n" + good + slow[:4096] + b"\n"))
    assert [m.step for m in found] == [10, 20, 30]


def make_link(path: Path) -> None:
    path.parent.joinpath("kept").write_text("kept")
    path.symlink_to("kept")


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.place", "metrics.lock", "logs/step.log"])
@pytest.mark.parametrize("make", [make_link, Path.mkdir], ids=["link", "folder"])
def test_what_is_no_file_is_neither_read_nor_written(
    run: Run, plan: Plan, name: str, make: Callable[[Path], None]
) -> None:
    run.log.write_text(line(1))
    (run.path / name).unlink(missing_ok=True)
    make(run.path / name)
    metrics.update(run, plan)
    assert not list(run.path.rglob("kept")) or next(run.path.rglob("kept")).read_text() == "kept"


@pytest.mark.parametrize("text", ["", '{"step": 2, "lo', "[]\n", '{"step": "two"}\n', '{"loss": 1.0}\n', "\xff\n"])
def test_lines_of_another_release_and_torn_ones_are_left_out(run: Run, text: str) -> None:
    own = '{"step":1,"steps":4,"loss":2.5,"step_s":3.0,"added_later":[1]}\n'
    (run.path / "metrics.jsonl").write_text(own + text)
    assert (
        [(m.step, m.loss) for m in metrics.last(run, 5)]
        == [(1, 2.5)]
        == [(m.step, m.loss) for m in metrics.everything(run)]
    )
    assert metrics.seconds_left(metrics.last(run, 5)) == 9.0


def test_no_more_is_kept_than_can_be_read(run: Run, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RECORD_LIMIT", 1000)
    run.log.write_text("".join(line(n) for n in range(1, 20)))
    metrics.update(run, plan)
    assert not (run.path / "metrics.jsonl").read_text()
    with run.log.open("a") as f:
        f.write(line(20))
    metrics.update(run, plan)
    assert told(run) == [20]


@pytest.fixture
def running(project: Project, spec_of: SpecOf) -> Run:
    """A run on enroot whose process lives, and that nobody looks after."""
    plan = make_plan(spec_of(profile=PROFILE), seen_of(engine=engine_of(kind="enroot")), {})
    made = left_by(project, plan)
    (made.path / "process").write_text(json.dumps(own()))
    return made


def end(run: Run, code: int) -> None:
    (run.path / "ended").write_text(json.dumps({"exit": code, "finished": "2026-01-01T00:10:00Z"}))


def test_a_run_that_goes_on_says_how_far_it_is(project: Project, running: Run) -> None:
    run = running
    assert "progress" not in project.launch("show", run.id).stdout
    assert rows_of(project.launch("runs"))[run.id] == "running sft/automodel enroot"
    run.log.write_text("".join(line(n) for n in range(1, 94)) + line(94)[:40])
    said = "progress   step 93 of 120, loss 2.5, 1,235 tokens/s, 54 s left\n"
    assert said in project.launch("show", run.id).stdout
    assert rows_of(project.launch("runs"))[run.id] == "running 93/120 (54 s) 2.5 sft/automodel enroot"
    (facts,) = map(json.loads, project.launch("runs", "--json").stdout.splitlines())
    assert {k: facts[k] for k in ("steps_done", "steps", "loss", "tokens_per_s", "seconds_left", "exit_code")} == {
        "steps_done": 93, "steps": 120, "loss": 2.5, "tokens_per_s": 1234.56, "seconds_left": 54.0, "exit_code": None,
    }  # fmt: skip
    run.log.write_text(run.log.read_text()[:-40] + line(94, "nan"))
    assert "progress   step 94 of 120, loss NaN, " in project.launch("show", run.id).stdout
    end(run, 0)
    with run.log.open("a") as f:
        f.write(line(95))
    assert rows_of(project.launch("runs", "-w"))[run.id] == "done 0 95/120 2.5 sft/automodel enroot"
    assert told(run) == list(range(1, 96)) and "progress" not in project.launch("show", run.id).stdout


def test_what_is_watched_is_listed_until_it_ends(project: Project, running: Run) -> None:
    words = [script("launch"), "runs", "-w"]
    with subprocess.Popen(words, cwd=project.path, stdout=subprocess.PIPE, env=project.env, text=True) as watch:
        assert watch.stdout is not None
        assert [watch.stdout.readline().split()[1] for _ in range(2)] == ["STATE", "running"]
        end(running, 0)
        rest = watch.stdout.read().splitlines()
    assert (watch.returncode, rest[-1].split()[1:3]) == (0, ["done", "0"])

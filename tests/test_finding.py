"""launcher/cli/finding.py and launcher/runs/listing.py: runs with names and tags, and how they are found again."""

from __future__ import annotations

import datetime
import json
import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from helpers import (
    Inputs,
    Project,
    SpecOf,
    engine_of,
    left_by,
    listed,
    record_image,
    record_of,
    rows_of,
    script,
    seen_of,
    squash,
    tree,
)
from test_engine_enroot import PROFILE as ENROOT
from test_engine_enroot import own

from images.locking import lock as locks
from launcher import cli
from launcher.core.plan import RUN_DIR, Plan, Variable
from launcher.planning.planner import make_plan
from launcher.records import outputs, run_index
from launcher.records.run_directory import STAMP, Outcome, Run
from launcher.runs import listing
from slipway.errors import SlipwayError

SITE = "schema: 1\nkind: slurm\nflavour: cpu\nshared: [{0}]\nhf_home: {0}/hf\nsquash: {0}/squash\nruns: {0}/runs\n"
JOB = "JobId=7 JobState=RUNNING Reason=None ExitCode=0:0 StartTime=2026-01-01T00:00:00 EndTime=Unknown"


@pytest.fixture
def site(project: Project, inputs: Inputs, tmp_path: Path) -> Callable[..., Any]:
    """Launches on a cluster that takes every job and runs none; the job's id is always 7."""
    entry = locks.select(locks.load_lock(project.root), "automodel", "cpu")
    squash(tmp_path / "squash", record_image(project.root, entry))
    project.write("slipway.d/profiles/site.yaml", SITE.format(tmp_path))
    project.program("sbatch", "echo 7")
    project.program("scontrol", f"echo '{JOB}'")
    project.env["SLIPWAY_PROFILE"] = "site"

    def launch(*words: str) -> Any:
        return project.launch("sft/automodel", *inputs.words, *words)

    return launch


def test_a_run_is_called_by_its_name(project: Project, site: Callable[..., Any], tmp_path: Path) -> None:
    done = site("--name", "first-try", "--tag", "team=sea", "--tag", "keep")
    assert done.code == 0, done
    run = Run(tmp_path / "runs" / done.stdout.strip())
    record = json.loads(run.record_file.read_text())
    assert (record["name"], record["tags"]) == ("first-try", {"team": "sea", "keep": ""})
    other = site().stdout.strip()
    assert record["plan_hash"] == json.loads((tmp_path / "runs" / other / "record.json").read_text())["plan_hash"]
    shown = project.launch("show", "first-try").stdout
    assert f"run        {run.id}\nname       first-try keep team=sea\nstate      running\n" in shown
    assert "name  " not in project.launch("show", other).stdout
    assert rows_of(project.launch("runs"))[run.id] == "running sft/automodel site first-try"
    assert (run.path / "name").stat().st_mode & 0o777 == 0o600
    again = site("--name", "first-try").stdout.strip()
    refused = project.launch("show", "first-try")
    assert refused.code == 64 and f"'first-try' fits 2 runs: {run.id}, {again}" in refused.stderr
    assert project.launch("show", run.id).code == 0
    for words in (["--name", "first-try", "--name", "x"], ["--name", "f*-try"]):
        assert list(rows_of(project.launch("runs", *words))) == [run.id, again]
    for tag, found in (("team=sea", [run.id]), ("keep", [run.id]), ("team", [run.id]), ("team=air", []), ("x", [])):
        assert list(rows_of(project.launch("runs", "--tag", tag))) == found
    (facts,) = map(json.loads, project.launch("runs", "--json", "--tag", "keep").stdout.splitlines())
    assert (facts["name"], facts["tags"], facts["profile"]) == ("first-try", {"team": "sea", "keep": ""}, "site")


def test_a_directory_gets_its_name_when_it_is_submitted(
    project: Project, site: Callable[..., Any], tmp_path: Path
) -> None:
    refused = site("-o", str(tmp_path / "dir"), "--name", "x")
    assert refused.code == 64 and "launch submit --name" in refused.stderr and not (tmp_path / "dir").exists()
    assert site("-o", str(tmp_path / "dir")).code == 0
    done = project.launch("submit", str(tmp_path / "dir"), "--name", "x", "--tag", "a=b")
    assert done.code == 0 and project.launch("show", "x").stdout.startswith(
        f"run        {done.stdout}name       x a=b\n"
    )


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--name", "last"], "error: --name: 'last' is the newest run"),
        (["--name", "20260101"], "error: --name: '20260101' is no name"),
        (["--name", "a/b"], "error: --name: 'a/b' is no name"),
        (["--name", "a" * 65], "is no name\n  begin with a letter; up to 64 letters"),
        (["--tag", "=b"], "error: --tag: '' is no tag"),
        (["--tag", "a=\x1b[2J"], r"error: --tag: '\x1b[2J' is no value"),
        (["--tag", f"a={'b' * 201}"], "is no value: expected at most 200 characters"),
    ],
)
def test_what_is_no_name_and_no_tag_is_refused(
    project: Project, site: Callable[..., Any], tmp_path: Path, words: list[str], what: str
) -> None:
    done = site(*words)
    assert (done.code, done.stdout) == (64, "") and what in done.stderr, done
    assert not (tmp_path / "runs").exists() and project.launch("runs").stdout == ""


@pytest.mark.parametrize("name", ["/dev/zero", "../../kept"])
def test_a_name_that_is_no_file_names_nothing(project: Project, spec_of: SpecOf, name: str) -> None:
    run = left_by(project, make_plan(spec_of(), seen_of(), {}))
    (run.path / "name").symlink_to(name)
    assert project.launch("show", "kept").code == 66


@pytest.fixture
def many(project: Project, spec_of: SpecOf) -> list[Run]:
    """As many as are kept in an index, a day apart, that have ended; the last one yesterday."""
    plan = make_plan(spec_of(), seen_of(), {})
    now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    days = range(run_index.MANY, 0, -1)
    return [ended(project, plan, (now - datetime.timedelta(days=n)).strftime(STAMP), exit_code=n % 2) for n in days]


def ended(project: Project, plan: Plan, stamp: str, exit_code: int = 0, **changes: Any) -> Run:
    run = Run(project.path / "runs" / f"{stamp}-sft.automodel-aaaaaa")
    run.path.mkdir(parents=True)
    submitted = datetime.datetime.strptime(stamp, STAMP).strftime("%Y-%m-%dT%H:%M:%SZ")
    outcome = Outcome(exit_code=exit_code, cause="step", reason="x")
    run.write(record_of(run, plan, "unix:///gone", state="ended", outcome=outcome, submitted=submitted, **changes))
    run.call(changes.get("name", ""))
    (run.path / "lock").touch()
    run.event("ended")
    return run


@pytest.mark.parametrize(
    ("since", "count"), [("36h", 1), ("5d", 4), ("1w", 6), ("2000-01-01", run_index.MANY), ("9m", 0)]
)
def test_runs_since(project: Project, many: list[Run], since: str, count: int) -> None:
    assert list(rows_of(project.launch("runs", "--since", since))) == [run.id for run in many[len(many) - count :]]


def test_a_time_may_have_a_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    assert listing.begin_of("2026-01-02") == "20260102T000000Z"
    assert listing.begin_of("2026-01-02T01:30+02:00") == "20260101T233000Z"
    for odd in ("yesterday", "3", "3x", "-3d", "99999999d", "2026-13-01"):
        with pytest.raises(SlipwayError, match="is no time") as e:
            listing.begin_of(odd)
        assert e.value.code == 64


def test_the_index_says_what_the_records_say(project: Project, many: list[Run]) -> None:
    """A run that has ended is read once, and again when its record is another file."""
    first = project.launch("runs", "--json")
    (index,) = Path(project.env["HOME"], ".cache", "slipway", "runs").iterdir()
    assert index.stat().st_mode & 0o777 == 0o600 and index.parent.stat().st_mode & 0o777 == 0o700
    for run in many[1:]:
        (run.path / "events.jsonl").unlink()  # which nobody looks at any more
    assert without_age(project.launch("runs", "--json").stdout) == without_age(first.stdout)
    many[0].record_file.write_text(many[0].record_file.read_text().replace('"exit_code": 0', '"exit_code": 5'))
    many[1].record_file.unlink()
    many[2].path.rename(project.path / "kept")
    rows = rows_of(project.launch("runs"))
    assert len(rows) == len(many) - 1 and many[2].id not in rows
    assert (rows[many[0].id].split()[:2], rows[many[1].id]) == (["done", "5"], "never submitted")


@pytest.mark.parametrize("odd", ["{", '{"schema": 9, "rows": {}}', '{"schema": 1, "rows": {"a": 5}}'])
def test_an_index_that_cannot_be_read_is_made_anew(project: Project, many: list[Run], odd: str) -> None:
    first = project.launch("runs", "--json")
    (index,) = Path(project.env["HOME"], ".cache", "slipway", "runs").iterdir()
    whole = index.read_text()
    index.write_text(odd)
    assert without_age(project.launch("runs", "--json").stdout) == without_age(first.stdout)
    assert index.read_text() == whole and many


def test_an_index_of_somebody_else_is_not_read(project: Project, many: list[Run]) -> None:
    place = Path(project.env["HOME"], ".cache", "slipway")
    (place / "elsewhere").mkdir(parents=True)
    (place / "runs").symlink_to(place / "elsewhere")
    assert len(rows_of(project.launch("runs"))) == len(many) and not list((place / "elsewhere").iterdir())


def without_age(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) | {"age": 0} for line in text.splitlines()]


@pytest.mark.parametrize("columns", [200, 80, 60, 20])
def test_the_table_fits_the_terminal(project: Project, spec_of: SpecOf, columns: int) -> None:
    plan = make_plan(spec_of(), seen_of(), {})
    run = ended(project, plan, "20260101T000000Z", name="a-name-of-which-nobody-knows-why-it-is-so-long")
    there, here = pty.openpty()
    env = project.env | {"COLUMNS": str(columns)}
    with subprocess.Popen([script("launch"), "runs"], cwd=project.path, stdout=here, env=env) as program:
        os.close(here)
        text = b""
        try:
            while piece := os.read(there, 65536):
                text += piece
        except OSError:  # the program has left the terminal
            pass
        os.close(there)
    lines = text.decode().splitlines()
    assert (program.returncode, len(lines)) == (0, 2) and max(map(len, lines)) <= columns
    assert lines[1].startswith(run.id[: columns - 1])
    assert ("a-name" in lines[1], "PROFILE" in lines[0], "STATE" in lines[0]) == (
        columns == 200,
        columns == 200,
        columns > 20,
    )
    assert listed(project.launch("runs"))[0].endswith(f"docker   {'a-name-of-which-nobody-knows-why-it-is-so-long'}")


@pytest.fixture
def pair(project: Project, spec_of: SpecOf) -> tuple[Run, Run]:
    """Two runs that have ended, of one plan but for a setting, an input, a variable and the image."""
    plan = make_plan(spec_of(), seen_of(), {"entrypoint.sh": "1" * 64})
    train = msgspec.structs.replace(plan.inputs["train"], fingerprint="c" * 64, path="/data/more.jsonl")
    config = json.loads(json.dumps(plan.config))
    config["set"] = [["optimizer.lr", 0.001] if key == "seed" else [key, value] for key, value in config["set"]]
    config["layers"][0]["values"] = {"seed": 43}
    other = msgspec.structs.replace(
        plan, image=f"sha256:{'7' * 64}", config=config, inputs=plan.inputs | {"train": train},
        env=plan.env | {"NCCL_DEBUG": Variable(value="INFO", by="command line")},
    )  # fmt: skip
    argv = ["sft/automodel", "train=/data/chats.jsonl", "-c", "tiny"]
    first = ended(project, plan, "20260101T000000Z", argv=argv, name="base")
    return first, ended(project, other, "20260102T000000Z", argv=[*argv[:1], "train=/data/more.jsonl", *argv[2:]])


def test_runs_are_compared_by_their_records(project: Project, pair: tuple[Run, Run]) -> None:
    """The image is not there, nor data nor engine."""
    for run, loss in zip(pair, (4.0, 8.0), strict=True):
        lines = [
            {"step": n, "steps": 50, "loss": loss / n, "tokens_per_s": 100.0 * loss, "step_s": 0.5}
            for n in range(1, 41)
        ]
        (run.path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"step": 41')
    done = project.launch("compare", "base", pair[1].id)
    assert (done.code, done.stderr) == (1, "")
    assert (
        done.stdout
        == f"""\
A  {pair[0].id} (base)  done
B  {pair[1].id}         done
arguments:
  train  /data/chats.jsonl  /data/more.jsonl
configuration:
  seed  42  43
image:
  id  111111111111  777777777777
inputs:
  train: fingerprint  aaaaaaaaaaaa       cccccccccccc
  train: path         /data/chats.jsonl  /data/more.jsonl
environment:
  NCCL_DEBUG  -  INFO
the same: lock, code, machine
training:
                  A       B
  steps           40      40
  first loss      4       8
  last loss       0.1     0.2
  lowest loss     0.1     0.2
  tokens/s        400     800
  seconds a step  0.5     0.5
  memory, GiB     -       -
  loss at 1       4       8
  loss at 5       0.8     1.6
  loss at 10      0.4     0.8
  loss at 14      0.2857  0.5714
  loss at 18      0.2222  0.4444
  loss at 23      0.1739  0.3478
  loss at 27      0.1481  0.2963
  loss at 31      0.129   0.2581
  loss at 36      0.1111  0.2222
  loss at 40      0.1     0.2
"""
    )
    found = json.loads(project.launch("compare", "base", pair[1].id, "--json").stdout)
    assert [(d["section"], d["key"], d["values"]) for d in found["differences"]][1] == (
        "configuration",
        "seed",
        [42, 43],
    )
    assert [run["training"]["tokens_per_s"] for run in found["runs"]] == [400.0, 800.0]
    assert found["same"] == ["lock", "code", "machine"] and found["losses"][0] == {"step": 1, "loss": ["4", "8"]}


def test_a_run_differs_from_itself_in_nothing(project: Project, pair: tuple[Run, Run]) -> None:
    done = project.launch("compare", "base", "base", pair[0].id)
    assert (
        done.code == 0 and "the same: arguments, configuration, lock, image, inputs, environment, code" in done.stdout
    )
    assert [line[:2] for line in done.stdout.splitlines()[:3]] == ["A ", "B ", "C "] and "training" not in done.stdout


def test_what_cannot_be_compared_is_refused(project: Project, pair: tuple[Run, Run]) -> None:
    assert (project.launch("compare").code, project.launch("compare", "base").code) == (2, 64)
    assert project.launch("compare", "base", "other").code == 66
    pair[1].record_file.unlink()
    done = project.launch("compare", "base", pair[1].id)
    assert (done.code, done.stdout) == (66, "") and f"{pair[1].path}: has no record" in done.stderr
    pair[1].record_file.write_text("{")
    assert project.launch("compare", "base", pair[1].id).code == 65


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, after in zip("abcdefghi", "bcdefghij", strict=True)
)
MAPS = "a: &a {x: 1, y: 1}\n" + "".join(
    f"k{n}: &k{n} {{x: *{'a' if n == 0 else f'k{n - 1}'}, y: *{'a' if n == 0 else f'k{n - 1}'}}}\n" for n in range(40)
)


@pytest.mark.parametrize("text", [BOMB, MAPS, "a: &a {b: *a}\n", "a: [", "- 1\n", "a: 2026-01-01\nb: .nan\n"])
def test_what_a_container_wrote_as_its_configuration_is_bounded(
    project: Project, pair: tuple[Run, Run], text: str
) -> None:
    for run, more in zip(pair, ("", "# other\n"), strict=True):
        record = run.record()
        assert record is not None
        run.write(msgspec.structs.replace(record, config=text + more))
    done = project.launch("compare", "base", pair[1].id, "--json")
    assert done.code == 1 and json.loads(done.stdout)["schema"] == 1


def test_a_configuration_that_both_containers_wrote_counts(project: Project, pair: tuple[Run, Run]) -> None:
    for run, path, rate in zip(pair, ("aaaaaaaa", "cccccccc"), ("1.0e-3", "2.0e-3"), strict=True):
        record = run.record()
        assert record is not None
        text = f"optimizer: {{lr: {rate}, betas: [0.9, 0.95]}}\ndataset: {{path: /inputs/train-{path}/chats.jsonl}}\n"
        run.write(msgspec.structs.replace(record, config=text))
    found = json.loads(project.launch("compare", "base", pair[1].id, "--json").stdout)["differences"]
    assert [(d["key"], d["values"]) for d in found if d["section"] == "configuration"] == [
        ("optimizer.lr", [0.001, 0.002])
    ]


def test_ended_runs_are_removed(project: Project, pair: tuple[Run, Run]) -> None:
    (pair[0].path / "output").mkdir()
    dry = project.launch("rm", "base", "20260102", "--dry-run")
    assert (dry.code, dry.stderr) == (0, "") and dry.stdout.startswith(f"would remove {pair[0].id} (done, 0.0 MiB)\n")
    assert all(run.path.is_dir() for run in pair)
    done = project.launch("rm", "base", pair[0].id)
    assert (done.code, done.stdout) == (0, dry.stdout.splitlines(keepends=True)[0].replace("would remove", "removed"))
    assert sorted(p.name for p in (project.path / "runs").iterdir()) == [pair[1].id]
    assert project.launch("show", "base").code == 66


def test_a_run_that_goes_on_is_not_removed(project: Project, spec_of: SpecOf, pair: tuple[Run, Run]) -> None:
    plan = make_plan(spec_of(profile=ENROOT), seen_of(engine=engine_of(kind="enroot")), {})
    run = left_by(project, plan, "20260103T000000Z-sft.automodel-aaaaaa")
    (run.path / "process").write_text(json.dumps(own()))
    before = tree(project.path)
    done = project.launch("rm", pair[0].id, run.id)
    assert (done.code, done.stdout) == (75, "")
    assert done.stderr == f"error: {run.id}: has not ended: running\n  end it first: launch cancel {run.id}\n"
    assert project.launch("prune", "--older", "1d", "--state", "running").stdout == ""
    with pair[0].lock() as mine:
        held = project.launch("rm", pair[0].id)
    assert mine and held.code == 75 and "another command looks after it" in held.stderr
    after = {name: what for name, what in tree(project.path).items() if ".removing" not in name}
    assert after.keys() >= before.keys(), "a run that goes on may have got its metrics.jsonl"


def test_outputs_stay_unless_they_are_named(project: Project, spec_of: SpecOf, tmp_path: Path) -> None:
    plan = make_plan(spec_of(), seen_of(), {})
    within = ended(project, msgspec.structs.replace(plan, output=f"{RUN_DIR}/output"), "20260101T000000Z")
    (within.path / "output").mkdir()
    (within.path / "output" / "weights").write_text("w")
    signed = msgspec.structs.replace(plan, output=str(tmp_path / "signed"))
    unsigned = msgspec.structs.replace(plan, output=str(tmp_path / "unsigned"))
    runs = [ended(project, signed, "20260102T000000Z"), ended(project, unsigned, "20260103T000000Z")]
    for run, folder in zip((runs[0], within), (tmp_path / "signed", tmp_path / "unsigned"), strict=True):
        folder.mkdir()
        (folder / "weights").write_text("w")
        outputs.sign(folder, outputs.of_plan(signed, run))
    refused = project.launch("rm", within.id, runs[0].id)
    assert refused.code == 73 and f"error: {within.id}: its output is in its directory (0.0 MiB)\n" in refused.stderr
    assert all(run.path.is_dir() for run in (within, *runs)), "nothing half-done"
    pruned = project.launch("prune", "--older", "2d", "--dry-run")
    assert f"kept: {within.id}: its output is in its directory" in pruned.stderr and runs[1].id in pruned.stdout
    done = project.launch("rm", within.id, *(run.id for run in runs), "--checkpoints")
    assert done.code == 0 and f"{runs[0].id} (done, 0.0 MiB) and {tmp_path}/signed\n" in done.stdout, done
    assert not (tmp_path / "signed").exists() and (tmp_path / "unsigned" / "weights").exists()
    assert not list((project.path / "runs").iterdir())


def test_what_others_need_stays(project: Project, spec_of: SpecOf, tmp_path: Path) -> None:
    """A run whose output is another one's input, and one that another one went on from; unless they go, too."""
    plan = make_plan(spec_of(), seen_of(), {})
    first = ended(project, msgspec.structs.replace(plan, output=f"{RUN_DIR}/output"), "20260101T000000Z")
    (tmp_path / "link").symlink_to(first.path)
    model = msgspec.structs.replace(plan.inputs["model"], path=f"{tmp_path}/link/output/model")
    shared = msgspec.structs.replace(plan, output=str(tmp_path / "out"), inputs=plan.inputs | {"model": model})
    made = ended(project, shared, "20260102T000000Z")
    resumed = ended(project, msgspec.structs.replace(shared, resume=True), "20260103T000000Z", exit_code=1)
    for run, user in ((first, made), (made, resumed)):
        done = project.launch("rm", run.id)
        assert done.code == 73 and f"{run.id}: run {user.id} has gone on from it, or is made of it" in done.stderr
    dry = project.launch("prune", "--older", "1d", "--state", "done", "--dry-run")
    assert (dry.code, dry.stdout) == (0, "") and dry.stderr.count("kept: ") == 2, "one stays, so the other does"
    assert project.launch("rm", first.id, made.id, resumed.id, "--dry-run").stdout.count("would remove") == 3
    assert project.launch("rm", resumed.id, "--dry-run").code == 0, "nobody needs the last"
    assert project.launch("rm", first.id, "--force").code == 0 and not first.path.exists() and made.path.exists()


def test_what_is_pruned(project: Project, many: list[Run]) -> None:
    assert project.launch("prune").code == 64 and project.launch("prune", "--older", "x").code == 64
    old = [run.id for run in many if run.id < listing.begin_of("30d")]
    dry = project.launch("prune", "--older", "30d", "--state", "failed", "--dry-run")
    found = [line.split()[2] for line in dry.stdout.splitlines()]
    states = rows_of(project.launch("runs"))
    assert found == [run_id for run_id in old if states[run_id].startswith("failed")] and len(found) in (35, 36)
    done = project.launch("prune", "--older", "30d", "--state", "failed")
    assert [line.split()[1] for line in done.stdout.splitlines()] == found
    assert list(rows_of(project.launch("runs"))) == [run.id for run in many if run.id not in found]


def test_what_a_killed_command_set_aside_goes_with_the_next(project: Project, pair: tuple[Run, Run]) -> None:
    aside = project.path / "runs" / f".removing-{os.geteuid()}"
    aside.mkdir()
    pair[1].path.rename(aside / pair[1].id)
    assert list(rows_of(project.launch("runs"))) == [pair[0].id]
    assert project.launch("rm", pair[0].id).code == 0 and not aside.exists()


def test_another_users_run_is_not_removed(
    project: Project, pair: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.chdir(project.path)
    done = CliRunner().invoke(cli.main, ["rm", pair[0].id], env={"SLIPWAY_RUNS": str(project.path / "runs")})
    assert (done.exit_code, "it is another user's run" in done.stderr) == (77, True) and pair[0].path.is_dir()

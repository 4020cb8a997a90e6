"""images/locking/attestation.py: `images lock --attest`, what it refuses, and what becomes of an attestation later."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import IMAGE, MATRIX_FILE, Done, Project, record_image

from images.locking import lock as locks
from images.locking.attestation import Attestation, StepTested
from slipway.files import write_atomic
from slipway.yamldoc import load as load_yaml

NAME = "automodel/0.7.0-cpu"
OK = StepTested(result="ok", run="20260101T000000Z-a-aaaaaa", seconds=2.5)
Written = Callable[..., Path]


@pytest.fixture
def written(project: Project, tmp_path: Path) -> Written:
    """Writes an attestation of the cpu entry, whose image is recorded, with changes; the file."""
    lock = locks.load_lock(project.root)
    entry = lock.entries[NAME]
    record_image(project.root, entry)
    project.own("versions.lock")
    untested = {name: msgspec.structs.replace(e, tested=[]) for name, e in lock.entries.items()}
    write_atomic(project.root.lock, locks.lock_text(locks.sealed(msgspec.structs.replace(lock, entries=untested))))

    def write(file: str = "a.json", **changes: Any) -> Path:
        facts: dict[str, Any] = {
            "schema": 1, "name": NAME, "entry": entry.checksum, "image": IMAGE, "hardware": "EPYC, 2 processors",
            "driver": "", "engine": "docker", "date": "2026-01-02T00:00:00Z", "slipway": "0.1.0", "commit": "c" * 40,
            "steps": {"sft/automodel": OK, "peft/automodel": StepTested(result="skipped", why="no room")},
        }  # fmt: skip
        (tmp_path / file).write_text(Attestation(**(facts | changes)).text)
        return tmp_path / file

    return write


def attest(project: Project, *files: Path) -> Done:
    return project.images("lock", *(word for file in files for word in ("--attest", str(file))))


def test_it_goes_into_the_lock_and_moves_no_pin(project: Project, written: Written) -> None:
    """Where no engine and no network are: the project's commands have none."""
    before = load_yaml(project.root.lock, dict)
    done = attest(project, written())
    assert (done.code, done.stdout) == (0, "")
    assert done.stderr == f"versions.lock: {NAME} is tested: 1 of 2 steps, EPYC, 2 processors\n"
    lock = locks.load_lock(project.root)  # its own checksum is right
    (tested,) = lock.entries[NAME].tested
    assert (tested.steps, tested.skipped) == (["sft/automodel"], {"peft/automodel": "no room"})
    after = load_yaml(project.root.lock, dict)
    del after["entries"][NAME]["tested"]
    assert after | {"checksum": 0} == before | {"checksum": 0}
    assert project.images("render", "--check").code == 0


def test_the_steps_say_it(project: Project, written: Written) -> None:
    assert attest(project, written()).code == 0
    rows = {row.split()[0]: row for row in project.launch("steps", "--library", "automodel").stdout.splitlines()}
    assert "  0.7.0 (cpu)  " in rows["sft/automodel"] and "  no  " in rows["peft/automodel"]
    shown = project.launch("steps", "sft/automodel").stdout
    assert f"  {NAME}: automodel_finetune.py; tested: yes (2026-01-02, EPYC, 2 processors, docker)\n" in shown
    assert "automodel/26.06-cuda: automodel_finetune.py; tested: no\n" in shown
    one, other = json.loads(project.launch("steps", "--library", "automodel", "--json").stdout)[::3]
    assert {one["id"], other["id"]} == {"convert/merge_lora_hf", "sft/automodel"}
    told = {step["id"]: step["tested"] for step in (one, other)}
    assert told["convert/merge_lora_hf"] == {} and told["sft/automodel"][NAME][0]["image"] == IMAGE


def test_the_newest_of_one_machine_counts_and_another_stands_beside(project: Project, written: Written) -> None:
    assert attest(project, written(), written("b.json", hardware="8 x H200", driver="575")).code == 0
    assert attest(project, written(date="2026-03-01T00:00:00Z")).code == 0
    tested = locks.load_lock(project.root).entries[NAME].tested
    assert [(t.date[:7], t.hardware) for t in tested] == [("2026-03", "EPYC, 2 processors"), ("2026-01", "8 x H200")]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"entry": "f" * 64}, f"is of {NAME} as entry ffffffffffff; the lock has "),
        ({"name": "automodel/0.7.1-cpu"}, "the lock has no entry 'automodel/0.7.1-cpu'\n  did you mean "),
        ({"image": "sha256:0"}, f"is of the image sha256:0, which is on no record of {NAME} that holds"),
        ({"steps": {"a/b": StepTested(result="failed", exit_code=1, why="no loss"), "c/d": OK}}, "a/b failed: no loss"),
        ({"steps": {"a/b": StepTested(result="skipped", why="no image")}}, "no step was run"),
    ],
)  # fmt: skip
def test_what_is_not_of_this_lock_is_refused(
    project: Project, written: Written, changes: dict[str, Any], said: str
) -> None:
    """And nothing of the others is taken."""
    before = project.root.lock.read_bytes()
    wrong = written("wrong.json", **changes)
    done = attest(project, written(), wrong)
    assert done.code == 65 and done.stderr.startswith(f"error: {wrong}: {said}"), done
    assert project.root.lock.read_bytes() == before


@pytest.mark.parametrize(
    "facts",
    [
        {"substitutions": {"registry/base@sha256:0": "sha256:9"}},
        {"sources": {"s": {"commit": "", "tree": "", "clean": False, "left_out": True}}},
    ],
)
def test_an_image_with_something_else_in_it_attests_nothing(
    project: Project, written: Written, facts: dict[str, Any]
) -> None:
    file = written()
    (record,) = (project.root.state / "images").glob("*/*.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | facts))
    done = attest(project, file)
    assert done.code == 65 and "which is on no record of" in done.stderr, done


def test_what_was_edited_or_is_something_else_is_refused(project: Project, written: Written, tmp_path: Path) -> None:
    edited = written()
    edited.write_text(edited.read_text().replace('"seconds": 2.5', '"seconds": 0.5'))
    assert "its contents are not those that it was written with" in attest(project, edited).stderr
    other = tmp_path / "other.json"
    for text, why in (
        ("{", "Expecting property"),
        ('{"schema": 1}', "missing required field"),
        ("[" * 10**5, "recursion"),
    ):
        other.write_text(text)
        done = attest(project, other)
        assert done.code == 65 and f"{other}: is no attestation: " in done.stderr and why in done.stderr, done
    done = attest(project, tmp_path / "nowhere.json")
    assert done.code == 66 and f"{tmp_path}/nowhere.json: cannot read" in done.stderr
    assert project.images("lock", "automodel", "--attest", str(edited)).code == 2
    assert project.images("lock", "--check", "--attest", str(edited)).code == 2


def test_an_entry_that_changes_is_not_tested_any_more(harbour: Project, tmp_path: Path) -> None:
    """By `images lock`, which says so; what changes no image leaves it."""
    entry = locks.load_lock(harbour.root).entries["boats/1.0-cpu"]
    record_image(harbour.root, entry)
    found = Attestation(
        schema=1, name=entry.name, entry=entry.checksum, image=IMAGE, hardware="a", driver="", engine="docker",
        date="2026-01-02T00:00:00Z", slipway="0.1.0", commit="", steps={"sail/boats": OK},
    )  # fmt: skip
    (tmp_path / "boats.json").write_text(found.text)
    assert attest(harbour, tmp_path / "boats.json").code == 0
    harbour.edit(MATRIX_FILE, "title: Boats", "title: Ships")
    done = harbour.images("lock")
    assert done.code == 0 and "not tested" not in done.stderr
    assert locks.load_lock(harbour.root).entries[entry.name].tested
    harbour.edit(MATRIX_FILE, "oars==13.0", "oars>=13.0")
    done = harbour.images("lock")
    assert done.code == 0, done
    said = "boats/1.0-cpu: not tested any more: its entry has changed since (it was on 2026-01-02)\n"
    assert said in done.stderr and not locks.load_lock(harbour.root).entries[entry.name].tested

"""images/lock.py: from the matrix to the lock, and what is carried over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import BOATS, DIGEST, MATRIX_FILE, REPO, Known, Project, relock

from images import lock as locks
from images import render
from images.model import Identity, Matrix
from slipway import canonical, yamldoc
from slipway.errors import Exit, SlipwayError
from slipway.files import write_atomic
from slipway.project import Root

NEW_ROW = """
      0.8.0:
        base: {bootstrap: debian-12}
        python: "3.11"
        groups:
          all: {packages: [boats==0.8.0], python: "3.11", platform: linux}
        environments:
          main: {python: /opt/venv/bin/python, groups: [all]}
"""


def test_the_committed_lock_is_what_its_matrix_gives() -> None:
    root = Root(REPO)
    text = root.lock.read_text()
    lock = locks.load_lock(root)
    assert text == locks.lock_text(lock)
    new, files = locks.build_lock(root, locks.load_matrix(root), lock, Known())
    assert (locks.lock_text(new), files) == (text, {})


def test_the_lock_says_how_it_was_made_and_is_sorted() -> None:
    text = (REPO / "versions.lock").read_text()
    assert text.startswith("# Made by `images lock` from images/matrix.yaml; do not edit.\n")
    assert list(yamldoc.parse(text, "")["entries"]) == sorted(yamldoc.parse(text, "")["entries"])


def test_a_new_row_changes_no_other_entry_and_none_of_its_files(boats: Project) -> None:
    root = boats.root
    before = locks.load_lock(root)
    files = {n: render.files_of(root, before, e) for n, e in before.entries.items()}
    boats.edit(MATRIX_FILE, "\n    cuda:\n", f"{NEW_ROW}    cuda:\n")
    resolver = Known()
    after = relock(root, resolver)
    assert set(after.entries) - set(before.entries) == {"boats/0.8.0-cpu"}
    assert "pins all" in resolver.asked and len([a for a in resolver.asked if a.startswith("pins")]) == 1
    for name, entry in before.entries.items():
        assert after.entries[name].checksum == entry.checksum
        assert render.files_of(root, after, after.entries[name]) == files[name]
    assert after.matrix != before.matrix


def test_a_lock_of_another_matrix_is_refused_and_comments_do_not_count(boats: Project) -> None:
    boats.edit(MATRIX_FILE, "schema: 1", "# a comment\nschema:   1")
    assert locks.load_lock(boats.root)
    boats.edit(MATRIX_FILE, "suite: bookworm", "suite: trixie")
    with pytest.raises(SlipwayError, match="made from another matrix") as e:
        locks.load_lock(boats.root)
    assert (e.value.code, e.value.where, e.value.remedy) == (Exit.DATA, str(boats.root.lock), "run: images lock")


def test_new_wishes_are_resolved_and_the_files_are_hashed(boats: Project) -> None:
    boats.edit(MATRIX_FILE, "oars==13.0", "oars==14.0")
    resolver = Known()
    entry = relock(boats.root, resolver).entries["boats/1.0-cpu"]
    assert resolver.asked[0] == "pins torch boats"
    for name, group in entry.groups.items():
        text = (boats.path / group.file).read_bytes()
        assert group.file == f"images/boats/1.0-cpu/requirements-{name}.txt"
        assert group.sha256 == canonical.sha256(text)
    assert entry.environments["main"].packages == {"torch": "1.0", "boats": "1.0", "oars": "1.0"}


def test_a_changed_requirements_file_is_resolved_again(boats: Project) -> None:
    (boats.path / "images/boats/1.0-cpu/requirements-torch.txt").write_text("torch==0\n")
    resolver = Known()
    relock(boats.root, resolver)
    assert resolver.asked[0] == "pins torch boats"


def test_open_digests_are_asked_for_and_known_ones_are_not(boats: Project) -> None:
    resolver = Known(BOATS)
    new = relock(boats.root, resolver)
    assert resolver.asked == ["base registry.example/org/boats:26.06"]
    assert new.entries["boats/26.06-cuda"].base.digest == DIGEST
    again = Known()
    assert relock(boats.root, again) == new
    assert again.asked == [], "a digest that is in the lock stays"


def test_what_does_not_answer_stays_unresolved(boats: Project) -> None:
    assert relock(boats.root, Known()).entries["boats/26.06-cuda"].base.digest is None


def test_another_tag_does_not_keep_the_old_digest(boats: Project) -> None:
    relock(boats.root, Known(BOATS))
    boats.edit(MATRIX_FILE, 'tag: "26.06"', 'tag: "26.06.01"')
    assert relock(boats.root, Known()).entries["boats/26.06-cuda"].base.digest is None


def test_only_the_named_libraries_are_asked_for(boats: Project) -> None:
    resolver = Known()
    relock(boats.root, resolver, ask=("another",))
    assert resolver.asked == []


@pytest.mark.parametrize(("before", "kept"), [("title: Boats", True), ("torch: 2.12.0", False)])
def test_recorded_images_are_kept_while_the_entry_is_the_same(boats: Project, before: str, kept: bool) -> None:
    root, name = boats.root, "boats/26.06-cuda"
    lock = locks.load_lock(root)
    recorded = msgspec.structs.replace(lock.entries[name], image=[Identity(ids=["sha256:1"])], tested=["here"])
    lock = msgspec.structs.replace(lock, entries=lock.entries | {name: recorded})
    write_atomic(root.lock, locks.lock_text(lock))
    boats.edit(MATRIX_FILE, before, before + "0")
    entry = relock(root, Known()).entries[name]
    assert bool(entry.image) == bool(entry.tested) == kept


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("boats", "cpu"), "boats/1.0-cpu"),
        (("boats", "cuda"), "boats/26.08-cuda"),
        (("boats", "cuda", "26.06"), "boats/26.06-cuda"),
    ],
)
def test_an_entry_is_chosen_by_flavour_and_release(boats: Project, words: Any, name: str) -> None:
    assert locks.select(locks.load_lock(boats.root), *words).name == name


@pytest.mark.parametrize(
    ("words", "what", "remedy"),
    [
        (("botas", "cpu"), "unknown library 'botas'", "did you mean 'boats'?"),
        (("boats", "cuda", "26.07"), "boats has no release '26.07' for flavour cuda", "did you mean '26.08'?"),
        (("boats", "cpu", "26.06"), "boats has no release '26.06' for flavour cpu", "known: 1.0"),
    ],
)
def test_an_entry_that_is_not_there_is_a_wrong_word(boats: Project, words: Any, what: str, remedy: str) -> None:
    with pytest.raises(SlipwayError) as e:
        locks.select(locks.load_lock(boats.root), *words)
    assert (e.value.code, e.value.what, e.value.remedy) == (Exit.WORDS, what, remedy)


def test_a_flavour_without_a_default_asks_for_a_release(boats: Project) -> None:
    boats.edit(MATRIX_FILE, 'cpu: "1.0", ', "")
    lock = relock(boats.root, Known())
    with pytest.raises(SlipwayError, match="boats has no default release for flavour cpu"):
        locks.select(lock, "boats", "cpu")
    assert locks.select(lock, "boats", "cpu", "1.0").release == "1.0"


def test_pins_are_read_from_requirements_with_normal_names() -> None:
    text = "# a comment==1\nA_b.C==1.0+cpu \\\n    --hash=sha256:0\nd==2 ; python_version < '3'\ne>=3\n"
    assert locks.pins_of(text) == {"a-b-c": "1.0+cpu", "d": "2"}


def test_the_checksum_of_the_matrix_does_not_depend_on_order(tmp_path: Path) -> None:
    matrix = yamldoc.load(REPO / MATRIX_FILE, Matrix)
    (tmp_path / "matrix.yaml").write_text(yamldoc.dump(msgspec.to_builtins(matrix)))
    assert locks.matrix_checksum(yamldoc.load(tmp_path / "matrix.yaml", Matrix)) == locks.matrix_checksum(matrix)

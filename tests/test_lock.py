"""images/lock.py: from the matrix to the lock, and what is carried over."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import MATRIX_FILE, REPO, Project

from images import lock as locks
from images import render
from images.model import Base, Identity, Lock, Matrix, MatrixGroup
from slipway import canonical, yamldoc
from slipway.errors import Exit, SlipwayError
from slipway.files import write_atomic
from slipway.project import Root

DIGEST = f"sha256:{'d' * 64}"
NEW_ROW = """
      0.8.0:
        base: {bootstrap: debian-12}
        python: "3.11"
        groups:
          all: {packages: [nemo-automodel==0.8.0], python: "3.11", platform: linux}
        environments:
          main: {python: /opt/venv/bin/python, groups: [all]}
"""


class Known:
    """A resolver that knows the version of everything, and the digests of `reachable` images."""

    def __init__(self, reachable: Iterable[str] = ()) -> None:
        self.reachable, self.asked = set(reachable), list[str]()

    def pins(self, groups: dict[str, MatrixGroup]) -> dict[str, str]:
        self.asked += [f"pins {' '.join(groups)}"]
        return {n: "".join(f"{p.partition('==')[0]}==1.0 \\\n    --hash=sha256:0\n" for p in g.packages)
                for n, g in groups.items()}  # fmt: skip

    def base(self, base: Base) -> Base:
        self.asked += [f"base {base.reference}"]
        return msgspec.structs.replace(base, digest=DIGEST) if base.image in self.reachable else base


def relock(root: Root, resolver: locks.Resolver, ask: tuple[str, ...] = ()) -> Lock:
    """`images lock`, with `resolver` for the outside world."""
    old = yamldoc.load(root.lock, Lock)
    new, files = locks.build_lock(root, locks.load_matrix(root), old, resolver, ask)
    for path, text in files.items():
        write_atomic(path, text)
    write_atomic(root.lock, locks.lock_text(new))
    return new


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


def test_a_new_row_changes_no_other_entry_and_none_of_its_files(project: Project) -> None:
    root = project.root
    before = locks.load_lock(root)
    files = {n: render.files_of(root, before, e) for n, e in before.entries.items()}
    project.edit(MATRIX_FILE, "\n    cuda:\n", f"{NEW_ROW}\n    cuda:\n")
    resolver = Known()
    after = relock(root, resolver)
    assert set(after.entries) - set(before.entries) == {"automodel/0.8.0-cpu"}
    assert "pins all" in resolver.asked and len([a for a in resolver.asked if a.startswith("pins")]) == 1
    for name, entry in before.entries.items():
        assert after.entries[name].checksum == entry.checksum
        assert render.files_of(root, after, after.entries[name]) == files[name]
    assert after.matrix != before.matrix


def test_a_lock_of_another_matrix_is_refused_and_comments_do_not_count(project: Project) -> None:
    project.edit(MATRIX_FILE, "schema: 1", "# a comment\nschema:   1")
    assert locks.load_lock(project.root)
    project.edit(MATRIX_FILE, "suite: bookworm", "suite: trixie")
    with pytest.raises(SlipwayError, match="made from another matrix") as e:
        locks.load_lock(project.root)
    assert (e.value.code, e.value.where, e.value.remedy) == (Exit.DATA, str(project.root.lock), "run: images lock")


def test_new_wishes_are_resolved_and_the_files_are_hashed(project: Project) -> None:
    project.edit(MATRIX_FILE, "pillow==13.0.0", "pillow==14.0.0")
    resolver = Known()
    entry = relock(project.root, resolver).entries["automodel/0.7.0-cpu"]
    assert resolver.asked[0] == "pins torch automodel"
    for name, group in entry.groups.items():
        text = (project.path / group.file).read_bytes()
        assert group.file == f"images/automodel/0.7.0-cpu/requirements-{name}.txt"
        assert group.sha256 == canonical.sha256(text)
    assert entry.environments["main"].packages == {"torch": "1.0", "nemo-automodel": "1.0", "pillow": "1.0"}


def test_a_changed_requirements_file_is_resolved_again(project: Project) -> None:
    (project.path / "images/automodel/0.7.0-cpu/requirements-torch.txt").write_text("torch==0\n")
    resolver = Known()
    relock(project.root, resolver)
    assert resolver.asked[0] == "pins torch automodel"


def test_open_digests_are_asked_for_and_known_ones_are_not(project: Project) -> None:
    resolver = Known(["nvcr.io/nvidia/nemo-automodel"])
    new = relock(project.root, resolver)
    assert resolver.asked == ["base nvcr.io/nvidia/nemo-automodel:26.06"]
    assert new.entries["automodel/26.06-cuda"].base.digest == DIGEST
    again = Known()
    assert relock(project.root, again) == new
    assert again.asked == [], "a digest that is in the lock stays"


def test_what_does_not_answer_stays_unresolved(project: Project) -> None:
    assert relock(project.root, Known()).entries["automodel/26.06-cuda"].base.digest is None


def test_another_tag_does_not_keep_the_old_digest(project: Project) -> None:
    relock(project.root, Known(["nvcr.io/nvidia/nemo-automodel"]))
    project.edit(MATRIX_FILE, 'tag: "26.06"', 'tag: "26.06.01"')
    assert relock(project.root, Known()).entries["automodel/26.06-cuda"].base.digest is None


def test_only_the_named_libraries_are_asked_for(project: Project) -> None:
    resolver = Known()
    relock(project.root, resolver, ask=("another",))
    assert resolver.asked == []


@pytest.mark.parametrize(("before", "kept"), [("title: NeMo AutoModel", True), ("transformers: 5.8.1", False)])
def test_recorded_images_are_kept_while_the_entry_is_the_same(project: Project, before: str, kept: bool) -> None:
    root, name = project.root, "automodel/26.06-cuda"
    lock = locks.load_lock(root)
    recorded = msgspec.structs.replace(lock.entries[name], image=[Identity(ids=["sha256:1"])], tested=["here"])
    lock = msgspec.structs.replace(lock, entries=lock.entries | {name: recorded})
    write_atomic(root.lock, locks.lock_text(lock))
    project.edit(MATRIX_FILE, before, before + "0")
    entry = relock(root, Known()).entries[name]
    assert bool(entry.image) == bool(entry.tested) == kept


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("automodel", "cpu"), "automodel/0.7.0-cpu"),
        (("automodel", "cuda"), "automodel/26.08.00-cuda"),
        (("automodel", "cuda", "26.06"), "automodel/26.06-cuda"),
    ],
)
def test_an_entry_is_chosen_by_flavour_and_release(words: Any, name: str) -> None:
    assert locks.select(locks.load_lock(Root(REPO)), *words).name == name


@pytest.mark.parametrize(
    ("words", "what", "remedy"),
    [
        (("automodle", "cpu"), "unknown library 'automodle'", "did you mean 'automodel'?"),
        (("automodel", "cpu", "0.7.1"), "automodel has no release '0.7.1' for flavour cpu", "did you mean '0.7.0'?"),
        (("automodel", "cpu", "26.06"), "automodel has no release '26.06' for flavour cpu", "known: 0.7.0"),
    ],
)
def test_an_entry_that_is_not_there_is_a_wrong_word(words: Any, what: str, remedy: str) -> None:
    with pytest.raises(SlipwayError) as e:
        locks.select(locks.load_lock(Root(REPO)), *words)
    assert (e.value.code, e.value.what, e.value.remedy) == (Exit.WORDS, what, remedy)


def test_a_flavour_without_a_default_asks_for_a_release() -> None:
    lock = locks.load_lock(Root(REPO))
    only = msgspec.structs.replace(lock.libraries["automodel"], default={"cuda": "26.08.00"})
    lock = msgspec.structs.replace(lock, libraries={"automodel": only})
    with pytest.raises(SlipwayError, match="automodel has no default release for flavour cpu"):
        locks.select(lock, "automodel", "cpu")


def test_pins_are_read_from_requirements_with_normal_names() -> None:
    text = "# a comment==1\nA_b.C==1.0+cpu \\\n    --hash=sha256:0\nd==2 ; python_version < '3'\ne>=3\n"
    assert locks.pins_of(text) == {"a-b-c": "1.0+cpu", "d": "2"}


def test_the_checksum_of_the_matrix_does_not_depend_on_order(tmp_path: Path) -> None:
    matrix = yamldoc.load(REPO / MATRIX_FILE, Matrix)
    (tmp_path / "matrix.yaml").write_text(yamldoc.dump(msgspec.to_builtins(matrix)))
    assert locks.matrix_checksum(yamldoc.load(tmp_path / "matrix.yaml", Matrix)) == locks.matrix_checksum(matrix)

"""images/locking/groups.py through `images lock` and the real uv: which pins stay, and which move."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import MATRIX_FILE, Project, tree, wheel

from images.locking import lock as locks

ENTRY = "boats/1.0-cpu"


def pins(project: Project) -> dict[str, str]:
    return locks.load_lock(project.root).entries[ENTRY].environments["main"].packages


@pytest.fixture
def newer(harbour: Project, wheels: Path) -> Project:
    """That project, since whose lock everything has got another version."""
    for name, version, *requires in (("rope", "2.0"), ("oars", "14.0", "wood"), ("wood", "1.0")):
        wheel(wheels, name, version, *requires)
    return harbour


def test_a_lock_moves_only_what_the_matrix_moves(newer: Project) -> None:
    newer.edit(MATRIX_FILE, "oars==13.0", "oars==14.0")
    before = (newer.path / f"images/{ENTRY}/requirements-torch.txt").read_text()
    assert newer.images("lock", "boats").code == 0
    assert pins(newer) == {"torch": "2.13.0+cpu", "boats": "1.0", "rope": "1.0", "oars": "14.0", "wood": "1.0"}
    assert (newer.path / f"images/{ENTRY}/requirements-torch.txt").read_text() == before


def test_a_pin_that_the_matrix_forbids_moves(newer: Project) -> None:
    newer.edit(MATRIX_FILE, "oars==13.0", "'rope>1'")
    assert newer.images("lock").code == 0
    assert pins(newer) == {"torch": "2.13.0+cpu", "boats": "1.0", "rope": "2.0"}


def test_the_pins_of_a_file_that_was_edited_are_those_of_the_lock(newer: Project) -> None:
    file = f"images/{ENTRY}/requirements-boats.txt"
    before = (newer.path / file).read_text()
    newer.edit(file, "rope==1.0", "rope==3.0")
    assert newer.images("lock").code == 0
    assert (newer.path / file).read_text() == before


@pytest.mark.parametrize("words", [("--upgrade",), ("--upgrade", "boats"), ("--upgrade-package", "Rope")])
def test_pins_move_where_that_is_asked_for(newer: Project, words: tuple[str, ...]) -> None:
    assert newer.images("lock", *words).code == 0
    assert pins(newer) == {"torch": "2.13.0+cpu", "boats": "1.0", "rope": "2.0", "oars": "13.0"}


def test_one_package_moves_and_no_other(newer: Project, wheels: Path) -> None:
    newer.edit(MATRIX_FILE, "oars==13.0", "oars")
    assert newer.images("lock").code == 0 and pins(newer)["oars"] == "13.0"
    wheel(wheels, "wood", "2.0")
    assert newer.images("lock", "boats", "--upgrade-package", "oars").code == 0
    assert pins(newer) == {"torch": "2.13.0+cpu", "boats": "1.0", "rope": "1.0", "oars": "14.0", "wood": "2.0"}


def test_a_package_that_nobody_has_pinned_does_not_move(newer: Project) -> None:
    before = tree(newer.path)
    done = newer.images("lock", "--upgrade-package", "ropes")
    assert (done.code, done.stderr) == (
        64, "error: --upgrade-package: no group of the lock has a package 'ropes'\n  did you mean 'rope'?\n"
    )  # fmt: skip
    assert newer.images("lock", "--upgrade", "--upgrade-package", "rope").code == 2
    assert tree(newer.path) == before


@pytest.mark.parametrize(
    ("release", "what", "remedy"),
    [
        ("1.0-tide", "is no version (PEP 440), by which releases are ordered",
         "name it by its tag's version, such as 0.7.0 or 26.08.01"),
        ("1.0+tide", "a local part (+) of a version names packages of one's own",
         "leave it out; packages are added by: images build --with"),
    ],
)  # fmt: skip
def test_a_release_that_is_no_version_is_refused(boats: Project, release: str, what: str, remedy: str) -> None:
    path = boats.edit(MATRIX_FILE, '      "26.06":', f'      "{release}":')
    line = path.read_text().splitlines().index(f'      "{release}":') + 1
    before = tree(boats.path)
    done = boats.images("lock")
    assert (done.code, done.stderr) == (
        78, f"error: {path}:{line}:7: libraries.boats.cuda.{release}: {what}\n  {remedy}\n"
    )  # fmt: skip
    assert tree(boats.path) == before

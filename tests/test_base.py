"""images/building/base.py: a base is made once, by mmdebstrap, whose stand-in makes a tar of what it was asked for."""

from __future__ import annotations

import json
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from helpers import Project

from images.building import base
from images.locking.model import Bootstrap
from slipway.errors import Exit, SlipwayError
from slipway.files import sha256_file
from slipway.project import Root

AMD64 = "linux/amd64"
WISH = Bootstrap(suite="bookworm", variant="minbase", packages=["ca-certificates", "python3"], source_date_epoch=1234)
STATUS = """\
Package: bash
Status: install ok installed
Version: 5.2.15-2+b7
Description: a shell
 Version: this line belongs to the description

Package: python3
Version: 3.11.2-1+b1
"""


def quiet(_: str) -> None:
    """A `say` for which nobody listens."""


@pytest.fixture
def mmdebstrap(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Writes its words and SOURCE_DATE_EPOCH to the file returned, and a tar with a dpkg status where it is told to."""
    monkeypatch.setenv("PATH", project.env["PATH"])
    with tarfile.open(tmp_path / "made.tar", "w") as archive:
        member = tarfile.TarInfo("./var/lib/dpkg/status")
        member.size = len(STATUS.encode())
        archive.addfile(member, BytesIO(STATUS.encode()))
    copy = (
        f"import shutil, sys; shutil.copy('{tmp_path}/made.tar', next(w for w in sys.argv if w.endswith('part.tar')))"
    )
    project.program(
        "mmdebstrap", f'echo "$SOURCE_DATE_EPOCH $@" >> {tmp_path}/words\nexec {sys.executable} -c "{copy}" "$@"'
    )
    return tmp_path / "words"


def test_the_entry_s_packages_variant_suite_and_epoch_are_asked_for_once(mmdebstrap: Path, tmp_path: Path) -> None:
    root = Root(tmp_path / "project")
    made = base.ensure(root, WISH, AMD64, quiet)
    assert base.ensure(root, WISH, AMD64, quiet) == made
    (words,) = mmdebstrap.read_text().splitlines()
    assert words.startswith("1234 --quiet --variant=minbase --include=ca-certificates,python3 --architectures=amd64 ")
    assert f" bookworm {root.state}/base/" in words
    assert made.facts.sha256 == sha256_file(made.path)


def test_the_versions_of_what_is_in_it_are_kept(mmdebstrap: Path, tmp_path: Path) -> None:
    made = base.ensure(Root(tmp_path), WISH, AMD64, quiet)
    assert mmdebstrap.exists()
    assert made.facts.packages == {"bash": "5.2.15-2+b7", "python3": "3.11.2-1+b1"}
    assert json.loads(made.path.with_name("base.json").read_text())["packages"] == made.facts.packages


def test_another_wish_and_another_processor_have_another_base(
    project: Project, mmdebstrap: Path, tmp_path: Path
) -> None:
    project.program("arch-test", "exit 0")
    other = Bootstrap(suite="bookworm", variant="minbase", packages=["python3"], source_date_epoch=1234)
    made = [
        base.ensure(Root(tmp_path), *of, quiet).path for of in ((WISH, AMD64), (other, AMD64), (WISH, "linux/arm64"))
    ]
    assert len(set(made)) == 3
    assert [w.split("--architectures=")[1].split()[0] for w in mmdebstrap.read_text().splitlines()] == [
        "amd64", "amd64", "arm64"
    ]  # fmt: skip


def test_a_failure_is_said_in_its_own_last_words_and_leaves_no_tar(project: Project, mmdebstrap: Path) -> None:
    project.program("mmdebstrap", "echo 'E: unable to download' >&2; exit 25")
    with pytest.raises(SlipwayError, match=r"mmdebstrap failed \(25\):\n  E: unable to download") as e:
        base.ensure(project.root, WISH, AMD64, quiet)
    assert e.value.code == Exit.UNAVAILABLE
    assert not list(project.root.state.rglob("*.tar")) and not mmdebstrap.exists()


@pytest.mark.parametrize("gone", ["base.tar", "base.json"])
def test_half_a_base_is_made_again(mmdebstrap: Path, tmp_path: Path, gone: str) -> None:
    made = base.ensure(Root(tmp_path), WISH, AMD64, quiet)
    made.path.with_name(gone).unlink()
    assert base.ensure(Root(tmp_path), WISH, AMD64, quiet) == made
    assert len(mmdebstrap.read_text().splitlines()) == 2


def test_what_is_missing_is_named(project: Project) -> None:
    done = project.images("base")
    assert (done.code, done.stdout) == (69, "")
    assert "not installed, or too old: mmdebstrap\n  install mmdebstrap" in done.stderr

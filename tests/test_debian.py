"""images/bootstrap/debian.py: what apt-get is asked for. A stand-in records its words; the real one runs in `make`."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import pytest

from images.bootstrap import debian
from slipway.errors import Exit, SlipwayError
from slipway.project import Root

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
DEB822 = """\
Types: deb
# a dated snapshot could stand here
URIs: http://mirror.example/debian http://second.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/mirror.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main
"""
ONE_LINE = """\
# deb http://off.example/debian bookworm main
deb http://mirror.example/debian bookworm main contrib
deb [arch=amd64 signed-by=/keys/a.gpg] https://second.example/debian bookworm main
deb-src http://source.example/debian bookworm main
deb http://engine.example/linux/debian bookworm stable
"""


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "debian.sources",
            DEB822,
            [
                ("http://mirror.example/debian", "/usr/share/keyrings/mirror.gpg"),
                ("http://second.example/debian", "/usr/share/keyrings/mirror.gpg"),
            ],
        ),
        (
            "sources.list",
            ONE_LINE,
            [("http://mirror.example/debian", KEYRING), ("https://second.example/debian", "/keys/a.gpg")],
        ),
        ("sources.list", "", []),
        ("keys.sources", DEB822.replace("/usr/share/keyrings/mirror.gpg", "\n -----BEGIN PGP-----"), None),
    ],
)
def test_mirrors_of_both_formats(tmp_path: Path, name: str, text: str, expected: list[tuple[str, str]] | None) -> None:
    (tmp_path / name).write_text(text)
    found = debian.bookworm_mirrors(tmp_path / name)
    assert found == (expected if expected is not None else [(uri, KEYRING) for uri, _ in found])


def test_trixie_beside_bookworm_leaves_etc_apt_as_it_is(tmp_path: Path) -> None:
    etc, folder = tmp_path / "etc", tmp_path / "private"
    (etc / "sources.list.d").mkdir(parents=True)
    (etc / "sources.list.d" / "debian.sources").write_text(DEB822)
    (etc / "sources.list.d" / "engine.list").write_text("deb http://engine.example/debian bookworm stable\n")
    (etc / "sources.list.d" / "debian.sources.off").write_text(DEB822)
    folder.mkdir()
    before = {p: p.stat() for p in etc.rglob("*")}

    options = debian.trixie_beside_bookworm(etc, folder)
    assert {p: p.stat() for p in etc.rglob("*")} == before
    assert all(str(folder) in word for word in options if "=" in word and not word.endswith("=/dev/null"))
    parts = {p.suffix: p.read_text() for p in (folder / "sources.list.d").iterdir()}
    assert parts == {
        ".sources": DEB822,
        ".list": "deb [signed-by=/usr/share/keyrings/mirror.gpg] http://mirror.example/debian trixie main\n",
    }


def test_no_mirror_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SlipwayError, match="names no mirror") as e:
        debian.trixie_beside_bookworm(tmp_path / "etc", tmp_path / "private")
    assert (e.value.code, e.value.where) == (Exit.UNAVAILABLE, f"{tmp_path}/etc/sources.list*")


def executable(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def on_debian_12_as_root() -> bool:
    release = platform.freedesktop_os_release()
    return (release.get("ID"), release.get("VERSION_ID")) == ("debian", "12") and os.geteuid() == 0


@pytest.fixture
def apt_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without mmdebstrap and with an apt-get that records its words and then "installs" mmdebstrap."""
    if not on_debian_12_as_root():
        pytest.skip("for Debian 12, as root")
    programs = tmp_path / "bin"
    programs.mkdir()
    stand_in = programs / "apt-get"
    stand_in.write_text(
        f'#!/bin/sh\necho $DEBIAN_FRONTEND "$@" >> {tmp_path}/words\n'
        f'for word; do [ "$word" = mmdebstrap ] && {shutil.which("cp")} "$0" {programs}/mmdebstrap; done\nexit 0\n'
    )
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    return stand_in


@pytest.mark.usefixtures("apt_get")
def test_need_installs_what_is_missing(tmp_path: Path) -> None:
    said: list[str] = []
    debian.need(Root(tmp_path), said.append, "mmdebstrap")
    debian.need(Root(tmp_path), said.append, "mmdebstrap")
    assert said == ["installing mmdebstrap"]
    update, install = (tmp_path / "words").read_text().splitlines()
    private = str(tmp_path / ".slipway" / "apt-")
    assert update.startswith("noninteractive -o DPkg::Lock::Timeout=300 ") and update.endswith(" update")
    assert f"Dir::State::lists={private}" in update and f"Dir::Etc::sourceparts={private}" in install
    assert install.endswith(" install --yes --no-install-recommends --no-remove mmdebstrap")
    assert list((tmp_path / ".slipway").iterdir()) == [], "the private apt folder is gone"


def test_what_apt_get_says_is_shown_when_it_fails(apt_get: Path, tmp_path: Path) -> None:
    apt_get.write_text("#!/bin/sh\necho 'E: Could not get lock' >&2\nexit 100\n")
    with pytest.raises(SlipwayError, match="failed with 100\n  E: Could not get lock") as e:
        debian.need(Root(tmp_path), lambda _: None, "mmdebstrap")
    assert e.value.code == Exit.UNAVAILABLE
    assert list((tmp_path / ".slipway").iterdir()) == []


def test_what_stands_in_the_way_of_an_installed_package_is_named(apt_get: Path, tmp_path: Path) -> None:
    apt_get.write_text("#!/bin/sh\n")
    old = executable(apt_get.with_name("dockerd"), "echo 'Docker version 20.10.24, build 1'")
    with pytest.raises(SlipwayError, match="not there, or too old: dockerd, mmdebstrap") as e:
        debian.need(Root(tmp_path), lambda _: None, "dockerd", "mmdebstrap")
    assert e.value.remedy == f"on PATH, ahead of Debian's: {old}"


def test_what_is_missing_elsewhere_is_named(apt_get: Path, tmp_path: Path) -> None:
    apt_get.unlink()
    executable(apt_get.with_name("dockerd"), "echo 'Docker version 20.10.24, build 1'")
    with pytest.raises(SlipwayError, match="not installed, or too old: dockerd, mmdebstrap") as e:
        debian.need(Root(tmp_path), lambda _: None, "dockerd", "mmdebstrap")
    assert e.value.remedy.startswith("install Docker Engine 23 or later (or set DOCKER_HOST to one), mmdebstrap;")


def test_an_old_engine_counts_as_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for version, expected in (("20.10.24+dfsg1", ["dockerd"]), ("23.0.1", []), ("26.1.5+dfsg1", [])):
        executable(tmp_path / "dockerd", f"echo 'Docker version {version}, build 1'")
        assert debian.missing("dockerd") == expected, version
        assert debian.dockerd_version() == version


def test_a_header_is_there_when_its_file_is(tmp_path: Path) -> None:
    header = tmp_path / "spank.h"
    assert debian.missing(str(header)) == [str(header)]
    header.touch()  # which nobody may execute
    assert debian.missing(str(header)) == []

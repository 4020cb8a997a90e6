"""launcher/doctor/pyxis: which pyxis a site has, and what it is told, as far as this machine shows."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import REPO, Project
from slurm_site import ANSWERS, CONFIG, HELP, SITE, say, seen
from slurm_site import site as site

from launcher.catalog.profiles import SlurmProfile
from launcher.doctor import Site, pyxis
from slipway.project import Root

UNPACKS = "ok pyxis pyxis 0.24.0 unpacks the image on each node for every attempt; "
MOUNTS = "warning pyxis pyxis 0.24.0 mounts images (use_squashfuse): Slurm's own TERM ends what mounts them"


def told(site: Project) -> list[str]:
    return [line for line in seen(site)[1] if line.split()[1] == "pyxis"][1:]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("required spank_pyxis.so", f"{UNPACKS}the next attempt removes what one leaves that was killed "
         "(container_scope=global)"),
        ("optional spank_pyxis.so container_scope=job", f"{UNPACKS}Slurm's epilog removes what an ended attempt leaves "
         "(container_scope=job)"),
        ("required spank_pyxis.so runtime_path=/run/pyxis use_squashfuse=true", MOUNTS),
        ("required spank_pyxis.so use_squashfuse=true use_squashfuse=no", UNPACKS),
        ("required spank_pyxis.so use_squashfuse=false", UNPACKS),
        ("# required spank_pyxis.so use_squashfuse=1\nrequired spank_pyxis.so", UNPACKS),
        ("required /elsewhere/spank_pyxis.so", "ok pyxis pyxis of a version that it does not tell unpacks"),
        ("required spank_other.so", "unknown pyxis version and settings are not known: T/plugstack.conf does not speak "
         "of it"),
    ],
)  # fmt: skip
def test_its_line_in_plugstack_conf(site: Project, tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "plugstack.conf").write_text(f"{line}\n")
    (found,) = told(site)
    assert found.startswith(said)


@pytest.mark.parametrize("pattern", ["plugstack.conf.d/*.conf", "{T}/plugstack.conf.d/*"])
def test_its_line_may_be_in_a_file_that_is_included(site: Project, tmp_path: Path, pattern: str) -> None:
    (tmp_path / "plugstack.conf").write_text(f"include {pattern.replace('{T}', str(tmp_path))}\n")
    (tmp_path / "plugstack.conf.d").mkdir()
    (tmp_path / "plugstack.conf.d" / "a.conf").write_text("required spank_lua.so\n")
    (tmp_path / "plugstack.conf.d" / "b.conf").write_text("required spank_pyxis.so use_squashfuse=1\n")
    assert told(site)[0].startswith(MOUNTS)


def test_an_importers_images_are_mounted_a_registrys_are_not(site: Project, tmp_path: Path) -> None:
    site.edit(SITE, "squash:", "image: registry\nsquash:")
    (tmp_path / "plugstack.conf").write_text("required spank_pyxis.so use_squashfuse=1\n")
    assert told(site)[0].startswith(UNPACKS)
    (tmp_path / "plugstack.conf").write_text("required spank_pyxis.so use_squashfuse=1 importer=/usr/bin/importer\n")
    assert told(site)[0].startswith(MOUNTS)


def test_a_site_whose_files_are_elsewhere_is_not_known(site: Project, tmp_path: Path) -> None:
    (tmp_path / "plugstack.conf").unlink()
    if not Path(pyxis.CONFIGLESS).exists():
        said = "unknown pyxis version and settings are not known: T/plugstack.conf is not on this machine"
        assert told(site) == [said]
    say(site, "scontrol", ANSWERS["scontrol"] | {"show config": CONFIG.replace("PlugStackConfig", "SLURM_CONF")})
    (tmp_path / "plugstack.conf").write_text("required spank_pyxis.so\n")
    assert told(site)[0].startswith(UNPACKS), "it is beside slurm.conf where nothing else is said"


@pytest.mark.parametrize("closed", ["plugstack.conf", "more", "more/pyxis.conf", "."])
def test_what_is_closed_to_an_ordinary_user_is_said(closed: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "site")
        (folder / "more").mkdir(parents=True)
        (folder / "plugstack.conf").write_text("include more/*.conf\n")
        (folder / "more" / "pyxis.conf").write_text("required spank_pyxis.so\n")
        scontrol = Path(name, "scontrol")
        scontrol.write_text(f"#!/bin/sh\necho 'PlugStackConfig = {folder}/plugstack.conf'\n")
        for path in (Path(name), scontrol):
            path.chmod(0o755)
        assert as_user(name, found) == "None "
        (folder / closed).chmod(0)
        said = as_user(name, found)
        (folder / closed).chmod(0o755)
    assert re.fullmatch(rf"{folder}(/\S+)? may not be read by you", said)


def found() -> str:
    """Why the settings are not known; else nothing."""
    had, why = pyxis.settings(Site(Root(REPO), SlurmProfile(schema=1)))
    return why if had is None else "None "


def as_user(programs: str, do: Callable[[], str]) -> str:
    """What `do` returns in a process without root's rights, whose PATH is a folder."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.ExitStack() as stack:
            stack.callback(os._exit, 0)
            os.environ["PATH"] = f"{programs}:/usr/bin:/bin"
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(23456)
                os.setuid(12345)
            os.write(writes, do().encode())
    os.close(writes)
    os.waitpid(child, 0)
    with os.fdopen(reads) as said:
        return said.read()


def test_an_older_pyxis_that_lacks_an_option_fails(site: Project) -> None:
    older = "\n".join(line for line in HELP.splitlines() if "container-env" not in line)
    say(site, "srun", ANSWERS["srun"] | {"--help": older})
    code, lines = seen(site)
    assert code == 69
    assert "failed pyxis srun does not know --container-env; ask the site for a newer pyxis" in lines


def test_the_options_are_those_that_jobs_say() -> None:
    """Of every rendered script: what any job says by default, each has to know."""
    scripts = [path for path in (Path(__file__).parent / "golden").rglob("slurm-pyxis-*/*") if path.is_file()]
    said = {
        name for path in scripts for name in re.findall(r"^\s*--((?:no-)?container-[\w-]+)", path.read_text(), re.M)
    }
    assert said == set(pyxis.OPTIONS)

"""The stand-in of enroot (tests/standins/enroot.py) starts containers as enroot does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ..support import PROJECT, Done, Running

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount where user namespaces are closed"),
]
STANDIN = PROJECT / "tests" / "standins" / "enroot.py"


class Enroot:
    """The program, with folders of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.env = folder, {"PATH": os.environ["PATH"], "ENROOT_DATA_PATH": str(folder / "data")}

    def start(self, *words: str, **variables: str) -> Running:
        command = [sys.executable, "-IS", str(STANDIN), str(self.folder), *words]
        return Running(command, self.folder, {**self.env, "HOME": "/root", **variables})

    def __call__(self, *words: str, **variables: str) -> Done:
        return self.start(*words, **variables).finish()

    def sh(self, script: str, *options: str, **variables: str) -> Done:
        return self("start", *options, "box", "sh", "-c", script, **variables)


@pytest.fixture
def enroot(place: Path, tiny: Path) -> Enroot:
    made = Enroot(place)
    done = made("create", "--name", "box", str(tiny))
    assert done.code == 0, done
    return made


def test_containers_by_name(enroot: Enroot, tiny: Path) -> None:
    assert enroot("version").out == "4.1.2\n"
    again = enroot("create", "-n", "box", str(tiny))
    assert again.code == 1 and "[ERROR] File already exists: " in again.err
    assert enroot("create", "--force", "-n", "box", str(tiny)).code == 0
    assert enroot("create", str(tiny)).code == 0
    assert enroot("list").out == "box\ntiny\n"
    assert enroot("remove", "--force", "tiny").code == 0
    assert enroot("list").out == "box\n"
    gone = enroot("start", "tiny", "true")
    assert gone.code == 1 and "[ERROR] No such file or directory" in gone.err


@pytest.mark.parametrize(("script", "code"), [("exit 17", 17), ("none", 127), ("kill -KILL $$", -9)])
def test_the_code_passes_through(enroot: Enroot, script: str, code: int) -> None:
    assert enroot.sh(script).code == code


def test_what_the_container_knows(enroot: Enroot) -> None:
    done = enroot.sh(
        'pwd; ls /tmp; echo "$WHO|$ENTERED|$PATH|$HOST|$ASKED|$GIVEN|$HOME"; grep -c " /root " /proc/mounts',
        *("-e", "ASKED", "--env", "GIVEN=it's $a"),
        HOST="no",
        ASKED="yes",
    )
    assert done.out == "/data\nimage|yes|/opt/image/bin:/bin||yes|it's $a|/root\n0\n"
    assert enroot.sh("grep -c ' /root ' /proc/mounts", ENROOT_MOUNT_HOME="y").out == "1\n"
    assert enroot.sh('echo "$WHO"', "-e", "WHO=asked").out == "asked\n"


def test_the_root_is_read_only_unless_writable(enroot: Enroot) -> None:
    refused = enroot.sh("touch /x")
    assert refused.code == 1 and "Read-only file system" in refused.err
    assert enroot.sh("touch /x", "--rw").code == 0
    assert enroot.sh("ls /x").out == "/x\n"


def test_mounts_are_lines_of_fstab_with_colons(enroot: Enroot) -> None:
    source = enroot.folder / "source"
    source.mkdir()
    done = enroot.sh(
        "touch /rw/a; touch /ro/b; ls /ro",
        *("--mount", f"{source}:/rw", "--mount", f"{source}:/ro:none:x-create=dir,bind,ro:0:0"),
        *("--mount", "/none:/none:none:x-create=dir,bind,nofail"),
    )
    assert done.out == "a\n" and "/ro/b: Read-only file system" in done.err


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        ("/etc:/d:ro", "enroot-mount: failed to mount: /etc at "),
        ("/none:/d:none:x-create=dir,bind", "enroot-mount: failed to mount: /none at "),
        ("/a b:/d", "[ERROR] Invalid argument: /a b:/d"),
    ],
)
def test_mounts_that_are_refused(enroot: Enroot, mount: str, message: str) -> None:
    done = enroot.sh("echo started", "--mount", mount)
    assert (done.code, done.out) == (1, "") and done.err.startswith(message), done


def test_a_packed_image_is_started_and_leaves_nothing(enroot: Enroot, tiny: Path) -> None:
    done = enroot("start", "--rw", str(tiny), "sh", "-c", "touch /x; ls /x; echo $WHO")
    assert done.out == "/x\nimage\n", done
    assert str(tiny) not in subprocess.run(["losetup", "--list"], capture_output=True, text=True, check=True).stdout


def test_another_start_script(enroot: Enroot) -> None:
    script = enroot.folder / "rc"
    script.write_text('echo "mine: $*"\n')
    assert enroot("start", "--rc", str(script), "box", "a", "b").out == "mine: a b\n"


def test_a_signal_reaches_the_command(enroot: Enroot) -> None:
    step = enroot.start("start", "box", "sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done")
    step.await_line("up")
    step.signal(signal.SIGTERM)
    assert step.finish().code == 7


def test_a_user_who_is_not_root(enroot: Enroot) -> None:
    """As user 65534 in a user namespace; where a site forbids those, enroot does not run either."""
    subprocess.run(["chown", "-R", "65534:65534", str(enroot.folder)], check=True)
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if subprocess.run([*become, "unshare", "--user", "true"]).returncode:
        pytest.skip("no user namespaces for users here")
    # The project's own Python may lie where only root may look.
    command = [*become, "/usr/bin/python3", "-IS", "-", str(enroot.folder), "start"]
    script = STANDIN.read_text()
    for options, uid in (((), "65534"), (("--root",), "0")):
        words = [*command, *options, "box", "sh", "-c", "id -u; touch /tmp/x && ls /tmp"]
        done = subprocess.run(words, env=enroot.env | {"HOME": "/"}, input=script, capture_output=True, text=True)
        assert done.stdout == f"{uid}\nx\n", done

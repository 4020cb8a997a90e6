"""The tests' Slurm and container plugin behave as a site's: what a launcher has to live with, row by row."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support import PROJECT, Done, until
from .cluster import Cluster, interrupt_removal, stand_in

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons and containers need root here"),
]


class Site:
    """The cluster, and steps in the tiny image."""

    def __init__(self, slurm: Cluster, tiny: Path, shared: Path) -> None:
        self.slurm, self.image, self.shared = slurm, f"--container-image={tiny}", shared

    def sh(self, script: str, *options: str, **variables: str) -> Done:
        return self.slurm.call("srun", self.image, *options, "sh", "-c", script, **variables)


@pytest.fixture
def site(slurm: Cluster, tiny: Path, tmp_path: Path) -> Iterator[Site]:
    slurm.wait_for_idle()
    yield Site(slurm, tiny, tmp_path)
    slurm.call("scancel", "--user=root")


# Exit codes


@pytest.mark.parametrize(
    ("script", "options", "code"),
    [
        ("exit 7", (), 7),
        ("exit $((SLURM_PROCID + 3))", ("-N2",), 4),
        ("kill -SEGV $$", (), 139),
        ("kill -KILL $$", (), 137),
    ],
)
def test_a_tasks_code_is_sruns(site: Site, script: str, options: tuple[str, ...], code: int) -> None:
    assert site.sh(script, *options).code == code


def test_kill_on_bad_exit_hides_the_code(site: Site) -> None:
    """Once all are there: what ends a container that is still being made is another code."""
    wait = "cd /shared; touch $SLURM_PROCID; until [ -e 0 ] && [ -e 1 ] && [ -e 2 ]; do sleep 0.1; done"
    mount = f"--container-mounts={site.shared}:/shared"
    done = site.sh(f"{wait}; [ $SLURM_PROCID = 1 ] && exit 5; sleep 600", "-N3", "--kill-on-bad-exit=1", mount)
    assert done.code == 143
    assert "task 1: Exited with exit code 5" in done.err


def test_a_command_that_the_image_lacks(site: Site) -> None:
    done = site.slurm.call("srun", site.image, "bash", "-c", "true")
    assert done.code == 2
    assert "execve(): bash: No such file or directory" in done.err


@pytest.mark.parametrize(
    "options",
    [
        ("--container-mounts=/a:/b,",),
        ("--container-mounts=a:/b",),
        ("--container-mounts=/a:b",),
        ("--container-mounts=",),
        ("--container-image=/other.sqsh",),
        ("--container-mount-home", "--no-container-mount-home"),
        ("--container-entrypoint", "--no-container-entrypoint"),
        ("--container-remap-root", "--no-container-remap-root"),
        ("--container-strange",),
    ],
)
def test_what_the_client_refuses(site: Site, options: tuple[str, ...]) -> None:
    done = site.sh("echo started", *options)
    assert (done.code, done.out) == (255, ""), done


CAUSE = re.compile(
    r"pyxis:     (?:\[ERROR\]|curl:|enroot-mount:).*|pyxis: (?:--container-mounts|couldn't chdir|failed to).*"
)


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (("--container-mounts=/none:/b",), "pyxis: --container-mounts: source path does not exist: /none"),
        (("--container-mounts=/etc:/proc/none",), "pyxis:     enroot-mount: failed to "),
        (("--container-workdir=/none",), "pyxis: couldn't chdir to /none: No such file or directory"),
    ],
)
def test_a_start_that_fails_tells_why_amid_noise(site: Site, options: tuple[str, ...], cause: str) -> None:
    done = site.sh("echo started", *options)
    assert (done.code, done.out) == (1, ""), done
    assert any(found.startswith(cause) for found in CAUSE.findall(done.err)), done.err
    assert "task_init() failed with rc=-1" in done.err


@pytest.mark.parametrize(
    ("image", "cause"),
    [
        ("/none.sqsh", "[ERROR] No such file or directory"),
        ("/etc/passwd", "[ERROR] Invalid image format"),
        ("none.sqsh", "curl: (6) Could not resolve host"),  # not a path: pyxis asks a registry
    ],
)
def test_an_image_that_is_none(site: Site, image: str, cause: str) -> None:
    done = site.slurm.call("srun", f"--container-image={image}", "true")
    assert done.code == 1
    assert f"pyxis:     {cause}" in done.err, done.err


def test_devices_that_the_node_lacks(site: Site) -> None:
    done = site.sh("true", NVIDIA_VISIBLE_DEVICES="all")
    assert done.code == 1 and "[ERROR] Command not found: nvidia-container-cli" in done.err
    assert site.sh("true", NVIDIA_VISIBLE_DEVICES="void").code == 0


def test_without_an_image_mounts_are_ignored_on_the_host(site: Site) -> None:
    done = site.slurm.call("srun", "--container-mounts=/etc:/mounted", "sh", "-c", "test -e /mounted || test -d /proc")
    assert done.code == 0
    assert "ignoring --container-mounts because neither --container-image" in done.err


# Mounts


def test_mounts(site: Site) -> None:
    file, folder = site.shared / "a file", site.shared / "folder"
    file.write_text("text")
    folder.mkdir()
    mounts = f"{folder}:/new/folder:ro+rprivate,{file}:/new/file,{folder}:/typo:readonly,{folder},tmpfs:/own:size=1m"
    done = site.sh(
        "cat /new/file; touch /new/folder/no; touch /typo/yes && touch /own/x && echo more >>/new/file;"
        f"ls {folder}; df -k /own | tail -1",
        f"--container-mounts={mounts}",
    )
    assert re.fullmatch(r"textyes\ntmpfs +1024 .*\n", done.out), done
    assert "/new/folder/no: Read-only file system" in done.err
    assert [p.name for p in folder.iterdir()] == ["yes"] and file.read_text() == "textmore\n"


def test_a_fourth_part_of_a_mount_passes_and_undoes_the_third(site: Site) -> None:
    assert site.sh("touch /mounted/x", f"--container-mounts={site.shared}:/mounted:ro").code == 1
    assert site.sh("touch /mounted/x", f"--container-mounts={site.shared}:/mounted:ro:more").code == 0
    assert (site.shared / "x").exists()


def test_a_shell_reads_the_mounts(site: Site) -> None:
    other, named = site.shared / "other", site.shared / "$(echo other)"
    for folder in (other, named, site.shared / 'a"b'):
        folder.mkdir()
        (folder / folder.name).touch()
    assert site.sh("ls /mounted", f"--container-mounts={named}:/mounted").out == "other\n"
    done = site.sh("ls /mounted", f'--container-mounts={site.shared}/a"b:/mounted')
    assert done.code == 1 and "[ERROR] Invalid argument: .enroot_config_" in done.err, done


def test_of_two_lists_of_mounts_the_last_wins(site: Site) -> None:
    done = site.sh("ls -d /one /two", "--container-mounts=/etc:/one", "--container-mounts=/etc:/two")
    assert done.out == "/two\n" and "/one: No such file" in done.err


def test_the_root_is_read_only_unless_writable(site: Site) -> None:
    write = "touch /x && touch /tmp/x /run/x && ls /tmp"
    done = site.sh(write)
    assert done.code == 1 and "/x: Read-only file system" in done.err
    assert site.sh(write, "--container-writable").out == "x\n"  # a fresh /tmp: without what the image has there
    assert site.sh("ls /x", "--container-writable").code == 1  # and nothing of it is in the image


def test_home_is_only_mounted_when_asked_for(site: Site) -> None:
    look = "echo $HOME; grep -c ' /root ' /proc/mounts"
    assert site.sh(look).out == "/root\n0\n"
    assert site.sh(look, "--container-mount-home").out == "/root\n1\n"


# Environment and working directory


def test_whose_value_a_variable_has(site: Site) -> None:
    text = 'it\'s "$HOME" `id`\nand more'
    host = {"WHO": "host", "MINE": text, "LANG": "C.UTF-8", "LD_LIBRARY_PATH": "/host/lib"}
    show = 'echo "$WHO|$MINE|${LANG-unset}|$LD_LIBRARY_PATH|$PATH|$ODD"'
    odd = 'two words "$HOME" `id`'
    assert site.sh(show, **host).out == f"image|{text}|unset|/host/lib|/opt/image/bin:/bin|{odd}\n"
    asked = site.sh(show, "--container-env=WHO,LANG,NONE", **host)
    assert asked.out == f"host|{text}|C.UTF-8|/host/lib|/opt/image/bin:/bin|{odd}\n"
    assert site.sh('echo "[$WHO]"', "--container-env=WHO", WHO="").out == "[]\n"
    clean = site.sh('echo "$WHO|${MINE-unset}|$NEW"', "--export=NEW=1", **host)
    assert clean.out == "image|unset|1\n"


def test_a_line_of_a_value_that_is_asked_for_becomes_a_variable(site: Site) -> None:
    show = 'echo "$MINE|${OTHER-unset}"'
    text = "one\nOTHER=two"
    assert site.sh(show, MINE=text).out == f"{text}|unset\n"
    assert site.sh(show, "--container-env=MINE", MINE=text).out == f"{text}|two\n"


def test_the_login_shell_reads_the_profile_of_a_mounted_home(site: Site) -> None:
    show = 'echo "$PATH|${LD_LIBRARY_PATH-unset}"'
    assert site.sh(show, "--container-mount-home").out == "/from/profile:/opt/image/bin:/bin|/from/profile\n"
    assert site.sh(show, "--container-mount-home", ENROOT_LOGIN_SHELL="n").out == "/opt/image/bin:/bin|unset\n"
    assert site.sh(show).out == "/opt/image/bin:/bin|unset\n"


def test_each_task_keeps_its_own_variables(site: Site) -> None:
    job = site.slurm.submit(f"srun -N2 -n4 --label {site.image} sh -c 'echo $SLURM_PROCID'", "-N2", "-n4", "--wait")
    assert sorted(site.slurm.output(job).splitlines()) == [f"{n}: {n}" for n in range(4)]


def test_the_entrypoint_runs_when_asked_for(site: Site) -> None:
    assert site.sh('echo "$ENTERED"').out == "\n"
    assert site.sh('echo "$ENTERED"', "--container-entrypoint").out == "yes\n"


def test_the_working_directory(site: Site) -> None:
    assert site.sh("pwd", "--chdir=/etc").out == "/data\n"
    assert site.sh("pwd", "--container-workdir=/bin").out == "/bin\n"


# Nodes


def test_three_nodes_at_once_each_with_its_own_disk(site: Site) -> None:
    site.slurm.write_local("n2", "given", "")
    local = site.slurm.local
    script = f"ls {local}; hostname >{local}/name; grep -w $(hostname) /etc/hosts"
    done = site.sh(script, "-N3", "--label", f"--container-mounts={local}")
    own = [f"{n}: 127.0.0.{n + 11} n{n + 1}" for n in range(3)]
    assert sorted(done.out.splitlines()) == sorted([*own, "1: given"])
    assert [site.slurm.read_local(node, "name") for node in site.slurm.nodes] == ["n1\n", "n2\n", "n3\n"]
    assert not list(local.iterdir())


def test_a_node_whose_start_fails_leaves_the_others_running(site: Site) -> None:
    for node in ("n1", "n3"):
        site.slurm.write_local(node, "data/x", "")
    go = site.shared / "go"
    options = ["-N3", "--label", f"--container-mounts={site.slurm.local}/data:/data,{site.shared}:/shared"]
    wait = "echo up; until [ -e /shared/go ]; do sleep 0.1; done"
    step = site.slurm.start("srun", site.image, *options, "sh", "-c", wait)
    until("the failure", lambda: "n2: task 1: Exited with exit code 1" in step.err)
    step.await_line("0: up")
    step.await_line("2: up")
    assert step.process.poll() is None
    go.touch()
    done = step.finish()
    assert done.code == 1
    assert f"pyxis: --container-mounts: source path does not exist: {site.slurm.local}/data" in done.err


def test_tasks_of_one_node_share_what_ends_with_the_step(site: Site) -> None:
    done = site.sh("readlink /proc/self/ns/mnt", "-N1", "-n2")
    assert len(set(done.out.split())) == 1
    job = site.slurm.submit(f"srun {site.image} sh -c 'trap : TERM; echo up; while :; do sleep 600; done'")
    site.slurm.wait_for_output(job, "up")
    node = site.slurm.job(job)["NodeList"]
    name = f"pyxis_{job}.0\n"
    assert name in site.slurm.containers(node)
    site.slurm.call("scancel", "--signal=KILL", f"{job}.0")
    site.slurm.wait_for_state(job, "FAILED")
    until("the end of the container", lambda: name not in site.slurm.containers(node))


@stand_in
def test_what_is_left_of_a_container_is_in_the_way_of_the_next_attempt(site: Site) -> None:
    """The removal is killed; a requeued job has the same id, and counts its steps anew."""
    job = site.slurm.submit(f"srun {site.image} sh -c '{SERVE}'", "--open-mode=append", "-w", "n2")
    site.slurm.wait_for_output(job, "try=0")
    site.slurm.write_local("n2", ".removing", "")
    site.slurm.call("scancel", "--signal=KILL", f"{job}.0")
    interrupt_removal(job)
    site.slurm.remove_local("n2", ".removing")
    site.slurm.wait_for_state(job, "FAILED")
    assert site.slurm.call("scontrol", "requeue", job).code == 0
    site.slurm.call("scontrol", "update", f"JobId={job}", "StartTime=now+1")
    site.slurm.wait_for_output(job, rf"pyxis:     \[ERROR\] File already exists: \S+/pyxis_{job}.0")
    site.slurm.wait_for_state(job, "FAILED")
    until("the end of what was left", lambda: site.slurm.containers("n2") == "")


@stand_in
def test_a_container_that_is_being_made_ends_with_a_signal(site: Site) -> None:
    site.slurm.write_local("n2", ".unpacking", "")
    job = site.slurm.submit(f"srun -N2 {site.image} sh -c 'echo up; sleep 600'; echo code=$?", "-N3", "-w", "n1,n2,n3")
    site.slurm.wait_for_output(job, "up")
    site.slurm.call("scancel", "--signal=TERM", f"{job}.0")
    found = site.slurm.wait_for_output(job, r"(?s)n2: task 1: Exited with exit code 1.*code=(\d+)")
    assert found[1] == "143", "the other node's"
    site.slurm.remove_local("n2", ".unpacking")


def test_a_node_that_dies(site: Site) -> None:
    """Its job runs again on another one; the node comes back with an empty disk."""
    script = "echo try=${SLURM_RESTART_COUNT-0} on $(hostname); sleep 600"
    job = site.slurm.submit(script, "--open-mode=append")
    dead = site.slurm.wait_for_output(job, "try=0 on (n[123])")[1]
    site.slurm.write_local(dead, "left", "")
    site.slurm.kill_node(dead)
    site.slurm.declare_down(dead)
    site.slurm.run_now(job)
    assert site.slurm.wait_for_output(job, "try=1 on (n[123])")[1] != dead
    site.slurm.call("scancel", job)
    site.slurm.restart_node(dead)
    with pytest.raises(FileNotFoundError):
        site.slurm.read_local(dead, "left")


# Life of a job


def test_term_reaches_a_trap_in_the_container(site: Site) -> None:
    trap = "trap 'echo told; exit 77' TERM; echo up; while :; do sleep 0.1; done"
    job = site.slurm.submit(f'srun {site.image} sh -c "{trap}"; echo code=$?')
    site.slurm.wait_for_output(job, "up")
    site.slurm.call("scancel", "--signal=TERM", f"{job}.0")
    site.slurm.wait_for_output(job, "told\n(.*\n)*code=77")
    site.slurm.wait_for_state(job, "COMPLETED")


SERVE = "echo try=${SLURM_RESTART_COUNT-0}; while :; do sleep 0.1; done"


def test_a_requeued_job_counts_its_restarts(site: Site) -> None:
    job = site.slurm.submit(f"srun {site.image} sh -c '{SERVE}'", "--open-mode=append")
    site.slurm.wait_for_output(job, "try=0")
    site.slurm.call("scontrol", "requeue", job)
    site.slurm.run_now(job)
    site.slurm.wait_for_output(job, "try=1")
    assert site.slurm.job(job)["Restarts"] == "1"


def test_an_urgent_job_takes_the_nodes(site: Site) -> None:
    job = site.slurm.submit(SERVE, "-N3", "--exclusive", "--requeue", "--open-mode=append")
    site.slurm.wait_for_output(job, "try=0")
    assert site.slurm.call("srun", "-p", "urgent", "-N3", "--exclusive", "true").code == 0
    site.slurm.run_now(job)
    site.slurm.wait_for_output(job, "try=1")


def test_a_default_in_the_environment_puts_the_batch_script_into_the_image(site: Site) -> None:
    """Which has no srun."""
    image, out = site.image.partition("=")[2], site.shared / "out"
    batch = ("sbatch", "--parsable", f"--output={out}", "--wrap=pwd; command -v srun")
    job = site.slurm.call(*batch, PYXIS_CONTAINER_IMAGE=image).out.strip()
    site.slurm.wait_for_state(job, "FAILED")
    assert out.read_text() == "/data\n"


# The cluster itself


def test_without_accounting_only_the_controller_answers(site: Site) -> None:
    done = site.slurm.call("sacct")
    assert done.code == 1 and "accounting storage is disabled" in done.err
    job = site.slurm.submit("exit 3")
    assert site.slurm.wait_for_state(job, "FAILED")["ExitCode"] == "3:0"


def test_with_accounting_sacct_answers(accounted: Cluster) -> None:
    job = accounted.submit("srun false; exit 3")
    told = ("sacct", "-nPX", "-j", job, "-o", "State,ExitCode")
    until("what sacct tells", lambda: accounted.call(*told).out == "FAILED|3:0\n")


SERVER = """
import sys
from pathlib import Path
from tests.real.slurm.cluster import running
with running(Path(sys.argv[1]), nodes=1) as cluster:
    cluster.submit("sleep 987654321")
    print("up", flush=True)
    sys.stdin.read()
"""


def test_a_test_run_that_is_killed_leaves_no_process_and_no_mount(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path / "s")],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout and server.stdout.readline() == "up\n"
        until("the job", lambda: processes(b"987654321"))
        server.send_signal(signal.SIGKILL)
        server.wait()
    until("the end of all", lambda: not processes(str(tmp_path).encode(), b"987654321"))
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def processes(*words: bytes) -> list[str]:
    """Those with one of `words` in their command or environment, but for ourselves."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue
        if folder.name != str(os.getpid()) and any(word in text for word in words):
            found.append(folder.name)
    return found

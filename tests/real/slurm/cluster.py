"""A real Slurm on this machine for the tests: Debian's packages, three nodes, and pyxis or our own plugin in its place.

Nothing is in /etc, and all traffic is loopback's. Each node is a `slurmd -N` in namespaces of its own,
like a machine (its host name is n1, n2 …): its end, or ours, ends all that runs on it, and its mounts go with it.

`Cluster.local` is a path that every node has and none shares: a tmpfs of that node's own. All other paths are shared
storage. So a file that a job writes there is on its node alone, `read_local(node, name)` reads it, and what the test
puts there (`write_local`) only that node has: it stands for a disk that the site's other nodes do not see.
A node that is started again has an empty one.

What is to go wrong on a node with the plugin that stands for pyxis, a file there says: `.unpacking`: the container is
being made for as long as the file is there; `.removing`: likewise, for its removal; `.no-pyxis`: there is no plugin;
`.squashfuse`: a TERM to the step ends what holds its root.
With real ones (SLIPWAY_TEST_PYXIS), what needs these is not tested.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from images.bootstrap import debian
from slipway.project import Root

from ..support import PROJECT, Done, Running, until

HERE = Path(__file__).parent
TOOLS = ("munged", "slurmctld", "slurmd", "srun")
BUILDING = ("gcc", "/usr/include/slurm/spank.h")
ACCOUNTING = ("slurmdbd", "mariadbd")
BARE = "bare"  # a node, and its partition
PYXIS = "SLIPWAY_TEST_PYXIS"  # the path of a real spank_pyxis.so, which then takes our plugin's place
stand_in = pytest.mark.skipif(bool(os.environ.get(PYXIS)), reason="only the stand-in of pyxis is told to do that")
ENDED = frozenset(
    {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "DEADLINE"}
)
_TABLES = Path("/usr/share/mysql/mysql_system_tables.sql")
_POLICY = Path("/usr/sbin/policy-rc.d")
_CONFIG = """\
ClusterName=slipway
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
PlugStackConfig={folder}/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_min_interval=0,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=30
SlurmdTimeout=30
TCPTimeout=2
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
{lines}
PartitionName=batch Nodes={batch} Default=YES PriorityTier=1 MaxTime=60 State=UP
PartitionName=urgent Nodes={batch} PriorityTier=10 PreemptMode=OFF MaxTime=60 State=UP
"""
_DATABASE = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoInAddrAny
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
"""

# In a mount namespace of its own: a /dev, below $1, of the machine $2, with $3 GPUs that are as harmless as /dev/null.
DEVICES = """\
mkdir -p "$1/dev/$2"
mount -t tmpfs -o mode=755 none "$1/dev/$2"
for file in /dev/*; do
    if [ -d "$file" ] && [ ! -L "$file" ]; then
        mkdir "$1/dev/$2/${file##*/}"
        mount --rbind "$file" "$1/dev/$2/${file##*/}"
    else
        cp -a "$file" "$1/dev/$2"
    fi
done
for number in $(seq 0 255); do [ -e "$1/dev/$2/loop$number" ] || mknod "$1/dev/$2/loop$number" b 7 "$number"; done
for number in $(seq 1 "$3"); do mknod -m 666 "$1/dev/$2/nvidia$((number - 1))" c 1 3; done
mount --rbind "$1/dev/$2" /dev
"""
# As pid 1, the shell reaps what slurmstepd leaves. Slurm binds the GPUs, and containers see them, as enroot's do.
_NODE = f"""\
{DEVICES}
mount -t tmpfs none "$1/local"
mount -t tmpfs none "$1/container"
mount --bind "$1/hosts" /etc/hosts
[ ! -e /root/.profile ] || mount --bind "$1/profile" /root/.profile
[ ! -d "$1/bin" ] || mount --bind "$1/bin" /usr/local/sbin
echo "$2" >/proc/sys/kernel/hostname
slurmd -D -N "$2" &
wait
"""


@dataclass
class Cluster:
    """A Slurm that runs. `env` is what its commands need in their environment; `nodes` are n1, n2 …, those of `batch`.

    `folder` is shared by all nodes; `local` is not: see the module.
    """

    folder: Path
    nodes: tuple[str, ...]
    env: dict[str, str]
    _slurmds: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def local(self) -> Path:
        return self.folder / "local"

    def call(self, *command: str, **variables: str) -> Done:
        """Runs a command (srun, squeue …) as a user of the cluster would, to its end."""
        return self.start(*command, **variables).finish()

    def start(self, *command: str, **variables: str) -> Running:
        """The same, without waiting. `variables` come on top of an environment that is otherwise clean."""
        env = {"HOME": os.environ.get("HOME", "/root"), "USER": "root"} | self.env | variables
        return Running(list(command), self.folder, env)

    def submit(self, script: str, *options: str, **variables: str) -> str:
        """Submits a batch script; returns the job's id."""
        file = Path(tempfile.mkdtemp(prefix="job-", dir=self.folder)) / "script.sh"
        file.write_text(f"#!/bin/bash\n{script}\n")
        done = self.call("sbatch", "--parsable", f"--output={file.parent}/%j.out", *options, str(file), **variables)
        assert done.code == 0, done
        return done.out.strip()

    def job(self, job: str) -> dict[str, str]:
        """What `scontrol show job` tells of it; empty where it knows nothing."""
        shown = self.call("scontrol", "--oneliner", "show", "job", job).out
        return dict(re.findall(r"(\S+?)=(.*?)(?=\s+[A-Za-z/:_]+=|\s*$)", shown))

    def output(self, job: str) -> str:
        """What the job has written to its StdOut so far."""
        file = Path(self.job(job)["StdOut"])
        return file.read_text() if file.is_file() else ""

    def wait_for_state(self, job: str, *states: str) -> dict[str, str]:
        """Waits until a job is in one of `states`; returns `job`. Fails at once when it has ended in another one."""

        def look() -> dict[str, str]:
            told = self.job(job)
            now = told.get("JobState", "")
            assert now in states or now not in ENDED, f"job {job} is {now}, not {states}: {told}\n{self.output(job)}"
            return told if now in states else {}

        return until(lambda: f"{job} {states}: {self.job(job)}\n{self.log('slurmctld')}", look)

    def wait_for_output(self, job: str, pattern: str) -> re.Match[str]:
        """The first place in the job's output that matches, as soon as it is there; fails when the job ends without."""

        def look() -> re.Match[str] | None:
            told = self.job(job)
            found = re.search(pattern, self.output(job), re.M)
            assert found or told["JobState"] not in ENDED, f"{told}\n{self.output(job)}"
            return found

        found = until(f"{pattern!r} of {job}", look)
        assert found
        return found

    def wait_for_idle(self) -> None:
        """Waits until every node is there, and free."""

        def look() -> bool:
            for name, slurmd in self._slurmds.items():
                assert slurmd.poll() is None, f"{name} has ended: {self.log(f'slurmd.{name}')}"
            states = set(self.call("sinfo", "-h", "-N", "-o", "%N %T").out.splitlines())
            return states == {f"{node} idle" for node in {*self.nodes, *self._slurmds}}

        until("idle nodes", look)

    def run_now(self, job: str) -> dict[str, str]:
        """Lets a requeued job start at once, which Slurm would hold back for two minutes; waits until it has begun.

        A node refuses a start in the very second in which it was told to end the job's last one, and Slurm then holds
        the job: a whole second has to lie between.
        """
        told = self.wait_for_state(job, "PENDING", "RUNNING")
        if told["JobState"] == "PENDING":
            assert self.call("scontrol", "update", f"JobId={job}", "StartTime=now+2").code == 0
        return self.wait_for_state(job, "RUNNING", *ENDED)

    def read_local(self, node: str, name: str) -> str:
        """A file below `local` on a node. Raises FileNotFoundError where only other nodes have it."""
        return self._local(node, name).read_text()

    def write_local(self, node: str, name: str, text: str, mode: int = 0o644) -> None:
        path = self._local(node, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def remove_local(self, node: str, name: str) -> None:
        self._local(node, name).unlink()

    def _local(self, node: str, name: str) -> Path:
        # unshare is in the namespaces that it has made for slurmd.
        return Path(f"/proc/{self._slurmds[node].pid}/root{self.local}/{name}")

    def containers(self, node: str) -> str:
        """What enroot lists on a node, one a line: its containers, and what is left of them."""
        return self.call("srun", "--overlap", f"--nodelist={node}", "enroot", "list").out

    def kill_node(self, node: str) -> None:
        """Ends slurmd and all that runs on the node, as a power cut does; the controller is not told.

        A job that was on it had better go on elsewhere: what the controller then tells the node to end is the job's id,
        and if the node is back by then, it ends the job's next try.
        """
        slurmd = self._slurmds.pop(node)
        slurmd.kill()
        slurmd.wait()

    def kill_nodes(self) -> None:
        for node in list(self._slurmds):
            self.kill_node(node)

    def declare_down(self, node: str) -> None:
        """Tells the controller that a node is dead, which it finds out by itself after SlurmdTimeout."""
        assert self.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test").code == 0

    def restart_node(self, node: str) -> None:
        """Starts a node that was killed; waits until all are idle."""
        self.start_node(node)
        self.wait_for_idle()

    def start_node(self, node: str) -> None:
        spaces = ("--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation=private")
        shell = ("sh", "-ec", _NODE, "sh", str(self.folder), node, _gpus(node).rpartition(":")[2] or "4")
        self._slurmds[node] = self._daemon(f"node-{node}", "unshare", *spaces, *shell)

    def log(self, name: str) -> str:
        """The end of a daemon's log."""
        file = self.folder / f"{name}.log"
        return file.read_text(errors="replace")[-3000:] if file.is_file() else ""

    def _daemon(self, name: str, *command: str, **variables: str) -> subprocess.Popen[bytes]:
        """Starts a program that ends with us, even when we are killed."""
        with (self.folder / f"{name}.out").open("ab") as out:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                env={**self.env, **variables},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )


def interrupt_removal(job: str) -> None:
    """Kills the removal of a job's container, which `.removing` holds, as Slurm does after KillWait."""

    def removals() -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes()
                if b"rm -rf" in words and f"/pyxis_{job}.".encode() in words:
                    found.append(int(folder.name))
        return found

    for pid in until("the removal", removals):
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def running(
    folder: Path,
    accounting: bool = False,
    lines: tuple[str, ...] = (),
    nodes: int = 3,
    bare: bool = False,
    pyxis: str = "",
) -> Iterator[Cluster]:
    """Starts a cluster with all its files in `folder`, and ends it. `lines` go into slurm.conf, before the partitions.

    Partitions: `batch`, the default, and `urgent`, for which jobs of `batch` are requeued. `lines` may set defaults for
    both: `PartitionName=DEFAULT GraceTime=5`. `pyxis`: its arguments in plugstack.conf. With `accounting`, slurmdbd and
    MariaDB run and sacct answers. With `bare`, there is one more node, by itself in the partition `bare`, of which no
    GRES tells what GPUs it has.
    """
    _install(accounting)
    for name in ("state", "spool", "local", "container"):
        (folder / name).mkdir(parents=True)
    names = tuple(f"n{number}" for number in range(1, nodes + 1))
    every = (*names, BARE) if bare else names
    env = {"PATH": debian.search_path(), "SLURM_CONF": str(folder / "slurm.conf"), "LC_ALL": "C"}
    cluster = Cluster(folder, names, env)
    with contextlib.ExitStack() as stack:
        _configure(cluster, every, accounting, lines, pyxis)
        _start(cluster, stack, "munged", *_munged(folder))
        until("munge's socket", (folder / "munge.socket").is_socket)
        if accounting:
            _start_accounting(cluster, stack)
        _start(cluster, stack, "slurmctld", "slurmctld", "-D", "-i")
        until("the controller", lambda: " is UP" in cluster.call("scontrol", "ping").out)
        stack.callback(cluster.kill_nodes)
        for node in every:
            cluster.start_node(node)
        cluster.wait_for_idle()
        yield cluster


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A cluster without accounting, for all tests of this session."""
    with tempfile.TemporaryDirectory(prefix="slipway-slurm-") as name:
        Path(name).chmod(0o755)
        with running(Path(name) / "slurm", bare=True) as cluster:
            yield cluster


@pytest.fixture(scope="session")
def accounted() -> Iterator[Cluster]:
    """One with accounting, whose controller forgets a job two seconds after its end; for all tests of this session."""
    with tempfile.TemporaryDirectory(prefix="slipway-slurm-") as name:
        Path(name).chmod(0o755)
        with running(Path(name) / "slurm", accounting=True, lines=("MinJobAge=2",)) as cluster:
            yield cluster


def _install(accounting: bool) -> None:
    tools = (*TOOLS, *(() if os.environ.get(PYXIS) else BUILDING), *(ACCOUNTING if accounting else ()))
    if not debian.missing(*tools):
        return
    ours = not _POLICY.exists()
    if ours:  # Debian's way to say that a package's services are not to be started
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    try:
        debian.need(Root(PROJECT), print, *tools)
    finally:
        if ours:
            _POLICY.unlink()


def _configure(cluster: Cluster, nodes: tuple[str, ...], accounting: bool, lines: tuple[str, ...], pyxis: str) -> None:
    folder, host = cluster.folder, socket.gethostname().partition(".")[0]
    addresses = ["127.0.0.1", *(f"127.0.0.{11 + n}" for n in range(len(nodes)))]
    port, *ports = _free_ports(addresses)
    own = [
        f"NodeName={n} NodeAddr={a} Port={p} CPUs=4 RealMemory=4000 State=UNKNOWN{_gres(n)}"
        for n, a, p in zip(nodes, addresses[1:], ports, strict=True)
    ]
    _write_gres(folder, nodes)
    if accounting:
        (dbd,) = _free_ports(["127.0.0.1"])
        file = folder / "slurmdbd.conf"
        file.touch(mode=0o600)  # slurmdbd takes no other
        file.write_text(_DATABASE.format(folder=folder, port=dbd))
        own += ["AccountingStorageType=accounting_storage/slurmdbd", f"AccountingStoragePort={dbd}"]
        own += ["AccountingStorageHost=127.0.0.1", f"AccountingStoragePass={folder}/munge.socket"]
    batch, own = ",".join(cluster.nodes), [*own, *lines]
    config = _CONFIG.format(folder=folder, host=host, port=port, lines="\n".join(own), batch=batch)
    if BARE in nodes:
        config += f"PartitionName={BARE} Nodes={BARE} MaxTime=60 State=UP\n"
    (folder / "slurm.conf").write_text(config)
    known = "".join(f"{a} {n}\n" for n, a in zip(nodes, addresses[1:], strict=True))
    (folder / "hosts").write_text(Path("/etc/hosts").read_text() + known)
    (folder / "profile").write_text("export PATH=/from/profile:$PATH LD_LIBRARY_PATH=/from/profile\n")
    (folder / "plugstack.conf").write_text(f"required {_plugin(folder)} {pyxis}\n")


def _gpus(node: str) -> str:
    """Eight of a type that the site names, but four without a type on the third node; of `bare` Slurm knows none."""
    return {"n3": "4", BARE: ""}.get(node, "h100:8")


def _gres(node: str) -> str:
    return f" Gres=gpu:{_gpus(node)}" if _gpus(node) else ""


def _write_gres(folder: Path, nodes: tuple[str, ...]) -> None:
    """Which devices of a node are its GPUs, so that Slurm tells each task which of them it has."""
    lines = []
    for node in filter(_gpus, nodes):
        type_, _, count = _gpus(node).rpartition(":")
        named = f" Type={type_}" if type_ else ""
        lines.append(f"NodeName={node} Name=gpu{named} File=/dev/nvidia[0-{int(count) - 1}]")
    (folder / "gres.conf").write_text("\n".join(["AutoDetect=off", *lines, ""]))


def _plugin(folder: Path) -> str:
    """pyxis where it was named, else our own plugin, compiled."""
    if real := os.environ.get(PYXIS):
        return real
    target, sources = folder / "spank_pyxis.so", [str(HERE / "container.c"), str(HERE / "inside.c")]
    options = ("-shared", "-fPIC", "-O1", "-Wl,-Bsymbolic", "-Wall", "-Wextra", "-Werror")
    subprocess.run(["gcc", *options, "-o", str(target), *sources], check=True)
    standin = shlex.join([sys.executable, "-IS", str(PROJECT / "tests" / "standins" / "enroot.py"), f"{folder}/bin"])
    (folder / "bin").mkdir()
    enroot = folder / "bin" / "enroot"
    # Where the plugin has its containers, as a site's enroot.conf says.
    enroot.write_text(f'#!/bin/sh\nENROOT_DATA_PATH="${{ENROOT_DATA_PATH-{folder}/container}}" exec {standin} "$@"\n')
    enroot.chmod(0o755)
    return f"{target} {folder}/container {folder}/local"


def _munged(folder: Path) -> list[str]:
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    files = {"socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "munged.seed"}
    return ["munged", "-F", "--force", f"--key-file={key}", *(f"--{k}={folder}/{v}" for k, v in files.items())]


def _start_accounting(cluster: Cluster, stack: contextlib.ExitStack) -> None:
    data, address = cluster.folder / "mariadb", cluster.folder / "mariadb.socket"
    data.mkdir()
    options = ["mariadbd", "--no-defaults", f"--datadir={data}", "--user=root", "--skip-grant-tables"]
    # What mariadb-install-db does, which Debian has in a package that starts a service.
    tables = f"create database mysql;\nuse mysql;\n{_TABLES.read_text()}"
    made = subprocess.run([*options, "--bootstrap"], env=cluster.env, input=tables, text=True, capture_output=True)
    assert made.returncode == 0, made.stderr
    options += [f"--socket={address}", "--skip-networking", f"--pid-file={cluster.folder}/mariadb.pid"]
    _start(cluster, stack, "mariadbd", *options, "--innodb-flush-log-at-trx-commit=0")
    until("MariaDB's socket", address.is_socket)
    _start(cluster, stack, "slurmdbd", "slurmdbd", "-D", MYSQL_UNIX_PORT=str(address))
    until("slurmdbd", lambda: cluster.call("sacctmgr", "-i", "add", "cluster", "slipway").code == 0)


def _start(cluster: Cluster, stack: contextlib.ExitStack, name: str, *command: str, **variables: str) -> None:
    daemon = cluster._daemon(name, *command, **variables)
    stack.callback(_end, daemon)


def _end(daemon: subprocess.Popen[Any]) -> None:
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()


def _free_ports(addresses: list[str]) -> list[int]:
    """A free port for each address, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((address, 0))) for address in addresses]
        return [s.getsockname()[1] for s in sockets]

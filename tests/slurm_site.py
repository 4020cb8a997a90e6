"""A Slurm site for the doctor's tests, where all is well: its commands are programs that say it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from helpers import Project

SITE = "slipway.d/profiles/site.yaml"
# As Slurm 22.05 prints it; {T}: the test's folder.
CONFIG = """\
AccountingStorageType   = accounting_storage/slurmdbd
JobRequeue              = 1
KillWait                = 300 sec
MpiDefault              = none
PluginDir               = {T}/plugins
PlugStackConfig         = {T}/plugstack.conf
PreemptMode             = REQUEUE
PreemptType             = preempt/partition_prio
RequeueExit             = (null)
RequeueExitHold         = (null)
TaskProlog              = (null)
UnkillableStepTimeout   = 60 sec
"""
PARTITION = (
    "PartitionName=gpu AllowAccounts=dept,lab AllowQos=ALL Default=YES DefaultTime=01:00:00 GraceTime=300 "
    "MaxTime=1-00:00:00 PriorityTier=1 PreemptMode=REQUEUE State=UP TotalNodes=4\n"
    "PartitionName=urgent AllowAccounts=dept AllowQos=ALL Default=NO MaxTime=1-00:00:00 PriorityTier=10 "
    "PreemptMode=OFF State=UP TotalNodes=4\n"
    "PartitionName=cpu AllowAccounts=ALL AllowQos=ALL Default=NO DefaultTime=NONE MaxTime=UNLIMITED State=DOWN "
    "TotalNodes=1"
)
# What srun tells of pyxis's options.
HELP = """\
      --container-image=[USER@][REGISTRY#]IMAGE[:TAG]|PATH
      --container-mounts=SRC:DST[:FLAGS][,SRC:DST...]
      --container-workdir=PATH
      --container-mount-home  bind mount the user's home directory.
      --no-container-mount-home
      --no-container-remap-root
      --no-container-entrypoint
      --container-env=NAME[,NAME...]"""
# What each command answers, by the beginning of its words.
ANSWERS = {
    "sbatch": {"": "slurm 22.05.8"},
    "scontrol": {
        "ping": "Slurmctld(primary) at head is UP",
        "show config": CONFIG,
        "--oneliner show partition": PARTITION,
        "--oneliner show reservation week": "ReservationName=week",
    },
    "srun": {
        "--help": HELP,
        "--mpi=list": "MPI plugin types are...\n\tnone\n\tpmi2\n\tpmix",
    },
    "sinfo": {
        "--noheader --format=%R": "gpu\ncpu",
        "--noheader --format=%D %G": "4 gpu:h100:8",
        "--noheader --Node --format=%N %R": "n1 gpu\nn1 urgent\nn2 gpu\nn2 urgent\nn9 cpu",
    },
    "sacctmgr": {"": "dept|normal,high\nlab|normal"},
    "sacct": {"": ""},
    "enroot": {"version": "4.1.2"},
}
# A probe job in which both nodes see what this machine has.
PROBE = 'PATH=/usr/bin:/bin; while [ "$1" != bash ]; do shift; done; for n in n1 n2; do SLURMD_NODENAME=$n "$@"; done'


def say(project: Project, name: str, answers: dict[str, str], otherwise: str = "exit 1") -> None:
    cases = "".join(f'"{words}"*) cat <<"END"\n{text}\nEND\n;;\n' for words, text in answers.items())
    cases = cases.replace("{T}", str(project.path.parent))
    project.program(name, f'case "$*" in\n{cases}*) {otherwise};;\nesac')


@pytest.fixture
def site(project: Project, tmp_path: Path) -> Project:
    """A site where all is well, with a profile that asks for all that can be looked at."""
    for name, answers in ANSWERS.items():
        say(project, name, answers, PROBE if name == "srun" else "exit 1")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "spank_pyxis.so").write_bytes(b"\x7fELF\0pyxis: version v0.24.0\0")
    (tmp_path / "plugstack.conf").write_text("required spank_pyxis.so runtime_path=/run/pyxis\n")
    cat = shutil.which("cat")
    project.program("cat", f'exec {cat} "$@"')
    (tmp_path / "shared" / "squash").mkdir(parents=True)
    lines = [
        "schema: 1",
        "kind: slurm",
        "account: dept",
        "partition: gpu",
        "qos: high",
        "reservation: week",
        "time: 02:00:00",
    ]
    lines += [f"shared: [{tmp_path}/shared]", f"squash: {tmp_path}/shared/squash", f"runs: {tmp_path}/shared/runs"]
    project.write(SITE, "\n".join([*lines, "mount_wait: 1", ""]))
    return project


def seen(project: Project, *words: str, name: str = "site") -> tuple[int, list[str]]:
    """The exit code, and the lines with single spaces; sizes and folders as G and T.

    How full this machine's disk is says nothing: a folder of the test's own is `ok` whatever room it has.
    """
    done = project.launch("profiles", "doctor", name, *words)
    text = done.stdout.replace(str(project.path.parent), "T")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    lines = [" ".join("G" if w.isdigit() and w2 == "GiB" else w for w, w2 in pair(line)) for line in lines]
    return done.code, [
        re.sub(r"^warning (.* T.*, G GiB free); an image takes about G GiB$", r"ok \1", x) for x in lines
    ]


def pair(line: str) -> list[tuple[str, str]]:
    words = line.split(" ")
    return list(zip(words, [*words[1:], ""], strict=True))

"""slipway/fabric.py, and the same file as a program beside the entrypoint: which network NCCL says it took.

The lines are NCCL's and its plugins' own, of several releases, as users have reported them; hosts are made up.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import REPO

from slipway import fabric

PROGRAM = REPO / "entrypoints" / "fabric.py"
# What a process writes -> what it uses.
LOGS: dict[str, tuple[str, set[str]]] = {
    "2.4, sockets": (
        """n1:45385:45385 [0] NCCL INFO NET/Socket : Using [0]ens3:10.0.0.1<0>
n1:45385:45385 [0] NCCL INFO NET/Plugin : No plugin found (libnccl-net.so).
n1:45385:45385 [0] NCCL INFO NET/IB : No device found.
NCCL version 2.4.7+cuda9.2""",
        {"tcp"},
    ),
    "2.4, InfiniBand": (
        """n1:20:289 [0] NCCL INFO NET/Socket : Using [0]ib0:10.0.0.1<0>
n1:20:289 [0] NCCL INFO NET/Plugin : No plugin found (libnccl-net.so).
n1:20:289 [0] NCCL INFO NCCL_IB_DISABLE set by environment to 0.
n1:20:289 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB ; OOB ib0:10.0.0.1<0>""",
        {"ib"},
    ),
    "2.4, libfabric over TCP": (
        """n1:25604:25604 [0] NCCL INFO NET/Socket : Using [0]eth0:10.0.0.1<0>
n1:25604:25604 [0] NCCL INFO NET/OFI Selected Provider is tcp;ofi_rxm""",
        {"tcp;ofi_rxm"},
    ),
    "2.18, sockets": (
        """n1:391:566 [0] NCCL INFO NCCL_IB_DISABLE set by environment to 1.
n1:391:566 [0] NCCL INFO NCCL_SOCKET_IFNAME set to lo
n1:391:566 [0] NCCL INFO NET/Socket : Using [0]lo:127.0.0.1<0>
n1:391:566 [0] NCCL INFO Using network Socket""",
        {"tcp"},
    ),
    "2.19, RoCE": (
        """n1:460770:460842 [0] NCCL INFO NET/IB : Using [0]mlx5_10:1/RoCE [1]mlx5_11:1/RoCE [RO]; OOB eno1:10.0.0.1<0>
n1:460770:460842 [0] NCCL INFO Using non-device net plugin version 0
n1:460770:460842 [0] NCCL INFO Using network IB""",
        {"roce"},
    ),
    "2.18, HPC-X over InfiniBand": (
        """n1:49355:49414 [1] NCCL INFO P2P plugin IBext
n1:49355:49414 [1] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB/SHARP [1]mlx5_1:1/IB/SHARP [RO]; OOB ibp25s0:10.0.0.1<0>
n1:49355:49414 [1] NCCL INFO Using network IBext""",
        {"ib"},
    ),
    "2.25, EFA": (
        """n1:6831:6840 [0] NCCL INFO NET/OFI Selected Provider is efa (found 16 nics)
n1:6831:6840 [0] NCCL INFO NET/OFI Creating one domain per process
n1:6831:6840 [0] NCCL INFO PROFILER/Plugin: Could not find: libnccl-profiler.so.
n1:6831:6840 [0] NCCL INFO Using network Libfabric""",
        {"efa"},
    ),
    "2.7, EFA": (
        """n1:31:71 [0] NCCL INFO NET/OFI Selected Provider is efa
n1:31:71 [0] NCCL INFO Using network AWS Libfabric""",
        {"efa"},
    ),
    "2.30, devices found and another plugin taken": (
        """n1:5:9 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [RO]; OOB eth0:10.0.0.1<0>
n1:5:9 [0] NCCL INFO Failed to initialize NET plugin IB
n1:5:9 [0] NCCL INFO NET/Socket : Using [0]eth0:10.0.0.1<0>
n1:5:9 [0] NCCL INFO Initialized NET plugin Socket
n1:5:9 [0] NCCL INFO Assigned NET plugin Socket to comm""",
        {"tcp"},
    ),
    "2.30, a plugin that is not known": ("n1:5:9 [0] NCCL INFO Assigned NET plugin Falcon to comm", {"Falcon"}),
    "nothing yet": ("n1:5:9 [0] NCCL INFO cudaDriverVersion 12040", set()),
    "not NCCL's": ("step 1: Using network Socket", set()),
}


@pytest.mark.parametrize("name", LOGS)
def test_what_a_process_uses_is_what_nccl_says_last(name: str) -> None:
    text, used = LOGS[name]
    assert fabric.transports(text.splitlines()) == used


@pytest.mark.parametrize(
    ("wanted", "used", "text"),
    [
        ("ib", {"ib"}, ""),
        ("ib", set(), ""),
        ("ib", {"ib", "roce"}, ""),  # storage's, for example
        ("ib", {"Falcon"}, ""),
        ("ib", {"tcp"}, "expected InfiniBand, NCCL used sockets on n2"),
        ("ib", {"ib", "tcp"}, "expected InfiniBand, NCCL used InfiniBand and sockets on n2"),
        ("roce", {"ib"}, "expected RoCE, NCCL used InfiniBand on n2"),
        ("efa", {"tcp"}, "expected EFA, NCCL used sockets on n2"),
        ("tcp", {"tcp"}, ""),
        ("tcp", {"ib"}, ""),
    ],
)
def test_a_node_that_took_another_network_is_named(wanted: str, used: set[str], text: str) -> None:
    assert fabric.sentence(wanted, {"n1": {wanted}, "n2": used}) == text


def test_a_file_is_of_its_host() -> None:
    assert (fabric.host("nccl.gpu-1.example.77"), fabric.host("nccl.77"), fabric.host("versions.json")) == (
        "gpu-1.example", "", "",
    )  # fmt: skip


def run(folder: Path, nodes: dict[str, str], network: Any, number: int = 2) -> subprocess.CompletedProcess[str]:
    """The program, as it is shipped, over what NCCL wrote on some nodes (a name of LOGS), two processes on each."""
    state, plan = folder / "state", folder / "plan.json"
    state.mkdir()
    for node, name in nodes.items():
        for pid in (11, 12):
            (state / f"nccl.{node}.{pid}").write_text(LOGS[name][0])
    plan.write_text(json.dumps({"profile": {"network": network}, "shape": {"nodes": number}}))
    command = [sys.executable, "-I", str(PROGRAM), f"--plan={plan}", f"--state={state}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


IB = {"fabric": "ib", "fallback": "refuse"}


@pytest.mark.parametrize(
    ("nodes", "network", "code", "said"),
    [
        ({"n1": "2.4, InfiniBand", "n2": "2.4, InfiniBand"}, IB, 0, ""),
        ({"n1": "2.4, InfiniBand", "n2": "2.18, sockets"}, IB, 75, "NCCL used sockets on n2; "),
        ({"n1": "2.18, sockets", "n2": "2.18, sockets"}, IB, 78, "NCCL used sockets on n1 n2; "),
        ({"n1": "2.18, sockets"}, IB, 75, "NCCL used sockets on n1; "),
        ({"n1": "2.18, sockets"}, IB | {"fallback": "warn"}, 0, "NCCL used sockets on n1; "),
        ({"n1": "nothing yet"}, IB, 0, ""),
        ({"n1": "2.18, sockets"}, None, 0, ""),
        ({"n1": "2.18, sockets"}, "ib0", 0, ""),
    ],
)
def test_the_program_says_in_one_line_where(
    tmp_path: Path, nodes: dict[str, str], network: Any, code: int, said: str
) -> None:
    done = run(tmp_path, nodes, network)
    assert (done.returncode, done.stdout) == (code, ""), done
    lines = done.stderr.splitlines()
    assert len(lines) == bool(said)
    assert all(line.startswith("network: expected InfiniBand, ") and said in line for line in lines), lines

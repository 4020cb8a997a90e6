"""entrypoints/allreduce.py with the torch of a cpu image, over Gloo: processes of one container stand for nodes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .support import PROJECT, Tree

pytestmark = pytest.mark.real

# Starts a program per node, as in nodes.json (rank -> more variables, or none for one that does not come), and writes
# down how each has ended. The first node's port is this script's to find.
DRIVER = """\
import json, os, socket, subprocess, sys
asked = json.load(open("nodes.json"))
with socket.create_server(("127.0.0.1", 0)) as s:
    port = s.getsockname()[1]
base = [sys.executable, "allreduce.py", "--nodes=2", "--procs=2", "--head=127.0.0.1", f"--port={port}",
        "--names=n1 n2", f"--seconds={asked['seconds']}", "--bad=bad"]
started = {rank: subprocess.Popen([*base, f"--rank={rank}"], env={**os.environ, **env}, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
           for rank, env in asked["nodes"].items()}
ended = {rank: [p.communicate(), p.returncode] for rank, p in started.items()}
json.dump({rank: [code, *told] for rank, (told, code) in ended.items()}, open("ended.json", "w"))
"""


@dataclass
class Nodes:
    """Two nodes of two processes each, which may not all come."""

    tree: Tree
    folder: Path

    def reduce(self, seconds: int, **nodes: dict[str, str]) -> dict[str, list[Any]]:
        """Rank -> exit code, stdout, stderr of each that comes, with more variables; `r0` is the first."""
        asked = {"seconds": seconds, "nodes": {rank.removeprefix("r"): env for rank, env in nodes.items()}}
        (self.folder / "nodes.json").write_text(json.dumps(asked))
        (self.folder / "driver.py").write_text(DRIVER)
        (self.folder / "allreduce.py").write_bytes((PROJECT / "entrypoints" / "allreduce.py").read_bytes())
        script = f"cd {self.folder} && python driver.py"
        words = ("--flavour", "cpu", "--mount", str(self.folder), "--", "bash", "-c", script)
        done = self.tree.images("run", "automodel", *words)
        assert done.code == 0, done
        return dict(json.loads((self.folder / "ended.json").read_text()))

    @property
    def bad(self) -> str:
        file = self.folder / "bad"
        return file.read_text() if file.exists() else ""


@pytest.fixture
def nodes(project: Tree, place: Path) -> Nodes:
    return Nodes(project, place)


def test_all_ranks_have_the_sum_of_all(nodes: Nodes) -> None:
    first, second = nodes.reduce(120, r0={}, r1={}).values()
    assert (first[0], second[0], nodes.bad) == (0, 0, ""), (first, second)
    assert first[1].startswith("all-reduce of 64 MiB over 4 ranks on 2 nodes: ") and first[1].endswith(" GB/s (bus)\n")
    assert second[1] == ""


def test_a_node_that_does_not_come_is_named(nodes: Nodes) -> None:
    (first,) = nodes.reduce(20, r0={}).values()
    assert first[0] == 75 and "all-reduce of 2 nodes: node n2 did not come to the all-reduce" in first[2], first
    assert nodes.bad == "n2 did not come to the all-reduce\n"


def test_a_first_node_that_does_not_come_is_named(nodes: Nodes) -> None:
    (second,) = nodes.reduce(5, r1={}).values()
    assert second[0] == 75 and "all-reduce: n2 does not reach the first node, n1, at 127.0.0.1:" in second[2], second


def test_a_node_that_cannot_join_is_named_on_all(nodes: Nodes) -> None:
    first, second = nodes.reduce(60, r0={}, r1={"GLOO_SOCKET_IFNAME": "nowhere0"}).values()
    assert (first[0], second[0]) == (75, 75), (first, second)
    assert all("all-reduce of 2 nodes: node n2 RuntimeError: " in told[2] for told in (first, second)), (first, second)
    assert nodes.bad.startswith("n2 RuntimeError: ") and nodes.bad.count("\n") == 1

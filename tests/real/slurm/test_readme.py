"""The README's launch on a cluster, as it stands there, with its profile: on four nodes of eight GPUs, to its end.

Its text is changed in two places: /lustre is a folder of the test's, and the limit that `setup` asks for is the highest
that this machine allows. The third of five nodes has four GPUs alone.
"""

from __future__ import annotations

import dataclasses
import os
import re
import resource
import runpy
import shlex
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support import PROJECT, Run, Tree
from ..test_every_step import PARQUET, Case, assert_as_planned, planned, processes_of, write_bridge, write_model
from .cluster import Cluster, running

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons and containers need root here"),
]
CASE = Case(
    "", {"data.train": "read.packed_train_data_path"}, {"validation.eval_interval": None, "validation.eval_iters": 0}
)


@pytest.fixture(scope="module")
def five() -> Iterator[Cluster]:
    """A cluster of five nodes, whose partition lets a job run for the README's four hours."""
    with tempfile.TemporaryDirectory(prefix="slipway-slurm-") as name:
        Path(name).chmod(0o755)
        with running(Path(name) / "slurm", nodes=5) as cluster:
            assert cluster.call("scontrol", "update", "PartitionName=batch", "MaxTime=UNLIMITED").code == 0
            yield cluster


def block(beginning: str, folder: Path) -> str:
    """The README's indented block that begins so, as it can run here."""
    readme = (PROJECT / "README.md").read_text()
    found = re.search(rf"(?:^|\n\n)((?: {{4}}{re.escape(beginning)}.*\n)(?: {{4}}.*\n)*)", readme)
    assert found, beginning
    highest = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    limit = "unlimited" if highest == resource.RLIM_INFINITY else str(highest // 1024)
    text = textwrap.dedent(found[1]).replace("/lustre", str(folder))
    return text.replace("ulimit -l unlimited", f"ulimit -l {limit}")


@pytest.fixture
def site(five: Cluster, gpu_project: Tree, place: Path) -> Iterator[Tree]:
    """The project with the README's profile, and what its launch names; the image is where the profile says."""
    profiles = gpu_project.path / "slipway.d" / "profiles"
    profiles.mkdir(parents=True, exist_ok=True)
    (profiles / "site.yaml").write_text(block("schema: 1", place))
    (place / "packed").mkdir()
    (place / "me" / "huggingface").mkdir(parents=True)
    runpy.run_path(str(PARQUET))["write"](place / "packed" / "training_2048.idx.parquet", 256)
    (place / "packed" / "2048_metadata.jsonl").write_text('[{"pack_size": 2048}]')
    write_bridge(place / "base", None)
    write_model(place / "llama")
    done = gpu_project.images("squash", "megatron-bridge/26.06.01-cuda", "--dir", f"{place}/me/squash")
    assert done.code == 0, done
    env = {k: v for k, v in gpu_project.env.items() if k not in ("SLIPWAY_RUNS", "HF_HOME")} | five.env
    made = dataclasses.replace(gpu_project, runs=place / "me" / "runs", env=env | {"HF_TOKEN": "ahoy"}, _started=[])
    yield made
    five.call("scancel", "--user=root")
    made.end_all()
    (profiles / "site.yaml").unlink()


def test_the_launch_on_four_nodes(site: Tree, five: Cluster, place: Path) -> None:
    program, *words = shlex.split(block("launch --profile site", place).replace("\\\n", ""))
    submitted = site.launch(*words)
    assert (program, submitted.code) == ("launch", 0), submitted
    run = Run(site.runs / submitted.out.strip())
    job = five.wait_for_state((run.path / "job").read_text().strip(), "COMPLETED")
    shown = site.launch("show", run.id)
    logs = "".join(path.read_text() for path in sorted((run.path / "logs").glob("*.log")))
    assert run.ended == (0, "step") and "\nstate      done\n" in shown.out, f"{shown}\n{logs}"
    asked = {"Account": "nemotron", "Comment": "nemotron", "TimeLimit": "04:00:00", "NumNodes": "4"}
    assert {key: job[key] for key in asked} == asked and job["TresPerNode"] == "gres:gpu:8"
    (ranks,) = processes_of(Path(run.outcome["checkpoint"])).values()
    assert [(r["rank"], r["local_rank"], r["world_size"]) for r in ranks] == [(n, n % 8, 32) for n in range(32)]
    assert [r["host"] for r in ranks] == [node for node in ("n1", "n2", "n4", "n5") for _ in range(8)]
    assert {tuple(r["gpus"]) for r in ranks} == {tuple("01234567")}
    assert {r["environ"]["NCCL_SOCKET_IFNAME"] for r in ranks} == {"=ib0"}
    assert_as_planned(planned(run.record["plan"]["config"]), ranks[0]["config"], None, CASE)
    model = ranks[0]["config"]["model"]
    assert (model["tensor_model_parallel_size"], ranks[0]["config"]["train"]["global_batch_size"]) == (4, 128)

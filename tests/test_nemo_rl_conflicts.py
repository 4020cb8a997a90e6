"""The tables of what NeMo RL refuses (launcher/steps/rl/nemo_rl/conflicts): each row by its own example.

NEMO_RL_SOURCE names a git repository of NeMo RL with its tags; then the library's own check is tried on the configuration
of each example, at each release. docs/nemo-rl-conflicts.md is made of the tables:
SLIPWAY_ACCEPT=1 pytest tests/test_nemo_rl_conflicts.py
"""

from __future__ import annotations

import functools
import json
import math
import os
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import pytest
from helpers import REPO, Done, Project, SpecOf, write_chat_model
from library_checks import Anything, Found, Settings, find
from rl import RELEASES, ROOT, STEPS, Launch, launch, lock, step_of, usual
from test_golden import compare
from test_presets import loaded

from images.building.identity import BaseFile
from images.locking import lock as locks
from launcher.artifacts.detection import Artifact
from launcher.catalog import commands, conflicts, definitions
from launcher.catalog.conflicts import Condition, Conflict
from launcher.planning.checks import config_values, nemo_rl
from slipway import resolver
from slipway.resolver import Mark

SOURCE = os.environ.get("NEMO_RL_SOURCE", "")
TABLES = sorted((REPO / "launcher/steps/rl/nemo_rl/conflicts").glob("*.yaml"))


def rows() -> dict[str, Conflict]:
    """Every row, as the step of its example has it."""
    found: dict[str, Conflict] = {}
    for name in STEPS:
        for key, row in conflicts.table(ROOT, step_of(f"rl/nemo_rl/{name}")).items():
            if row.example.step == f"rl/{name}" and ", " not in key:
                found[key] = row
    return found


ROWS = rows()


def holds(row: Conflict, release: str) -> bool:
    return commands.fits(step_of(row.example.step), row.when, lock().entries[f"nemo-rl/{release}-cuda"])


CASES = [(name, release) for name, row in ROWS.items() for release in RELEASES if holds(row, release)]
SAID = {(row.what, release) for name, release in CASES for row in [ROWS[name]]}
OTHERS = [(n, r) for n, row in ROWS.items() for r in RELEASES if (row.what, r) not in SAID]


def example(spec_of: SpecOf, row: Conflict, release: str, passes: bool = False, **changes: Any) -> Launch:
    """The launch of a row's example, or of its neighbour that passes."""
    said, words = row.example, row.example.words
    if passes and said.passes is None:
        said = msgspec.structs.replace(said, without=[], model="", gpus=8)
    elif passes:
        words = said.passes or []
    step = said.step.removeprefix("rl/")
    given = [described(a, said.model) for a in usual(step) if a.name not in said.without]
    env = {} if passes else dict(e.split("=", 1) for e in said.env)
    return launch(spec_of, step, release, given, *words, **({"gpus": said.gpus, "procs": said.gpus, "env": env} | changes))


def described(artifact: Artifact, architecture: str) -> Artifact:
    if artifact.type != "checkpoint_hf" or not architecture:
        return artifact
    experts: dict[str, str | int] = {"experts": 8} if "Moe" in architecture else {}
    return msgspec.structs.replace(artifact, facts=artifact.facts | {"architecture": architecture} | experts)


def of(planned: Launch, row: Conflict) -> list[Any]:
    return [f for f in planned.findings if f"refuses it: {row.what}" in f.what]


@pytest.mark.parametrize(("name", "release"), CASES)
def test_the_example_is_refused_and_its_neighbour_passes(spec_of: SpecOf, name: str, release: str) -> None:
    row = ROWS[name]
    (found,) = of(example(spec_of, row, release), row)
    assert (found.severity, found.remedy) == (row.severity, row.remedy)
    assert found.code == (0 if row.severity == "warning" else found.code) and found.code in (0, 64, 78)
    passed = example(spec_of, row, release, passes=True)
    assert [f for f in passed.findings if f.severity == "error"] == []
    assert of(passed, row) == []


@pytest.mark.parametrize(("name", "release"), OTHERS)
def test_a_release_without_the_check_does_not_refuse(spec_of: SpecOf, name: str, release: str) -> None:
    assert of(example(spec_of, ROWS[name], release), ROWS[name]) == []


@functools.cache
def read(release: str, path: str) -> str:
    """A file of the library at a tag; empty where it has none."""
    done = subprocess.run(["git", "-C", SOURCE, "show", f"{release}:{path}"], capture_output=True, check=False)
    return done.stdout.decode()


@functools.cache
def base_of(release: str, path: str) -> BaseFile:
    """What an image's record says of a base configuration."""
    return BaseFile(values=loaded(SOURCE, release, PurePosixPath(*PurePosixPath(path).parts[3:])))


def real(spec_of: SpecOf, row: Conflict, release: str, passes: bool = False) -> Launch:
    """The example on the base that the release has."""
    path = commands.base_config(step_of(row.example.step), lock().entries[f"nemo-rl/{release}-cuda"])["path"]
    return example(spec_of, row, release, passes, in_image=base_of(release, path))


def configuration(planned: Launch) -> Any:
    """What the library will read, with references to other keys as their values."""
    found: dict[str, Any] = {}
    for key, leaf in resolver.leaves(planned.spec.config.root):
        node: Any = found
        *above, last = key.split(".")
        for name in above:
            node = node.setdefault(name, {})
        said = config_values.said_of(planned.spec.config, key)
        node[last] = leaf.value if isinstance(said, Mark) else resolver.plain(said)
    return Settings.of(found)


def known(planned: Launch, path: str) -> dict[str, Any]:
    """What the names in a check of that file stand for, in a run of that launch."""
    config, spec = configuration(planned), planned.spec
    policy, parts = config.policy, Settings()
    settings = config_values.settings(spec)
    training = nemo_rl.training_gpus(spec, settings)
    sizes = config_values.sizes(spec, settings) or {}
    generating = training
    if settings.get("colocated") is False:
        generating = settings.get("generation_gpus", 0) * (spec.nodes > 1 and settings.get("generation_nodes", 0) or 1)
    machine, torch, cluster = Anything(), Anything(), Anything()
    machine.environ = dict(spec.env)
    cluster.world_size = lambda: generating if "vllm" in path else training
    parts |= {"os": machine, "torch": torch, "cluster": cluster, "world_size": training}
    parts["dp_size"] = training // math.prod(sizes.values()) if sizes else training
    parts |= {"cast": lambda _type, value: value, "filtered_prompts_size": 0, "train_prompts_size": 1}
    parts |= {"master_config": config, "config": config, "checkpointing_cfg": config.checkpointing}
    rows = "validation" in planned.seen.artifacts or (config.data.train or Settings()).split_validation_size
    parts["val_dataset"] = parts["val_dataloader"] = Anything() if rows else None
    if "/models/" in path:
        parts["config"] = parts["policy_cfg"] = parts["self.cfg"] = policy.generation if "/vllm/" in path else policy
        parts["vllm_cfg"] = (policy.generation or Settings()).vllm_cfg
        parts["dtype"] = parts["self.dtype"] = getattr(torch, str(policy.precision))
        parts["optimizer_cfg"] = policy.megatron_cfg.optimizer
        parts["self.megatron_cfg"] = policy.megatron_cfg
    if path.endswith("automodel/setup.py"):
        dtensor = policy.dtensor_cfg
        parts |= {"tp_size": dtensor.tensor_parallel_size, "cp_size": dtensor.context_parallel_size}
        parts |= {"sequence_parallel_enabled": dtensor.sequence_parallel, "cpu_offload": dtensor.cpu_offload}
        parts["runtime_config.enable_seq_packing"] = policy.sequence_packing.enabled
    return parts


def checks(row: Conflict, release: str) -> list[Found]:
    """The library's checks that the row is of."""
    reading = functools.partial(read, release)
    return [c for path in row.source.files if read(release, path) for c in find(path, row.source.says, reading)]


def refusing(row: Conflict, release: str, planned: Launch) -> list[str]:
    """Those of them that refuse the launch, in files that a launch with its backend runs."""
    policy = configuration(planned).policy
    second = policy.dtensor_cfg._v2 is True
    backend = {"megatron": policy.megatron_cfg.enabled, "dtensor": policy.dtensor_cfg.enabled}
    told = []
    for check in checks(row, release):
        path = check.name.partition(":")[0]
        if "megatron" in path and backend["megatron"] is not True:
            continue
        of_second = path.endswith(("worker_v2.py", "automodel/setup.py"))
        if (of_second or "dtensor" in path) and (backend["dtensor"] is not True or of_second is not second):
            continue
        if check.refuses(known(planned, path)):
            told.append(check.name)
    return told


def tagged(release: str) -> None:
    if not SOURCE:
        pytest.skip("NEMO_RL_SOURCE names no repository of NeMo RL")
    if not read(release, "nemo_rl/models/policy/lm_policy.py"):
        pytest.skip(f"{SOURCE} has no tag {release}")


@pytest.mark.parametrize(("name", "release"), CASES)
def test_the_library_refuses_the_example_and_not_its_neighbour(spec_of: SpecOf, name: str, release: str) -> None:
    tagged(release)
    row = ROWS[name]
    if row.source.judged:
        assert any(row.source.says in read(release, path) for path in row.source.files)
        return
    refused, passed = real(spec_of, row, release), real(spec_of, row, release, passes=True)
    assert len(of(refused, row)) == 1 and of(passed, row) == []
    assert checks(row, release), f"nothing says {row.source.says!r} at {release}"
    if not row.source.only_said:
        assert refusing(row, release, refused) != []
        assert refusing(row, release, passed) == []


@pytest.mark.parametrize(("name", "release"), OTHERS)
def test_the_library_takes_the_example_at_other_releases(spec_of: SpecOf, name: str, release: str) -> None:
    tagged(release)
    row = ROWS[name]
    planned = real(spec_of, row, release)
    if not any("refuses it: " in f.what for f in planned.findings):  # by another row, of that release
        assert (checks(row, release) if row.source.only_said else refusing(row, release, planned)) == []


# Through the command line.


def spoken(project: Project, folder: Path, row: Conflict, release: str, passes: bool = False) -> Done:
    """A dry run of the row's example, or of its neighbour that passes, on a cluster."""
    said, words = row.example, row.example.words
    if passes and said.passes is None:
        said = msgspec.structs.replace(said, without=[], model="", gpus=8)
    elif passes:
        words = said.passes or []
    inputs = [f"{a.name}={written(folder, a, said.model)}" for a in usual(said.step.removeprefix("rl/"))
              if a.name not in said.without]  # fmt: skip
    env = [] if passes else [w for variable in said.env for w in ("--env", variable)]
    shape = ("--gpus", str(said.gpus), "--release", release)
    return project.launch("--profile", "slurm-pyxis", said.step, *inputs, *words, *env, *shape, "--dry-run")


def written(folder: Path, artifact: Artifact, architecture: str) -> Path:
    """Such an input on the disk."""
    if artifact.type != "checkpoint_hf":
        path = folder / f"{artifact.name}.{artifact.type}.jsonl"
        turns = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]
        row = {
            "chat_jsonl": {"messages": turns},
            "prompt_jsonl": {"input": "1+1", "output": "2", "task_name": "math"},
            "preference_jsonl": {"prompt": "1+1", "chosen": "2", "rejected": "3"},
        }[artifact.type]
        path.write_text(f"{json.dumps(row)}\n" * 8)
        return path
    path = folder / f"{artifact.name}{architecture}"
    if not path.exists():
        write_chat_model(path)
        config = {"architectures": [architecture or "LlamaForCausalLM"]}
        (path / "config.json").write_text(json.dumps(config | ({"num_experts": 8} if "Moe" in architecture else {})))
    return path


def newest(row: Conflict) -> str:
    return next(release for release in reversed(RELEASES) if holds(row, release))


@pytest.mark.parametrize("name", ROWS)
def test_a_launch_is_refused_and_its_neighbour_is_not(project: Project, tmp_path: Path, name: str) -> None:
    row, release = ROWS[name], newest(ROWS[name])
    refused = spoken(project, tmp_path, row, release)
    assert refused.code in (64, 78) or row.severity == "warning", refused
    assert f"nemo-rl/{release}-cuda refuses it: {row.what}" in refused.stderr, refused.stderr
    assert f"  {row.remedy}\n" in refused.stderr
    passed = spoken(project, tmp_path, row, release, passes=True)
    assert "refuses it" not in passed.stderr, passed.stderr
    told = [line for line in passed.stderr.splitlines() if line.startswith("error: ") and "image of" not in line]
    assert told == [], passed.stderr

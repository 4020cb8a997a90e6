"""entrypoints/read_types.py: which keys the types of a library name, by its sources."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import REPO, entry_of

from images.building import configurations
from images.building.identity import Classes
from images.locking import lock as locks
from images.locking.model import Configurations, Environment
from launcher.planning.checks import known_keys
from slipway.project import Root
from slipway.resolver import Leaf, Section

SOURCE = os.environ.get("NEMO_RL_SOURCE", "")
TAGS = ("v0.4.0", "v0.5.0", "v0.6.0", "v0.7.0")
ALGORITHMS = ("grpo", "dpo", "rm", "sft", "distillation")

WHOLE = """
from __future__ import annotations
from typing import TypedDict
from lib.parts import Policy, Steps as Renamed

class MasterConfig(TypedDict):
    policy: Policy
    steps: Renamed | None
    free: dict[str, int]
"""
PARTS = """
import sys
if sys.version_info >= (3, 11):
    from typing import Annotated, Any, Literal, NotRequired, Optional, TypedDict, Union
raise RuntimeError("whoever imports this needs a GPU")

class Off(TypedDict):
    enabled: Literal[False]

class On(Off):
    size: NotRequired["int"]

Either = Union[On, Off]

class Policy(TypedDict):
    name: str
    packing: NotRequired[Either]
    generation: Generation
    optimizer: Optional[Optimizer]
    either: Union[On, dict[str, Any]]
    precise: Annotated[float, "of one"]

class Generation(TypedDict):
    backend: str

class Vllm(Generation):
    tensor: int

class Optimizer(TypedDict):
    name: str

class Steps(TypedDict, total=False):
    most: int
"""
USES = """
def train(config, wandb: Steps):
    if "unnamed" in config["policy"]:
        make(**config["policy"]["optimizer"])
    return config.get("steps", {}).get("rarely")
"""
EXAMPLE = "policy:\n  size: 3\n  packing: {size: 1}\nshipped: 1\n"


def sources(tree: Path) -> Path:
    for name, text in (("whole", WHOLE), ("parts", PARTS), ("uses", USES), ("broken", "def (")):
        (tree / "lib").mkdir(parents=True, exist_ok=True)
        (tree / "lib" / f"{name}.py").write_text(text)
    (tree / "lib" / "__init__.py").touch()
    (tree / "examples").mkdir()
    (tree / "examples" / "base.yaml").write_text(EXAMPLE)
    return tree


def read(tree: Path, *names: str, said: list[str] | None = None) -> Classes:
    """As a build asks an image, whose Python this machine's stands for."""
    main = Environment(python=sys.executable, packages={})
    wish = Configurations(tree=str(tree), types=[*names])
    entry = entry_of(environments={"main": main}, configurations=wish)
    told = configurations.read_classes(
        Root(REPO), entry, lambda words: configurations.run(words, dict(os.environ)), (said or []).append
    )
    assert told is not None
    return told


def section(values: dict[str, Any]) -> Section:
    return Section({k: section(v) if isinstance(v, dict) else Leaf(v, "") for k, v in values.items()}, "")


def strange(classes: Classes, whole: str, values: dict[str, Any]) -> dict[str, str]:
    return {s.key: s.remedy for s in known_keys.strange_keys(classes, whole, section(values), {})}


def test_types_are_read_from_sources_that_cannot_be_imported(tmp_path: Path) -> None:
    found = read(sources(tmp_path), "lib.whole.MasterConfig")
    assert found.why == {} and found.targets == {"lib.whole.MasterConfig": "lib.whole.MasterConfig"}
    whole, policy = found.known["lib.whole.MasterConfig"], found.known["lib.parts.Policy"]
    assert whole.keys == {"policy": ["lib.parts.Policy"], "steps": ["lib.parts.Steps"], "free": []}
    assert policy.keys == {
        "name": [], "packing": ["lib.parts.On", "lib.parts.Off"], "either": [], "precise": [],
        "generation": ["lib.parts.Generation", "lib.parts.Vllm"], "optimizer": ["lib.parts.Optimizer"],
    }  # fmt: skip
    assert policy.plain == ["name", "precise"] and policy.mapping and not policy.open
    assert found.known["lib.parts.On"].keys == {"enabled": [], "size": []}
    assert [name for name, taken in found.known.items() if taken.open] == ["lib.parts.Optimizer"]
    assert {"unnamed", "rarely", "shipped", "policy.size"} <= {*found.read} and "size" not in found.read


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"policy": {"nme": 1}}, {"policy.nme": "did you mean 'name'?"}),
        ({"policy": {"packing": {"sze": 1}}}, {"policy.packing.sze": "did you mean 'size'?"}),
        ({"policy": {"generation": {"tensr": 1}}}, {"policy.generation.tensr": "did you mean 'tensor'?"}),
        ({"policy": {"name": {"x": 1}}}, {"policy.name": ""}),
        ({"steps": {"size": 1}}, {"steps.size": "known: most"}),  # a key of another type
        ({"policy": {"packing": {"size": 1}, "generation": {"backend": "x", "tensor": 2}}}, {}),
        ({"policy": {"unnamed": 1, "size": 2}, "steps": {"rarely": 1, "shipped": {"any": 1}}}, {}),
        ({"policy": {"optimizer": {"anything": 1}, "either": {"any": 1}}, "free": {"any": 1}, "other": {"x": 1}}, {}),
    ],
)
def test_what_no_type_names_and_nothing_reads_is_found(
    tmp_path: Path, values: dict[str, Any], found: dict[str, str]
) -> None:
    classes = read(sources(tmp_path), "lib.whole.MasterConfig")
    assert strange(classes, "lib.whole.MasterConfig", values) == found


def test_a_class_that_is_not_there_is_said_and_hides_no_other(tmp_path: Path) -> None:
    said: list[str] = [""]
    found = read(sources(tmp_path), "lib.absent.MasterConfig", "lib.whole.MasterConfig", "lib.broken.X", said=said)
    assert [*found.targets] == ["lib.whole.MasterConfig"]
    assert found.why["lib.absent.MasterConfig"].endswith(f"there is no such class below {tmp_path}")
    assert "invalid syntax" in found.why["lib.broken.X"] and len(said) == 3
    assert strange(found, "lib.absent.MasterConfig", {"policy": {"nme": 1}}) == {}


# NEMO_RL_SOURCE names a git repository of NeMo RL with its tags; nothing of it is kept here.


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Classes]]:
    """The sources at a tag, and what is read of them."""
    made: dict[str, tuple[Path, Classes]] = {}

    def at(tag: str) -> tuple[Path, Classes]:
        if tag not in made:
            tree = tmp_path_factory.mktemp(tag)
            command = ["git", "-C", SOURCE, "archive", tag, "nemo_rl", "examples"]
            archive = subprocess.run(command, check=True, capture_output=True).stdout
            with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
                opened.extractall(tree, filter="data")
            made[tag] = tree, read(tree, *(f"nemo_rl.algorithms.{a}.MasterConfig" for a in ALGORITHMS))
        return made[tag]

    return at


def shipped(tree: Path) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """Every configuration of the library's examples, by the algorithm that it is for."""
    for file in sorted((tree / "examples" / "configs").rglob("*.yaml")):
        values = yaml.safe_load(file.read_text())
        named = [a for a in ALGORITHMS if a in values or file.name.startswith(f"{a}-")]
        if named:
            yield named[0], file, values


@pytest.mark.skipif(not SOURCE, reason="NEMO_RL_SOURCE names no repository of NeMo RL")
@pytest.mark.parametrize("tag", TAGS)
def test_nothing_that_nemo_rl_ships_is_called_unknown(library: Any, tag: str) -> None:
    """The library is right: a key of any of its own examples is one that it knows."""
    tree, classes = library(tag)
    assert classes.why == {}
    files = list(shipped(tree))
    assert len(files) > 60
    wrong = {f.name: s for a, f, v in files if (s := strange(classes, f"nemo_rl.algorithms.{a}.MasterConfig", v))}
    assert wrong == {}


@pytest.mark.skipif(not SOURCE, reason="NEMO_RL_SOURCE names no repository of NeMo RL")
@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize(
    ("algorithm", "key", "nearest"),
    [
        ("grpo", "grpo.mx_num_steps", "max_num_steps"),
        ("grpo", "policy.train_globl_batch_size", "train_global_batch_size"),
        ("grpo", "policy.generation.vllm_cfg.gpu_memory_utilisation", "gpu_memory_utilization"),
        ("distillation", "teacher.megatron_cfg.tensor_model_paralel_size", "tensor_model_parallel_size"),
        ("dpo", "dpo.reference_policy_kl_penlty", "reference_policy_kl_penalty"),
        ("rm", "rm.val_periods", "val_period"),
        ("sft", "policy.dtensor_cfg.tensor_parallel", "tensor_parallel_size"),
        ("sft", "cluster.num_node", "num_nodes"),
        ("sft", "logger.log_dirs", "log_dir"),
    ],
)
def test_what_nemo_rl_would_take_without_a_word_is_found(
    library: Any, tag: str, algorithm: str, key: str, nearest: str
) -> None:
    values: Any = 1
    for part in reversed(key.split(".")):
        values = {part: values}
    found = strange(library(tag)[1], f"nemo_rl.algorithms.{algorithm}.MasterConfig", values)
    assert found == {key: f"did you mean {nearest!r}?"}


def test_every_entry_of_nemo_rl_that_a_step_runs_in_names_the_types_of_each_algorithm() -> None:
    for entry in locks.load_lock(Root(REPO)).entries.values():
        if entry.library == "nemo-rl" and entry.configurations:
            wanted = {f"nemo_rl.algorithms.{a}.MasterConfig" for a in ALGORITHMS}
            assert ({*entry.configurations.types}, entry.configurations.tree) == (wanted, "/opt/nemo-rl"), entry.name

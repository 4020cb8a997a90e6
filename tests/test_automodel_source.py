"""What AutoModel's steps write, read by each release's own loader, and held against the classes that get it.

AUTOMODEL_SOURCE names a git repository of AutoModel with its tags; without it nothing is compared, and nothing of it is
kept here. Nothing of the library is imported but its loader: what a configuration names is looked up in the sources.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from helpers import REPO
from test_automodel_releases import BASES, Containers, containers  # noqa: F401 - a fixture

from images.locking import lock as locks
from launcher.catalog import definitions, releases
from slipway.project import Root

sys.path.insert(0, str(REPO / "entrypoints" / "steps"))

import automodel_finetune
import automodel_pretrain
import slipway_step

SOURCE = os.environ.get("AUTOMODEL_SOURCE", "")
TAGS = {"25.11.00": "v0.2.0", "26.02": "v0.3.0", "26.04": "v0.4.0", "26.06": "v0.5.0"}
OTHERS = ("torch", "torchdata", "transformers", "transformer_engine")  # which the containers have, and this test not
DATA = "nemo_automodel.components.datasets.llm"
# Sections without a `_target_`, and what gets their keys; beside those that the recipe takes out for itself.
GETS = {
    "step_scheduler": "nemo_automodel.components.training.step_scheduler.StepScheduler",
    "lr_scheduler": "nemo_automodel.components.optim.scheduler.OptimizerParamScheduler",
    "checkpoint": "nemo_automodel.components.checkpoint.checkpointing.CheckpointingConfig",
}
TAKEN_OUT = {"checkpoint": {"restore_from"}, "dataloader": {"shuffle", "dataloader_type"}}
# Whose keys a user may set, by their section: what another release takes is refused.
CLASSES = {
    "sft/automodel": {"dataset": f"{DATA}.chat_dataset.ChatDataset"},
    "peft/automodel": {
        "dataset": f"{DATA}.chat_dataset.ChatDataset",
        "peft": "nemo_automodel.components._peft.lora.PeftConfig",
    },
    "pretrain/automodel": {"dataset": f"{DATA}.megatron_dataset.MegatronPretraining"},
}
pytestmark = pytest.mark.skipif(not SOURCE, reason="AUTOMODEL_SOURCE names no repository of AutoModel")


class Named(NamedTuple):
    """What a configuration names, and which keywords it takes; all where it takes any."""

    path: str
    takes: frozenset[str] | None


class Tree:
    """The library's sources at a tag."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        file = folder / "nemo_automodel" / "components" / "config" / "loader.py"
        spec = importlib.util.spec_from_file_location(f"loader_of_{folder.name.replace('.', '_')}", file)
        assert spec is not None and spec.loader is not None
        self.loader: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.loader)
        self.loader._resolve_target = lambda named: self.find(named) if isinstance(named, str) else named

    def find(self, dotted: str) -> Named:
        """What a dotted path leads to. Raises LookupError where it leads nowhere at this tag."""
        parts = dotted.split(".")
        if parts[0] in OTHERS:
            return Named(dotted, None)
        for cut in range(len(parts) - 1, 0, -1):
            if (module := self.module(parts[:cut])) is not None:
                return Named(dotted, self.takes(module, parts[cut:], dotted))
        raise LookupError(dotted)

    def module(self, parts: list[str]) -> ast.Module | None:
        path = self.folder.joinpath(*parts)
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        return ast.parse(file.read_text()) if file.is_file() else None

    def takes(self, module: ast.Module, names: list[str], dotted: str) -> frozenset[str] | None:
        """The keywords of a function, of a class, or of one of its methods."""
        own = {n.name: n for n in module.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
        if names[0] not in own:
            for at in imported(module, names[0]):
                return self.find(".".join([at, *names])).takes
            raise LookupError(dotted)
        node = own[names[0]]
        if len(names) == 2:
            return keywords(method(own, names[0], names[1], dotted))
        if isinstance(node, ast.FunctionDef):
            return keywords(node)
        init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        fields = [n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
        return keywords(init) if init else frozenset(fields)


def imported(module: ast.Module, name: str) -> Iterator[str]:
    """Modules from which a package brings a name: at once, or when it is asked for."""
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module and name in {a.name for a in node.names}:
            yield node.module
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == name and isinstance(value, ast.Tuple):
                    yield ast.literal_eval(value)[0]


def method(own: dict[str, Any], of: str, name: str, dotted: str) -> ast.FunctionDef:
    """A class's method, or that of a base in the same module."""
    for node in own[of].body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    for base in own[of].bases:
        if isinstance(base, ast.Name) and base.id in own:
            return method(own, base.id, name, dotted)
    raise LookupError(dotted)


def keywords(node: ast.FunctionDef) -> frozenset[str] | None:
    names = {a.arg for a in [*node.args.args, *node.args.kwonlyargs]} - {"self", "cls"}
    return None if node.args.kwarg else frozenset(names)


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tree]:
    """Release -> the sources that its container holds."""
    at, found = tmp_path_factory.mktemp("automodel"), {}
    for release, tag in TAGS.items():
        packed = subprocess.run(
            ["git", "-C", SOURCE, "archive", tag, "nemo_automodel", "examples"], capture_output=True, check=True
        )
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
            tar.extractall(at / tag, filter="data")
        found[release] = Tree(at / tag)
    return found


@pytest.fixture(params=TAGS)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=BASES)
def step(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def written(containers: Containers, tree: Tree, step: str, release: str, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: F811
    """What the step program gives to the library, of a launch that goes on from a checkpoint."""
    folder = containers.folder / "plan"
    done = containers.dry(step, release, "-c", "tiny", "--gpus", "2", "-o", str(folder))
    assert done.code == 0, done.stderr
    text = (folder / "plan.json").read_text()
    for mount in json.loads(text)["mounts"]:
        if mount["target"].startswith("/inputs/") and mount["target"].endswith((".bin", ".idx")):
            text = text.replace(mount["target"].rpartition(".")[0], mount["source"].rpartition(".")[0])
        elif mount["target"].startswith("/inputs/"):
            text = text.replace(mount["target"], mount["source"])
    config = json.loads(text.replace("/opt/Automodel", str(tree.folder)))["config"]
    monkeypatch.setattr(slipway_step, "goes_on", lambda _: True)
    merged, number = slipway_step.merge_config(config), tuple(int(n) for n in TAGS[release][1:].split(".")[:2])
    if step.startswith("pretrain"):
        merged = automodel_pretrain.prepare(merged, number)  # type: ignore[arg-type]
    return automodel_finetune.as_before(merged, number)  # type: ignore[arg-type]


def sections(config: dict[str, Any], tree: Tree, above: str = "") -> Iterator[tuple[str, set[str], Named]]:
    """Every mapping whose keys become the keywords of something: its name, its keys, and that."""
    for name, value in config.items():
        if isinstance(value, dict):
            target = value.get("_target_") or (GETS.get(name) if not above else None)
            if target:
                yield f"{above}{name}", set(value) - {"_target_"}, found_of(tree, target)
            yield from sections(value, tree, f"{above}{name}.")


def found_of(tree: Tree, target: str) -> Named:
    """CheckpointingConfig has moved: to config.py beside its old module, in 0.5."""
    try:
        return tree.find(target)
    except LookupError:
        return tree.find(target.replace(".checkpointing.", ".config."))


def test_what_is_written_is_what_the_release_reads(
    containers: Containers,  # noqa: F811
    trees: dict[str, Tree],
    step: str,
    release: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own loader reads it, all that it names is there at the tag, and takes every key that it gets."""
    tree = trees[release]
    config = written(containers, tree, step, release, monkeypatch)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    loaded = tree.loader.load_yaml_config(str(file))
    assert isinstance(loaded.model._target_, Named) and loaded.checkpoint.checkpoint_dir == "/output"
    wrong = {}
    for name, keys, found in sections(config, tree):
        rest = keys - TAKEN_OUT.get(name.removeprefix("validation_"), set())
        rest -= {"load_base_model"} if (name, release) == ("checkpoint", "25.11.00") else set()
        if found.takes is not None and (unknown := rest - found.takes):
            wrong[f"{name}: {found.path}"] = sorted(unknown)
    assert wrong == {}, "keys that the release's own class does not take"
    assert ("recipe" in config) == (release not in ("25.11.00", "26.02"))
    assert ("_target_" in config["distributed"]) == (release == "25.11.00") != ("strategy" in config["distributed"])


def test_what_only_later_classes_take_is_refused(trees: dict[str, Tree], step: str, release: str) -> None:
    root = Root(REPO)
    entry = locks.load_lock(root).entries[f"automodel/{release}-cuda"]
    at = releases.at_release(definitions.find_step(root, step), entry)
    refused = {key for keys in at.refuses.values() for key in keys}
    later = list(trees)[list(trees).index(release) :]
    for section, target in {**GETS, **CLASSES[step]}.items():
        takes = [found_of(trees[r], target).takes or frozenset() for r in later]
        lacking = frozenset().union(*takes) - takes[0]
        assert {f"{section}.{key}" for key in lacking} <= refused, (release, section)
        said = {key.removeprefix(f"{section}.") for key in refused if key.startswith(f"{section}.")}
        assert not said & takes[0], f"{release} takes what is refused of {section}"


def test_a_key_that_a_class_lacks_is_noticed(trees: dict[str, Tree]) -> None:
    """So that the comparison can fail."""
    old, new = trees["25.11.00"], trees["26.04"]
    target = f"{DATA}.chat_dataset.ChatDataset"
    assert "skip_invalid_samples" not in (old.find(target).takes or ()) and "split" in (old.find(target).takes or ())
    assert "skip_invalid_samples" in (new.find(target).takes or ())
    with pytest.raises(LookupError):
        old.find("nemo_automodel.cli.app.main")
    assert old.find("nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained").takes is None

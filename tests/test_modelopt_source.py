"""What the programs of Model Optimizer ask of it, beside its sources at the tags that the containers hold.

MODELOPT_SOURCE names a git repository of Model Optimizer with its tags; without it nothing is compared, and nothing of
it is kept here. Nothing of the library is imported: what is asked for is looked up in the syntax of its files.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import REPO, write_checkpoint
from packaging.specifiers import SpecifierSet

from images.locking import lock as locks
from images.locking.model import Entry
from launcher.catalog import commands, definitions, releases
from slipway.errors import SlipwayError
from slipway.project import Root

sys.path.insert(0, str(REPO / "entrypoints" / "steps"))

import modelopt_minitron
import modelopt_quantize

SOURCE = os.environ.get("MODELOPT_SOURCE", "")
ROOT = Root(REPO)
# Tags of what a container holds; two where its versions are told differently.
TAGS = {
    "25.11": ["0.37.0", "0.39.0"], "26.02": ["0.41.0"], "26.04": ["0.43.0rc4"], "26.04.01": ["0.44.0rc1"],
    "26.06": ["0.44.0rc5"], "26.06.01": ["0.44.0rc5"], "26.08.01": ["0.46.0rc1"],
}  # fmt: skip
QUANTIZE, DISTILL, PRUNE = (f"optimize/modelopt/{name}" for name in ("quantize", "distill", "prune"))
HUGGING_FACE = "modelopt/torch/distill/plugins/huggingface.py"
pytestmark = pytest.mark.skipif(not SOURCE, reason="MODELOPT_SOURCE names no repository of Model Optimizer")


def text(tag: str, path: str) -> str:
    command = ["git", "-C", SOURCE, "show", f"{tag}:{path}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def defined(tag: str, path: str) -> dict[str, ast.stmt]:
    """The names that a file's top level defines."""
    found: dict[str, ast.stmt] = {}
    for node in ast.parse(text(tag, path)).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = node
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        found |= {t.id: node for t in targets if isinstance(t, ast.Name)}
    return found


def keywords(node: Any, method: str = "") -> set[str]:
    """Of a function, or of a class's method; empty where it has none of its own."""
    if method:
        node = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == method), None)
    return {a.arg for a in [*node.args.args, *node.args.kwonlyargs]} if node else set()


def entry_of(release: str) -> Entry:
    return locks.load_lock(ROOT).entries[f"modelopt/{release}-cuda"]


def runs(step: str, release: str) -> bool:
    try:
        commands.choose_command(definitions.find_step(ROOT, step), entry_of(release))
    except SlipwayError:
        return False
    return True


def test_every_release_of_the_lock_is_compared() -> None:
    entries = locks.load_lock(ROOT).entries
    cuda = {e.release: e.components["nvidia-modelopt"] for e in entries.values() if e.name.startswith("modelopt/")
            and e.flavour == "cuda"}  # fmt: skip
    assert cuda.keys() == TAGS.keys()
    for release, tags in TAGS.items():
        assert all(SpecifierSet(cuda[release]).contains(tag, prereleases=True) for tag in tags), release
        entry = entry_of(release)
        command = ["git", "-C", SOURCE, "rev-parse", f"{entry.components['modelopt']}^{{commit}}"]
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        assert commit == entry.repositories["modelopt"].commit, release


@pytest.mark.parametrize("release", TAGS)
def test_the_formats_are_those_that_the_release_has_and_exports(release: str) -> None:
    step = releases.at_release(definitions.find_step(ROOT, QUANTIZE), entry_of(release))
    refused = {key.partition("=")[2] for keys in step.refuses.values() for key in keys}
    lacking = []
    for tag in TAGS[release]:
        known = defined(tag, "modelopt/torch/quantization/config.py")
        exported = defined(tag, "modelopt/torch/export/model_config.py")
        missing = {name for name, asked in modelopt_quantize.FORMATS.items() if asked.config not in known}
        # The exporter knows a layer by its quantizers' bits and blocks: without a name of its own mxfp8 is fp8_pb_wo.
        lacking.append(missing | ({"mxfp8"} if "QUANTIZATION_MXFP8" not in exported else set()))
    assert set.intersection(*lacking) == refused
    assert set.union(*lacking) - refused <= ({"int8_wo"} if release == "25.11" else set())


@pytest.mark.parametrize("release", TAGS)
def test_quantizing_calls_what_is_there(release: str) -> None:
    assert runs(QUANTIZE, release)
    for tag in TAGS[release]:
        quantize = defined(tag, "modelopt/torch/quantization/model_quant.py")["quantize"]
        assert [a.arg for a in quantize.args.args][:3] == ["model", "config", "forward_loop"]  # type: ignore[attr-defined]
        export = defined(tag, "modelopt/torch/export/unified_export_hf.py")["export_hf_checkpoint"]
        assert {"model", "dtype", "export_dir"} <= keywords(export)
        assert "hf_quant_config.json" in text(tag, "modelopt/torch/export/unified_export_hf.py")
        for package, module in (
            ("quantization", "config"),
            ("quantization", "model_quant"),
            ("export", "unified_export_hf"),
        ):
            assert f"from .{module} import *" in text(tag, f"modelopt/torch/{package}/__init__.py")


@pytest.mark.parametrize("release", TAGS)
def test_distilling_is_for_those_releases_whose_trainer_leaves_out_what_is_not_learned(release: str) -> None:
    for tag in TAGS[release]:
        found = defined(tag, HUGGING_FACE)
        takes = keywords(found["KDTrainer"], "__init__")
        masks = "IGNORE" in text(tag, HUGGING_FACE)
        assert runs(DISTILL, release) == (masks and bool(takes & {"distill_config", "distill_args"})), tag
        if not runs(DISTILL, release):
            continue
        if "distill_config" in takes:
            assert "temperature" in keywords(found["LMLogitsLoss"], "__init__")
            model = defined(tag, "modelopt/torch/distill/distillation.py") | defined(
                tag, "modelopt/torch/distill/distillation_model.py"
            )
            assert {"export", "DistillationModel"} <= model.keys()
        else:
            fields = {n.target.id for c in ("DistillArguments", "DistillArgsWithTeacherModel")
                      for n in found[c].body if isinstance(n, ast.AnnAssign)}  # type: ignore[attr-defined]  # fmt: skip
            assert {"teacher_model", "temperature"} <= fields and "_teacher_prepared" in text(tag, HUGGING_FACE)


@pytest.mark.parametrize("release", [r for r in TAGS if r >= "26.06"])
def test_minitrons_script_takes_every_word_that_it_is_told(release: str, tmp_path: Path, monkeypatch: Any) -> None:
    assert runs(PRUNE, release)
    tag = str(entry_of(release).components["modelopt"])  # the repository's, of which the script is taken
    model = write_checkpoint(tmp_path / "model")
    (model / "config.json").write_text('{"num_hidden_layers": 36}')
    monkeypatch.setenv("WORLD_SIZE", "8")
    config = {"calibration": {"samples": 8, "seq_length": 64}}
    told = modelopt_minitron.arguments(config, model, tmp_path / "out", {"num_layers": 32}, tmp_path / "rows.jsonl")
    known = set(re.findall(r'"(--\w+)"', text(tag, modelopt_minitron.SCRIPT)))
    assert {word for word in told if word.startswith("--")} <= known
    required = re.findall(r'add_argument\(\s*"(--\w+)"[^)]*required=True', text(tag, modelopt_minitron.SCRIPT))
    assert set(required) <= set(told)


def test_a_difference_is_noticed() -> None:
    """So that the comparison can fail."""
    assert "INT8_WEIGHT_ONLY_CFG" not in defined("0.37.0", "modelopt/torch/quantization/config.py")
    assert "distill_config" not in keywords(defined("0.46.0rc1", HUGGING_FACE)["KDTrainer"], "__init__")
    assert keywords(defined("0.39.0", HUGGING_FACE)["KDTrainer"], "__init__") == set()

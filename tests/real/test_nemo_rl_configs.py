"""What the steps of NeMo RL make of each release's own examples, read by that release's own functions in the image.

NEMO_RL_SOURCE=DIR: a git repository of NeMo RL (bare or not) with its tags, else a tree of v0.7.0; nothing of it is
kept here.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers import REPO, script
from rl import FLAT, RELEASES, ROOT, STEPS, launch, usual

from launcher.catalog import profiles
from launcher.core.plan import LaunchSpec
from launcher.planning import configuration

pytestmark = pytest.mark.real
SOURCE = os.environ.get("NEMO_RL_SOURCE", "")
NEEDED = ("examples", "nemo_rl/utils/config.py")
PROGRAM = REPO / "tests" / "real" / "nemo_rl_configs.py"
IMAGE_REPOSITORY = "/opt/nemo-rl"
WORDS = ((), ("backend=megatron",))


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Release -> its examples and its configuration loader."""
    if not SOURCE:
        pytest.skip("NEMO_RL_SOURCE names no tree of NeMo RL (a git repository with tags, or v0.7.0)")
    at = tmp_path_factory.mktemp("trees")
    git = subprocess.run(["git", "-C", SOURCE, "tag"], capture_output=True, text=True, check=False)
    tags = [r for r in RELEASES if r in git.stdout.split()]
    for tag in tags:
        (at / tag).mkdir()
        packed = subprocess.run(["git", "-C", SOURCE, "archive", tag, *NEEDED], capture_output=True, check=True)
        subprocess.run(["tar", "x", "-C", at / tag], input=packed.stdout, check=True)
    return {tag: at / tag for tag in tags} or {"v0.7.0": Path(SOURCE)}


@pytest.fixture(scope="module")
def made(trees: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """`step release words` -> what was asked for, resolved, and the base."""
    root = tmp_path_factory.mktemp("plans")
    wishes = {}
    for release, tree in trees.items():
        for name in STEPS:
            for words in WORDS:
                planned = launch(spec, name, release, usual(name), *words)
                folder = root / f"{name} {release} {' '.join(words)}".strip()
                folder.mkdir()
                (folder / "tree").symlink_to(tree)
                text = json.dumps(planned.plan.config).replace(IMAGE_REPOSITORY, str(tree))
                (folder / "plan.json").write_text(text)
                wishes[folder.name] = planned
    command = [script("images"), "run", "nemo-rl", "--flavour", "cpu", "--mount", str(root), "--mount", str(REPO)]
    command += [w for tree in sorted({t.parent for t in trees.values()}) for w in ("--mount", str(tree))]
    command += ["/opt/nemo_rl_venv/bin/python", str(PROGRAM), str(REPO / "entrypoints" / "steps"), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPO)
    assert done.returncode == 0, done.stderr[-3000:]
    return {n: (w, *(load(root / n / f"{f}.json") for f in ("resolved", "base"))) for n, w in wishes.items()}


def spec(**changes: Any) -> LaunchSpec:
    facts = {"profile": profiles.find_profile(ROOT, "docker"), "nodes": 1, "env": {}, "resume": False}
    made = LaunchSpec(**(facts | {"allow_drift": False, "lock_checksum": "c" * 64} | changes))
    return configuration.resolved(made, {name: f"/inputs/{name}" for name in made.words.inputs})


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def at(config: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def test_the_release_itself_reads_what_is_made(made: dict[str, Any]) -> None:
    assert len(made) >= len(STEPS) * len(WORDS)
    for name, (planned, resolved, _) in made.items():
        for key, value in planned.config.items():
            if not key.startswith("deadline") and not str(value).startswith("${"):
                assert at(resolved, key) == value, (name, key)


def test_every_key_that_is_set_is_one_the_example_has_or_that_its_documentation_adds(made: dict[str, Any]) -> None:
    added = {
        "data.train_data_path", "data.val_data_path", "data.train.data_path", "data.validation.dataset_name",
        "data.validation.data_path", "data.train.split_validation_size", "data.chat_key", "data.system_key",
        "data.system_prompt", "data.tool_key", "data.use_preserving_dataset",
    }  # fmt: skip
    for name, (planned, _, base) in made.items():
        unknown = [key for key in planned.config if key not in added and not has(base, key)]
        assert unknown == [], name


def has(config: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(config, dict) or part not in config:
            return False
        config = config[part]
    return True


def test_the_presets_are_what_the_examples_say(made: dict[str, Any]) -> None:
    for name, (planned, _, base) in made.items():
        for key, value in planned.spec.step.presets.items():
            try:
                assert at(base, key) == value, (name, key)
            except KeyError:
                assert value in (False, None), (name, key)  # what the library takes a missing key for


def test_nothing_of_the_hub_is_left_where_files_are_given(made: dict[str, Any]) -> None:
    for name, (_, resolved, _) in made.items():
        data = resolved["data"]
        sections = [data] if any(r in name for r in FLAT) else [data["train"], data["validation"]]
        for section in sections:
            assert section["dataset_name"] in ("ResponseDataset", "BinaryPreferenceDataset", "openai_format"), name
            assert section.get("split", None) in ("train", None), name


def test_the_backend_is_one(made: dict[str, Any]) -> None:
    for name, (_, resolved, _) in made.items():
        megatron = "backend=megatron" in name
        policy = resolved["policy"]
        assert (policy["dtensor_cfg"]["enabled"], policy["megatron_cfg"]["enabled"]) == (not megatron, megatron), name

"""What steps state of a base configuration in an image, beside that file at the release's tag.

AUTOMODEL_SOURCE and NEMO_RL_SOURCE name git repositories of the libraries with their tags; without them nothing is
compared.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml
from helpers import REPO

from images.locking import lock as locks
from launcher.catalog import commands, definitions, releases
from slipway.project import Root

ROOT = Root(REPO)
REPOSITORY = {"automodel": ("AUTOMODEL_SOURCE", "nemo-automodel"), "nemo-rl": ("NEMO_RL_SOURCE", "nemo-rl")}
# Not every base has them; what the library takes then, by its sources at those tags.
DEFAULTS = {"distributed.pp_size": 1, "model.torch_dtype": "auto", "policy.dtensor_cfg._v2": False}
REFERENCE = re.compile(r"\$\{(\.*)([\w.]+)\}")


def stated() -> list[tuple[str, str]]:
    """Steps and releases whose base is in the image, and of which something is stated."""
    entries, found = locks.load_lock(ROOT).entries, []
    for step in definitions.all_steps(ROOT):
        for name, entry in entries.items():
            if step.library in REPOSITORY and name.startswith(f"{step.library}/") and name.endswith("-cuda"):
                takes = any(commands.fits(step, c.when, entry) for c in step.commands)
                if takes and releases.at_release(step, entry).presets:
                    found.append((step.id, name))
    return found


def loaded(source: str, tag: str, path: PurePosixPath) -> dict[str, Any]:
    """A configuration over those that its `defaults` name."""
    done = subprocess.run(["git", "-C", source, "show", f"{tag}:{path}"], capture_output=True, text=True, check=True)
    config = yaml.safe_load(done.stdout)
    below: dict[str, Any] = {}
    given = config.pop("defaults", [])
    for name in [given] if isinstance(given, str) else given:
        below = merged(below, loaded(source, tag, PurePosixPath(os.path.normpath(path.parent / name))))
    return merged(below, config)


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {
        k: merged(below[k], above[k]) for k in below if isinstance(below[k], dict) and isinstance(above.get(k), dict)
    }
    return {**below, **above, **both}


def value(config: dict[str, Any], key: str, said: Any = ...) -> Any:
    """What a key has (`said`: instead of its own), where it names another key that one's; ... where it is absent."""
    if said is ...:
        said = config
        for part in key.split("."):
            said = said.get(part, ...) if isinstance(said, dict) else ...
    if not isinstance(said, str) or not (match := REFERENCE.fullmatch(said)):
        return said
    above = key.split(".")[: -len(match[1])] if match[1] else []
    return value(config, ".".join([*above, match[2]]))


@pytest.mark.parametrize(("name", "entry_name"), stated())
def test_presets_are_what_the_base_says_at_its_tag(name: str, entry_name: str) -> None:
    entry, step = locks.load_lock(ROOT).entries[entry_name], definitions.find_step(ROOT, name)
    variable, component = REPOSITORY[step.library]
    if not (source := os.environ.get(variable)):
        pytest.skip(f"{variable} names no repository of {step.library}")
    version = str(entry.components[component]).removeprefix("==")
    tags = subprocess.run(["git", "-C", source, "tag"], capture_output=True, text=True, check=True).stdout.split()
    release = entry_name.partition("/")[2].removesuffix("-cuda")  # NeMo RL's v0.5.0 calls itself 0.5.0rc0
    if not (tag := next((t for t in (release, f"v{version}") if t in tags), "")):
        pytest.skip(f"{source} has no tag of {component} {version}")
    path = PurePosixPath(commands.base_config(step, entry)["path"])
    base = loaded(source, tag, PurePosixPath(*path.parts[3:]))  # below /opt/NAME
    presets = releases.at_release(step, entry).presets
    found = {key: value(base, key) for key in presets}
    wrong = {k: (v, found[k]) for k, v in presets.items() if found[k] != value(base, k, v)}
    assert {k: both for k, both in wrong.items() if both != (DEFAULTS.get(k), ...)} == {}, "stated, and in the base"


def test_a_value_may_be_another_keys() -> None:
    config = {"a": {"b": {"c": "${...x}", "d": "${.e}", "e": 2}}, "x": 1, "y": "${a.b.d}"}
    assert [value(config, k) for k in ("a.b.c", "a.b.d", "y", "z")] == [1, 2, 2, ...]

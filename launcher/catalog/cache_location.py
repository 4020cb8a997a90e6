"""NRL_MEGATRON_CHECKPOINT_DIR: where NeMo RL keeps models that it has converted for Megatron. Pure.

Its own key for a local model is the path (nemo_rl/models/policy/utils.py and community_import.py, v0.4.0 to v0.7.0);
inputs stand in containers under their fingerprints, so the path changes with the content. The libraries' versions are
in no key of its own: they are a folder here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from images.locking.model import Entry
from slipway.yamldoc import Noun

NAME = "NRL_MEGATRON_CHECKPOINT_DIR"
TARGET = "/cache/megatron"


class MegatronCache(Noun, frozen=True, kw_only=True):
    """`path`: the host's folder for these libraries; `rule`: what chose it."""

    path: str
    rule: str


def choose(
    option: str | None, profile: str | None, environ: Mapping[str, str], hf_home: str, entry: Entry
) -> MegatronCache:
    """What `home` says, and in it the folder of these libraries."""
    folder, rule = home(option, profile, environ, hf_home)
    return MegatronCache(path=str(folder / key(entry)), rule=rule)


def home(option: str | None, profile: str | None, environ: Mapping[str, str], hf_home: str) -> tuple[Path, str]:
    """The first that is set and not blank: command line, profile, this shell's variable, HF_HOME, the usual place."""
    named = [
        (option, "--megatron-cache"),
        (profile, "the profile's megatron_cache"),
        (environ.get(NAME), f"{NAME} of this shell"),
        (f"{hf_home}/nemo_rl" if environ.get("HF_HOME", "").strip() else None, "HF_HOME"),
        ("~/.cache/huggingface/nemo_rl", "the usual place"),
    ]
    folder, rule = next((path.strip(), rule) for path, rule in named if path and path.strip())
    return Path(folder).expanduser().absolute(), rule


def key(entry: Entry) -> str:
    """`<release>-<Megatron-Core>-<Megatron-Bridge>`: what another version converts is another conversion."""
    versions = (entry.components.get(name, "unknown") for name in ("megatron-core", "megatron-bridge"))
    return "-".join([entry.release, *(re.sub(r"[^\w.+]+", "_", version) for version in versions)])


def folder(path: str) -> str:
    """NeMo RL's own name for a model at `path` in the container (nemo_rl/models/megatron/setup.py and before it)."""
    return f"model_{path.replace('/', '_')}"

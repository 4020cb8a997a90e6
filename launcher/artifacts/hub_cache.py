"""Names on the Hugging Face hub (hf://…), and the cache below HF_HOME that holds snapshots of them. No network here."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from slipway.errors import Exit, SlipwayError

_NAME = r"[A-Za-z0-9][\w.-]*"
_ID = re.compile(
    rf"hf://(?:(?P<kind>models|datasets)/)?(?!(?:models|datasets|spaces|kernels|buckets)/)(?P<repo>{_NAME}/{_NAME})"
    r"(?:@(?P<revision>refs/(?:pr/\d+|convert/[\w.-]+)|[^/@]+))?(?:/(?P<below>[^@]+))?",
    re.ASCII,
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PLACE = re.compile(
    r"(?P<repository>(?:.*/)?(?P<kind>models|datasets)--(?P<repo>[^/]+--[^/]+))"
    r"/snapshots/(?P<commit>[0-9a-f]{40})(?:/(?P<below>.+))?"
)
# The same weights once more for other programs; a folder without safetensors keeps what PyTorch reads.
_PICKLED = ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt")
_FOREIGN = ("*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "*.gguf", "*.ot", "*.tflite", "*.mlmodel")


@dataclasses.dataclass(frozen=True)
class HubId:
    """`below`: a file, folder or pattern in the repository `repo`; empty = all of it."""

    kind: str
    repo: str
    revision: str
    below: str = ""

    def __str__(self) -> str:
        prefix = "" if self.kind == "models" else f"{self.kind}/"
        revision = self.revision if self.revision.startswith("refs/") else self.revision.replace("/", "%2F")
        return f"hf://{prefix}{self.repo}@{revision}" + (f"/{self.below}" if self.below else "")

    @property
    def is_commit(self) -> bool:
        return bool(_COMMIT.fullmatch(self.revision))

    def at(self, commit: str) -> HubId:
        return dataclasses.replace(self, revision=commit)

    def folder(self, home: Path) -> Path:
        """Of its repository, in the cache of an HF_HOME."""
        return home / "hub" / f"{self.kind}--{self.repo.replace('/', '--')}"

    def ref(self, home: Path) -> Path:
        """The file that says which commit a branch or tag was when it was last fetched."""
        return self.folder(home) / "refs" / self.revision

    def snapshot(self, home: Path) -> Path:
        """The folder of a commit."""
        return self.folder(home) / "snapshots" / self.revision


class Place(NamedTuple):
    """Where a path lies in a cache: `repository` holds the blobs that a snapshot's files are links to."""

    repository: Path
    id: HubId

    @property
    def store(self) -> Path:
        """Where huggingface_hub from 2.0 on keeps blobs that repositories share: what is in blobs/ links to it."""
        return self.repository.parent / "blobs"


def home(named: str | None = None) -> Path:
    """HF_HOME on the host: the one that is `named`, the shell's, or the usual one."""
    return Path(named or os.environ.get("HF_HOME", "").strip() or "~/.cache/huggingface").expanduser().absolute()


def parse(text: str, revision: str = "") -> HubId:
    """`hf://[datasets/]org/name[@revision][/path]`; `revision`: where `text` has none. Raises SlipwayError 64."""
    match = _ID.fullmatch(text.rstrip("/"))
    if not match:
        remedy = "expected: hf://org/model[@revision] or hf://datasets/org/name[@revision][/path]"
        raise SlipwayError(Exit.WORDS, "names nothing on the hub", where=text, remedy=remedy)
    named, below = unquote(match["revision"] or ""), match["below"] or ""
    if named and revision:
        raise SlipwayError(Exit.WORDS, f"two revisions: @{named} and {revision!r}", where=text)
    named = named or revision or "main"
    parts = [*named.split("/"), *(below.split("/") if below else [])]
    if any(p in ("", ".", "..") for p in parts) or not re.fullmatch(r"[^\x00-\x20~^:?*\[\\]+", named):
        raise SlipwayError(Exit.WORDS, "no revision or path can have this name", where=text)
    return HubId(match["kind"] or "models", match["repo"], named, below)


def place(path: str | Path) -> Place | None:
    """Where in a cache's snapshot a path lies, by its name alone; None where it does not."""
    match = _PLACE.fullmatch(str(path))
    if not match:
        return None
    found = HubId(match["kind"], match["repo"].replace("--", "/", 1), match["commit"], match["below"] or "")
    return Place(Path(match["repository"]), found)


def known_commit(asked: HubId, home: Path) -> str:
    """The commit that the cache knows a revision to be; empty where it knows none."""
    if asked.is_commit:
        return asked.revision
    ref = asked.ref(home)
    commit = ref.read_text(errors="replace").strip() if ref.is_file() else ""
    return commit if _COMMIT.fullmatch(commit) else ""


def needed(names: Sequence[str], below: str) -> list[str]:
    """Which of a repository's files an input is made of: those at `below`, or all but the same weights once more."""
    if below:
        return [n for n in names if n == below or _like(n, below, f"{below}/*")]
    left_out: tuple[str, ...] = _FOREIGN if any(n.endswith((".safetensors", ".bin")) for n in names) else ()
    left_out += _PICKLED if any(n.endswith(".safetensors") for n in names) else ()
    left_out += ("consolidated*.safetensors",) if any(_like(n, "model*.safetensors") for n in names) else ()
    return [n for n in names if not _like(n.rpartition("/")[2], *left_out)]


def _like(name: str, *patterns: str) -> bool:
    return any(fnmatch.fnmatchcase(name, p) for p in patterns)


def is_whole(asked: HubId, home: Path) -> bool:
    """Whether a commit's files are all in the cache, by the list that huggingface_hub writes before the first of them.

    Without that list what is there counts: it is inspected anyway.
    """
    snapshot = asked.snapshot(home)
    try:
        listed = json.loads((asked.folder(home) / "trees" / f"{asked.revision}.json").read_bytes())
        wanted = needed(list(listed["files"]), asked.below)
    except (OSError, ValueError, KeyError, TypeError):
        return snapshot.is_dir() and next(snapshot.glob(asked.below or "*"), None) is not None
    return bool(wanted) and all((snapshot / name).exists() for name in wanted)

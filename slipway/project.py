"""Where the project is: the nearest parent with `versions.lock`, else SLIPWAY_ROOT, else the packaged copy."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from slipway.errors import Exit, SlipwayError

_PACKAGED = Path(__file__).parent / "_data"


@dataclass(frozen=True)
class Root:
    """A tree that holds versions.lock, templates/, entrypoints/, images/ and launcher/ as in the repository."""

    path: Path
    packaged: bool = False

    @property
    def lock(self) -> Path:
        return self.path / "versions.lock"

    @property
    def matrix(self) -> Path:
        return self.path / "images" / "matrix.yaml"

    @property
    def state(self) -> Path:
        """Image records, base images, engine.json: `.slipway/`; the XDG state folder for the packaged copy."""
        return _xdg("XDG_STATE_HOME", ".local/state") / "slipway" if self.packaged else self.path / ".slipway"

    @property
    def runs(self) -> Path:
        """The default runs directory."""
        return self.state / "runs" if self.packaged else self.path / "runs"


def find_root(start: Path | None = None) -> Root:
    """The project root seen from `start` (the working directory). Raises SlipwayError 78 for a wrong SLIPWAY_ROOT."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "versions.lock").is_file():
            return Root(folder)
    named = os.environ.get("SLIPWAY_ROOT", "").strip()
    if named:
        if not (Path(named) / "versions.lock").is_file():
            raise SlipwayError(Exit.CONFIG, "there is no versions.lock", where=f"SLIPWAY_ROOT={named}")
        return Root(Path(named).resolve())
    if (_PACKAGED / "versions.lock").is_file():
        return Root(_PACKAGED, packaged=True)
    raise SlipwayError(
        Exit.CONFIG, "no versions.lock in this folder or above it", remedy="set SLIPWAY_ROOT to a checkout"
    )


def user_dirs(root: Root) -> list[Path]:
    """Where users keep steps and profiles of their own, nearest first."""
    return [Path.cwd() / "slipway.d", _xdg("XDG_CONFIG_HOME", ".config") / "slipway", root.path / "launcher"]


def _xdg(name: str, default: str) -> Path:
    value = os.environ.get(name, "").strip()
    return Path(value) if value else Path.home() / default

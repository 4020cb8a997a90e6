"""Where the project is: SLIPWAY_ROOT, else the nearest parent with `versions.lock`, else where the program is from.

What is found here decides what runs, so each place is handed out as `trusted`, or not at all.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from slipway.console import say
from slipway.errors import Exit, SlipwayError
from slipway.trust import trusted

_PACKAGED = Path(__file__).parent / "_data"
_CHECKOUT = Path(__file__).parents[1]  # of an editable install; the folder of all packages otherwise


@dataclass(frozen=True)
class Root:
    """A tree that holds versions.lock, templates/, entrypoints/, images/ and launcher/ as in the repository."""

    path: Path
    packaged: bool = False

    @property
    def lock(self) -> Path:
        return self.file("versions.lock")

    @property
    def matrix(self) -> Path:
        return self.file("images/matrix.yaml")

    @property
    def state(self) -> Path:
        """Image records, base images, engine.json: `.slipway/`; the XDG state folder for the packaged copy."""
        if self.packaged:
            return trusted(_xdg("XDG_STATE_HOME", ".local/state") / "slipway")
        return self.file(".slipway")

    @property
    def runs(self) -> Path:
        """The default runs directory."""
        return self.kept("runs") if self.packaged else self.file("runs")

    def file(self, name: str | Path) -> Path:
        """A file or folder of the project. Raises SlipwayError 77 where others may say what is in it."""
        return trusted(self.path / name, self.path)

    def kept(self, name: str | Path) -> Path:
        """The same of what is below `state`."""
        return trusted(self.state / name, self.state)


def find_root(start: Path | None = None) -> Root:
    """The project root seen from `start` (the working directory); where it is elsewhere, stderr says which it is.

    Raises SlipwayError 77 where others may write in it or in its state, 78 where there is none.
    """
    here = (start or Path.cwd()).resolve()
    root, found_by = _found(here)
    root.file("versions.lock")
    root.kept("engine.json")
    if root.path != here:
        say(f"project {root.path}: {found_by}")
    return root


def _found(here: Path) -> tuple[Root, str]:
    """The root, and by which rule."""
    if named := os.environ.get("SLIPWAY_ROOT", "").strip():
        if not _is_project(Path(named)):
            raise SlipwayError(Exit.CONFIG, "there is no versions.lock", where=f"SLIPWAY_ROOT={named}")
        return Root(Path(named).resolve()), "SLIPWAY_ROOT"
    for folder in (here, *here.parents):
        if _is_project(folder):
            return Root(folder), "the nearest parent with versions.lock"
    for root, rule in ((Root(_CHECKOUT), "the checkout of this program"), (Root(_PACKAGED, True), "the packaged copy")):
        if _is_project(root.path):
            return root, rule
    raise SlipwayError(
        Exit.CONFIG, "no versions.lock in this folder or above it", remedy="set SLIPWAY_ROOT to a checkout"
    )


def _is_project(folder: Path) -> bool:
    # Path.is_file raises where it may not look, as in another user's folder above.
    return os.path.isfile(folder / "versions.lock")  # noqa: PTH113


def user_dirs(root: Root) -> list[Path]:
    """Where users keep steps and profiles of their own, nearest first."""
    own = (Path.cwd() / "slipway.d", _xdg("XDG_CONFIG_HOME", ".config") / "slipway")
    return [*map(trusted, own), root.file("launcher")]


def _xdg(name: str, default: str) -> Path:
    value = os.environ.get(name, "").strip()
    return Path(value) if value else Path.home() / default

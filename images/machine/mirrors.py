"""Where this site keeps copies of registries: `registries:` of a user's config.yaml, same digests from other hosts.

Read from ./slipway.d/, then from ~/.config/slipway/ (XDG_CONFIG_HOME); of one registry the nearest counts. Only where
an image is fetched from is changed: the lock, the Dockerfile and the image say what they say without it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slipway import yamldoc
from slipway.errors import Exit, SlipwayError
from slipway.project import Root, user_dirs
from slipway.trust import trusted
from slipway.yamldoc import Noun

FILE = "config.yaml"
_HOST = r"[A-Za-z0-9.-]+(:\d+)?"
_PLACE = rf"{_HOST}(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"


class Settings(Noun, frozen=True, kw_only=True):
    """config.yaml of a user. `registries`: a registry's host -> HOST[/PATH] that has its images under their names."""

    schema: Literal[1]
    registries: dict[str, str] = {}


@dataclass(frozen=True)
class Mirrors:
    """Host of a registry -> the place that stands for it."""

    places: dict[str, str]

    def of(self, image: str) -> str:
        """Where `image` (REGISTRY/NAME…) is fetched from: itself, where its registry has no mirror."""
        host, slash, rest = image.partition("/")
        return f"{self.places.get(host, host)}{slash}{rest}"


NONE = Mirrors({})


def load(root: Root) -> Mirrors:
    """Raises SlipwayError 77 (others may write the file) or 78 (it is wrong, with line and column)."""
    found: dict[str, str] = {}
    for folder in user_dirs(root)[:-1]:  # the last is the project's own
        path = trusted(folder / FILE, folder)
        if path.is_file():
            found = _registries(path) | found
    return Mirrors(found)


def _registries(path: Path) -> dict[str, str]:
    settings = yamldoc.load(path, Settings)
    for host, place in settings.registries.items():
        where = f"{path}:{yamldoc.line_of(path, 'registries', host)}"
        if not re.fullmatch(_HOST, host):
            what = f"registries: {host!r} is no registry; expected its host, such as nvcr.io"
            raise SlipwayError(Exit.CONFIG, what, where=where)
        if not re.fullmatch(_PLACE, place):
            what = (
                f"registries: {place!r} is no place of images; expected HOST[:PORT][/PATH], without a tag or https://"
            )
            raise SlipwayError(Exit.CONFIG, what, where=where)
    return settings.registries

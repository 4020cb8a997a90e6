"""The doctor's checks of pyxis: what srun knows of it, and how the site has set it up, as far as this machine shows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launcher.doctor import Result, Site, failed, ok, scontrol, unknown, warning

# What every job of ours says; srun of an older pyxis takes the rest for an unknown option.
OPTIONS = ("container-image", "container-env", "container-mounts", "container-workdir", "no-container-entrypoint",
           "no-container-mount-home", "no-container-remap-root")  # fmt: skip
CONFIGLESS = "/run/slurm/conf/plugstack.conf"  # where a site's files come from the controller
_TRUE = ("1", "true", "yes", "y")  # of its config.c


@dataclass(frozen=True)
class Settings:
    """pyxis's line in plugstack.conf. `version`: empty where the plugin does not tell it."""

    version: str
    said: dict[str, str]

    @property
    def scope(self) -> str:
        """Of containers: `job`, or `global`, its default."""
        return self.said.get("container_scope", "global")

    def mounts(self, image: str) -> bool:
        """Whether images are mounted and not unpacked: .sqsh files, and what an importer has brought."""
        return self.said.get("use_squashfuse") in _TRUE and (image == "squash" or bool(self.said.get("importer")))


def check(site: Site) -> Iterator[Result]:
    """Whether srun knows pyxis, which one it is, and what its settings mean for a run."""
    said = site.ask("srun", "--help")
    missing = [f"--{name}" for name in OPTIONS if f"--{name}" not in said.out]
    if said.code:
        yield unknown(said.why)
    elif "--container-image" in missing:
        yield failed("srun does not know --container-image", "pyxis is to be in plugstack.conf, here and on every node")
    elif missing:
        yield failed(f"srun does not know {', '.join(missing)}", "ask the site for a newer pyxis")
    else:
        yield ok("srun knows --container-image")
        yield _settings(site)


def _settings(site: Site) -> Result:
    found, why = settings(site)
    if not found:
        return unknown(f"version and settings are not known: {why}")
    seen = f"pyxis {found.version or 'of a version that it does not tell'}"
    if found.mounts(site.profile.image):
        what = f"{seen} mounts images (use_squashfuse): Slurm's own TERM ends what mounts them, before a step can save"
        return warning(what, "end jobs with launch cancel, which tells the step in another way, as the time limit does")
    left = {
        "job": "Slurm's epilog removes what an ended attempt leaves (container_scope=job)",
        "global": "the next attempt removes what one leaves that was killed (container_scope=global)",
    }
    return ok(f"{seen} unpacks the image on each node for every attempt; {left.get(found.scope, found.scope)}")


def mounted(site: Site) -> bool:
    """Whether a step's root ends with Slurm's TERM; false where that is not known."""
    found, _ = settings(site)
    return bool(found and found.mounts(site.profile.image))


def settings(site: Site) -> tuple[Settings | None, str]:
    """pyxis's own settings, or why they are not known."""
    config = scontrol.config(site)
    beside = Path(config.get("SLURM_CONF", "/etc/slurm/slurm.conf")).with_name("plugstack.conf")
    first = Path(config.get("PlugStackConfig", beside))
    try:
        file = next((f for f in (first, Path(CONFIGLESS)) if f.is_file()), None)
        words = plugin_line(file) if file else []
    except PermissionError as e:
        return None, f"{e.filename} may not be read by you"
    if file is None:
        return None, f"{first} is not on this machine"
    if not words:
        return None, f"{file} does not speak of it"
    plugin = Path(config.get("PluginDir", "/usr/lib/slurm")) / words[0]
    return Settings(_version(plugin), dict(w.partition("=")[::2] for w in words[1:])), ""


def plugin_line(file: Path) -> list[str]:
    """The plugin's path and arguments in plugstack.conf, or in what that includes. Raises PermissionError."""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        word, *rest = line.split() or [""]
        if word in ("required", "optional") and rest and "pyxis" in Path(rest[0]).name:
            return rest
        for more in (path for name in rest if word == "include" for path in _included(file, name)):
            if found := plugin_line(more):
                return found
    return []


def _included(file: Path, pattern: str) -> list[Path]:
    """Raises PermissionError where what is meant is in a folder that is closed to us."""
    whole = file.parent / pattern
    if whole.parent.is_dir() and not os.access(whole.parent, os.R_OK | os.X_OK):
        raise PermissionError(13, "closed", str(whole.parent))
    return [path for path in sorted(Path("/").glob(str(whole).lstrip("/"))) if path != file and path.is_file()]


def _version(plugin: Path) -> str:
    """What slurmd writes into its log when it loads the plugin, out of the plugin itself."""
    try:
        found = re.search(rb"pyxis: version v([\w.+~-]+)", plugin.read_bytes())
    except OSError:
        return ""
    return found[1].decode() if found else ""

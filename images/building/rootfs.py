"""An unpacked image as enroot's import leaves it: environment, start script and volumes as files in /etc."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

from slipway.errors import Exit, SlipwayError

ENVIRONMENT = "etc/environment"
_LOCAL = "# Sourced by /etc/rc, before the entrypoint or the command.\n"


def environment(config: dict[str, Any]) -> str:
    """/etc/environment: the image's variables as they are, one a line."""
    return "".join(f"{variable}\n" for variable in config.get("Env") or [])


def variables(text: str) -> dict[str, str]:
    """What /etc/environment sets."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def fstab(config: dict[str, Any]) -> str:
    """/etc/fstab: each volume as a writable folder of the container's own."""
    volumes = sorted(config.get("Volumes") or {})
    return "".join(f"${{ENROOT_ROOTFS}}{v} {v} none x-create=dir,bind,rw,nosuid,nodev\n" for v in volumes)


def rc(config: dict[str, Any], uri: str) -> str:
    """/etc/rc: goes to the working directory and becomes the entrypoint with the caller's words, or the command."""
    workdir = shlex.quote(config.get("WorkingDir") or "/")
    entrypoint, command = config.get("Entrypoint") or [], config.get("Cmd") or []
    lines = [
        f"# enroot-provenance: {uri}",
        *_comments(config),
        "",
        f"mkdir -p {workdir} 2>/dev/null",
        f"cd {workdir} && unset OLDPWD || exit 1",
        "[ ! -s /etc/rc.local ] || . /etc/rc.local",
        f'[ $# -eq 0 ] || exec {shlex.join(entrypoint)} "$@"',
        f"exec {shlex.join([*entrypoint, *command] or ['/bin/sh'])}",
    ]
    return "\n".join(lines) + "\n"


def _comments(config: dict[str, Any]) -> list[str]:
    """The image's labels, as enroot keeps them in /etc/rc."""
    return [f"# {name} {' '.join(value.split())}" for name, value in sorted((config.get("Labels") or {}).items())]


def configure(root: Path, config: dict[str, Any], uri: str) -> None:
    """Writes those files, makes the working directory, and lets the owner read everything.

    Nothing is followed out of `root`: the image's links are not ours. Raises SlipwayError 65 where /etc is one.
    """
    texts = {"environment": environment(config), "fstab": fstab(config), "rc": rc(config, uri), "rc.local": _LOCAL}
    _write(root, texts, uri)
    make_inside(root, config.get("WorkingDir") or "/")
    # In enroot the files are the caller's, whatever their modes: what the owner cannot read, nobody could.
    subprocess.run(["chmod", "-R", "u+rX", str(root)], check=True)
    subprocess.run(
        ["find", str(root), "-type", "d", "!", "-perm", "-u=w", "-exec", "chmod", "u+w", "{}", "+"], check=True
    )


def read(root: Path) -> dict[str, Any]:
    """What of its configuration an image that enroot has imported still says: its variables and working directory."""
    text, start = ((root / "etc" / name).read_text() for name in ("environment", "rc"))
    found = re.search(r'^cd "(.*)" && unset OLDPWD', start, re.M)
    return {"Env": [f"{n}={v}" for n, v in variables(text).items()], "WorkingDir": found[1] if found else "/"}


def amend(root: Path, config: dict[str, Any]) -> None:
    """Writes variables and labels anew into the files of such an image; its start script stays what it is."""
    first, _, rest = (root / "etc" / "rc").read_text().partition("\n")
    _write(root, {"environment": environment(config), "rc": "\n".join([first, *_comments(config), rest])}, first)


def _write(root: Path, texts: dict[str, str], uri: str) -> None:
    etc = root / "etc"
    if etc.is_symlink() or (etc.exists() and not etc.is_dir()):
        raise SlipwayError(Exit.DATA, "the image's /etc is not a directory", where=uri)
    etc.mkdir(exist_ok=True)
    for name, text in texts.items():
        path = etc / name
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o644)


def remove(folder: Path) -> None:
    """All of it, also where the image's directories may not be written to."""
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)
        return
    subprocess.run(["chmod", "-R", "u+rwX", str(folder)], stderr=subprocess.DEVNULL, check=False)
    shutil.rmtree(folder, ignore_errors=True)


def make_inside(root: Path, folder: str) -> None:
    """Makes `folder` below `root`; where a link is on the way, that is left to the start script."""
    here = root
    for part in Path(os.path.normpath(folder)).parts[1:]:
        here /= part
        if here.is_symlink() or (here.exists() and not here.is_dir()):
            return
        if not here.exists():
            here.mkdir()
            here.chmod(0o755)  # whatever the umask

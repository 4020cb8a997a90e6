"""The instructions of a rendered Dockerfile, put into an unpacked base: what a build does, without a build engine.

Programs run with that base for their root, in namespaces of their own (inside.sh). Root may make them anyhow; others
need user namespaces, in which they are root of what belongs to them. Somebody else is there only where the machine has
given them subordinate ids (subuid(5)).
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from images.bootstrap import debian
from images.building import instructions, rootfs
from images.building.configurations import Inside, Told
from images.building.instructions import NOBODY, Instruction, Run, Set
from slipway.errors import Exit, SlipwayError
from slipway.files import cannot_write

_INSIDE = Path(__file__).with_name("inside.sh")
_APART = ("--mount", "--ipc", "--pid", "--fork", "--kill-child", "--propagation", "private")
_ALONE = ("--user", "--map-root-user")
_WITH_OTHERS = (*_ALONE, "--map-auto")
# Alone there is nobody else to become: the owner of every file, without root's rights. So it is when enroot starts it.
_OWNER = "setpriv --bounding-set=-all --inh-caps=-all"
_BROUGHT = "/run/slipway-brought"
_CANNOT_MOUNT = 125
_ELSEWHERE = "build it where an engine is (images build) and squash it there; or let root do it"


@dataclass(frozen=True)
class Addition:
    """What is added to a base. `context`: writes the files that the instructions name into a folder; `trees` the tree
    of a repository. `name` is the entry's; `made`: when, in UTC. `look`: what the image knows of configurations, given
    what runs a program there."""

    name: str
    dockerfile: str
    made: str
    context: Callable[[Path], None]
    trees: Callable[[str, Path], None]
    look: Callable[[Inside], Told]

    def read(self, root: Path, image: dict[str, Any]) -> Told:
        """That, of the base at `root`, which has got what is added, whose OCI configuration is `image`."""
        return self.look(functools.partial(self.ask, root, image))

    def put(self, root: Path, image: dict[str, Any], work: Path) -> dict[str, Any]:
        """Adds it to the base unpacked at `root`, whose OCI configuration is `image`; returns the new configuration.

        `work`: a folder for what is brought. What the programs say goes to stderr. Raises SlipwayError 65 where one of
        them ends with another code than 0 (as verify does for a difference), 69 where it cannot be started, or what
        `trees` raises.
        """
        config = {**(image.get("config") or {})}
        if config.get("User") not in (None, "", "root", "0", "0:0"):
            what = f"its base runs as the user {config['User']}, and would be changed as that one"
            raise SlipwayError(Exit.UNAVAILABLE, what, where=self.name, remedy=_ELSEWHERE)
        folder = work / "context"
        self.context(folder)
        _open(folder)
        for instruction in instructions.read(self.dockerfile):
            config = self._do(instruction, root, config, folder)
        return {**image, "config": config, "created": self.made}

    def _do(self, what: Instruction, root: Path, config: dict[str, Any], folder: Path) -> dict[str, Any]:
        if isinstance(what, Set):
            before = _variables(config)
            env = before | instructions.expanded(what.env, before)
            labels = {**(config.get("Labels") or {}), **what.labels}
            return {**config, "Env": [f"{n}={v}" for n, v in env.items()], "Labels": labels}
        if isinstance(what, Run):
            self._run(root, config, what.line, {t: folder / s for t, s in what.brought.items()}, what.network)
        elif what.repository:
            tree = folder.parent / "trees" / what.repository
            self.trees(what.repository, tree)
            _open(tree)
            copy = f"mkdir -p {what.target} && cp -R -P -p {_BROUGHT}/. {what.target}"
            self._run(root, config, copy, {_BROUGHT: tree})
            shutil.rmtree(tree)
        else:
            copy = f"install -D -p -o 0 -g 0 -m {what.mode} {_BROUGHT} {what.target}"
            self._run(root, config, copy, {_BROUGHT: folder / what.file})
        return config

    def ask(self, root: Path, image: dict[str, Any], words: list[str]) -> subprocess.CompletedProcess[bytes]:
        """What a program, which has to write nothing, says in the base at `root`, whose OCI configuration is `image`:
        as somebody whom that does not know, without a network."""
        config = image.get("config") or {}
        command = self._command(root, {**_variables(config), "HOME": "/nonexistent"}, [], False)
        become = (_OWNER if _mapped() == _ALONE else NOBODY).split()
        return subprocess.run([*command, *become, *words], env=_env(), stdin=subprocess.DEVNULL, capture_output=True)

    def _command(self, root: Path, variables: dict[str, str], words: list[str], network: bool) -> list[str]:
        """What runs another command with `root` for its root; `words`: FILE PLACE of what is brought."""
        clean = ["/usr/bin/env", "-i", *(f"{n}={v}" for n, v in variables.items())]
        # As words, not as a file: who has become somebody else may not be let into the folder where that is.
        script = ["sh", "-c", _INSIDE.read_text(), _INSIDE.name]
        apart = ["setpriv", "--pdeathsig", "KILL", *_unshare(network)]
        return [*apart, *script, str(root), *words, "--", *clean]

    def _run(
        self, root: Path, config: dict[str, Any], line: str, brought: dict[str, Path], network: bool = False
    ) -> None:
        """A line for the image's shell, in its working directory and with its variables, as root."""
        variables = {"HOME": "/root", **_variables(config)}
        rootfs.make_inside(root, config.get("WorkingDir") or "/")
        places = [_place(root, target, source) for target, source in brought.items()]
        words = [word for target, source in brought.items() for word in (str(source), target)]
        line = line.replace(NOBODY, _OWNER) if _mapped() == _ALONE else line
        there = ["/bin/sh", "-c", 'cd "$0" && exec /bin/sh -c "$1"', config.get("WorkingDir") or "/", line]
        command = [*self._command(root, variables, words, network), *there]
        try:
            done = subprocess.run(command, env=_env(), stdin=subprocess.DEVNULL, stdout=2)
        finally:
            for place in places:
                place.rmdir() if place.is_dir() else place.unlink()
        if done.returncode == _CANNOT_MOUNT:
            what = "what a build mounts cannot be mounted here"
            raise SlipwayError(Exit.UNAVAILABLE, what, where=self.name, remedy=_ELSEWHERE)
        if done.returncode:
            what = f"its base is not what the lock says: this ended with {done.returncode}: {line}"
            raise SlipwayError(Exit.DATA, what, where=self.name, remedy="what it said stands above")


def check_possible(name: str, folder: Path) -> None:
    """Raises SlipwayError 69 where no program runs with a root in `folder`, ahead of any download."""
    if os.statvfs(folder).f_flag & os.ST_NOEXEC:
        what = f"programs of {name} have to run in it, and it is mounted noexec"
        remedy = "TMPDIR (or ENROOT_TEMP_PATH) names another folder for unpacking"
        raise SlipwayError(Exit.UNAVAILABLE, what, where=str(folder), remedy=remedy)
    probe = ["mount", "-t", "proc", "-o", "ro,nosuid,nodev,noexec", "proc", "/proc"]
    done = subprocess.run(
        [*_unshare(False), *probe], env=_env(), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        what = f"programs of its base have to run here, and this user may not give them a root: {done.stderr.strip()}"
        remedy = f"user namespaces are off (user.max_user_namespaces, or a security module): {_ELSEWHERE}"
        raise SlipwayError(Exit.UNAVAILABLE, what, where=name, remedy=remedy)


def _open(folder: Path) -> None:
    """Whoever it is brought to may read it, whatever the caller's umask."""
    subprocess.run(["chmod", "-R", "u=rwX,go=rX", str(folder)], check=True)


def _variables(config: dict[str, Any]) -> dict[str, str]:
    return dict(variable.split("=", 1) for variable in config.get("Env") or [])


def _unshare(network: bool) -> list[str]:
    return ["unshare", *_mapped(), *_APART, *(() if network else ("--net",))]


@functools.cache
def _mapped() -> tuple[str, ...]:
    if os.geteuid() == 0:
        return ()
    others = ["unshare", *_WITH_OTHERS, *NOBODY.split(), "true"]
    done = subprocess.run(others, env=_env(), stdin=subprocess.DEVNULL, capture_output=True)
    return _ALONE if done.returncode else _WITH_OTHERS


def _env() -> dict[str, str]:
    return {"PATH": debian.search_path(), "LC_ALL": "C"}


def _place(root: Path, target: str, source: Path) -> Path:
    """An empty file or folder below `root` to mount something on. Raises SlipwayError 65 where a link leads there."""
    place = root / target.lstrip("/")
    if any((root / p).is_symlink() for p in Path(target.lstrip("/")).parents) or place.is_symlink() or place.exists():
        raise SlipwayError(Exit.DATA, f"the base has a link, or something else, at {target}", where=str(root))
    with cannot_write(place):
        place.mkdir() if source.is_dir() else place.touch()
    return place

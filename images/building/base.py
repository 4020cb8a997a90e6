"""`images base`: the base of the cpu images, made from Debian's packages on this machine."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from images.bootstrap import debian
from images.locking import platforms
from images.locking.model import Bootstrap
from slipway import canonical
from slipway.errors import Exit, SlipwayError, quoted
from slipway.files import cannot_write, make_folders, read_text, sha256_file, write_atomic
from slipway.project import Root
from slipway.yamldoc import Noun


class BaseFacts(Noun, frozen=True, kw_only=True):
    """What base.json keeps of a tar: its sha256, and the version of every Debian package in it."""

    sha256: str
    packages: dict[str, str]


@dataclass(frozen=True)
class BaseTar:
    path: Path
    facts: BaseFacts


def ensure(root: Root, wish: Bootstrap, platform: str, say: Callable[[str], None]) -> BaseTar:
    """The tar for `wish` and a processor (linux/amd64), bootstrapped where it is not there yet.

    Raises SlipwayError 69 (no mmdebstrap, archive unreachable) or 73.
    """
    own = "" if platform == "linux/amd64" else f"-{platform.removeprefix('linux/')}"
    folder = root.kept(Path("base", canonical.sha256(wish)[:12] + own))
    with cannot_write(folder):
        make_folders(folder)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one bootstrap at a time; the second finds the first one's tar
            return _found(root, folder) or _bootstrap(folder, wish, platform, root, say)


def _found(root: Root, folder: Path) -> BaseTar | None:
    tar, facts = root.kept(folder / "base.tar"), root.kept(folder / "base.json")
    if not (tar.is_file() and facts.is_file()):
        return None
    return BaseTar(tar, msgspec.json.decode(read_text(facts), type=BaseFacts))


def _bootstrap(folder: Path, wish: Bootstrap, platform: str, root: Root, say: Callable[[str], None]) -> BaseTar:
    say(f"base: Debian {wish.suite} for {platform} from its packages ({wish.variant} + {', '.join(wish.packages)})")
    foreign = platform != platforms.named(os.uname().machine)
    debian.need(root, say, "mmdebstrap", *(["arch-test"] if foreign else []))
    tar = folder / "base.tar"
    part = folder / "part.tar"
    command = ["mmdebstrap", "--quiet", f"--variant={wish.variant}", f"--include={','.join(wish.packages)}"]
    command.append(f"--architectures={platform.removeprefix('linux/')}")
    for pattern in ("man", "doc", "locale", "info"):
        command.append(f"--dpkgopt=path-exclude=/usr/share/{pattern}/*")
    command += ["--aptopt=Acquire::Languages none", wish.suite, str(part), *_mirror()]
    env = {**os.environ, "SOURCE_DATE_EPOCH": str(wish.source_date_epoch)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        part.unlink(missing_ok=True)
        tail = "\n".join(done.stderr.strip().splitlines()[-8:])
        raise SlipwayError(Exit.UNAVAILABLE, f"mmdebstrap failed ({done.returncode}):{quoted(tail)}")
    facts = BaseFacts(sha256=sha256_file(part), packages=_packages(part))
    part.replace(tar)
    write_atomic(folder / "base.json", canonical.pretty(facts))
    return BaseTar(tar, facts)


def _mirror() -> list[str]:
    """The mirror that this machine's own apt uses; where it has none, mmdebstrap knows Debian's."""
    for path in debian.apt_sources(Path("/etc/apt")):
        if mirrors := debian.bookworm_mirrors(path):
            return [mirrors[0][0]]
    return []


def _packages(tar: Path) -> dict[str, str]:
    """Debian package -> version, from the dpkg status inside the tar."""
    with tarfile.open(tar) as archive:
        member = archive.extractfile("./var/lib/dpkg/status")
        if member is None:
            raise SlipwayError(Exit.INTERNAL, "no dpkg status in the bootstrapped tar", where=str(tar))
        status = member.read().decode()
    found = {}
    for block in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] != " ")
        if "Package" in fields:
            found[fields["Package"]] = fields["Version"]
    return found

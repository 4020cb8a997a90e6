"""The programs that building needs, from Debian's packages."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from slipway.errors import Exit, SlipwayError
from slipway.project import Root

Say = Callable[[str], None]

PACKAGES = {  # tool: the Debian packages that bring it
    "dockerd": ("docker.io", "containerd", "runc"),
    "docker": ("docker-cli",),
    "buildx": ("docker-buildx",),
    "mmdebstrap": ("mmdebstrap",),
    "arch-test": ("arch-test",),  # by which mmdebstrap asks what else this machine runs
    "skopeo": ("skopeo",),
    "umoci": ("umoci",),
    "mksquashfs": ("squashfs-tools",),
    "docker-registry": ("docker-registry",),
    "busybox": ("busybox-static",),  # this and what follows: for the tests' own Slurm
    "gcc": ("gcc", "libc6-dev"),
    "newuidmap": ("uidmap",),
    "munged": ("munge",),
    "slurmctld": ("slurm-wlm",),
    "slurmd": ("slurm-wlm",),
    "srun": ("slurm-wlm",),
    "/usr/include/slurm/spank.h": ("libslurm-dev",),
    "slurmdbd": ("slurmdbd",),
    "mariadbd": ("mariadb-server-core",),
}
OLDEST_ENGINE = 23  # the first with the containerd image store, which reproducible digests need
_NAMES = {  # for people
    "dockerd": f"Docker Engine {OLDEST_ENGINE} or later (or set DOCKER_HOST to one)",
    "docker": "Docker's command line",
    "buildx": "Docker's buildx plugin",
    "mksquashfs": "squashfs-tools",
}
# Debian 12 has engine 20.10. Debian 13's runs on it as well, except for runc, which wants a newer C library.
_FROM_TRIXIE = frozenset({"docker.io", "containerd", "docker-cli", "docker-buildx"})
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def missing(*tools: str) -> list[str]:
    """Those of `tools` (keys of PACKAGES) that are not installed, or are too old."""
    return [tool for tool in tools if not _has(tool)]


def need(root: Root, say: Say, *tools: str) -> None:
    """Installs the Debian packages of those `tools` that are missing.

    Raises SlipwayError 69 where this is not Debian 12 or later, we are not root, or apt-get fails.
    """
    absent = missing(*tools)
    if not absent:
        return
    version, names = _debian_version(), ", ".join(_NAMES.get(t, t) for t in absent)
    if version < 12 or os.geteuid() != 0 or not which("apt-get"):
        raise SlipwayError(
            Exit.UNAVAILABLE,
            f"not installed, or too old: {', '.join(absent)}",
            remedy=f"install {names}; on Debian 12 or later, root gets them from here",
        )
    packages = [p for tool in absent for p in PACKAGES[tool]]
    say(f"installing {', '.join(packages)}")
    root.state.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="apt-", dir=root.state) as folder:
        options = []
        if version == 12:
            options = trixie_beside_bookworm(Path("/etc/apt"), Path(folder))
            packages = [f"{p}/trixie" if p in _FROM_TRIXIE else p for p in packages]
        _apt_get(*options, "update")
        _apt_get(*options, "install", "--yes", "--no-install-recommends", "--no-remove", *packages)
    if still := missing(*absent):
        ahead = ", ".join(path for tool in still if (path := which(tool)))
        raise SlipwayError(
            Exit.UNAVAILABLE,
            f"installed, yet not there, or too old: {', '.join(still)}",
            remedy=f"on PATH, ahead of Debian's: {ahead}" if ahead else "",
        )


def which(program: str) -> str | None:
    """Its path; looks into the sbin folders too, which `su` and cron leave out of PATH."""
    return shutil.which(program, path=search_path())


def search_path() -> str:
    """PATH with the sbin folders."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def dockerd_version() -> str:
    """Of the installed dockerd, such as `26.1.5+dfsg1`; empty where there is none."""
    found = re.search(r"version ([^\s,]+)", _output("dockerd", "--version"))
    return found[1] if found else ""


def trixie_beside_bookworm(etc: Path, folder: Path) -> list[str]:
    """apt-get's options for Debian 13's packages on Debian 12. All that they name is in `folder`; `etc` stays as it is.

    The mirror is the one that the machine's own sources name. Raises SlipwayError 69 where they name none.
    """
    parts = folder / "sources.list.d"
    for needed in (parts, folder / "lists" / "partial", folder / "cache" / "archives" / "partial"):
        needed.mkdir(parents=True)
    folder.chmod(0o755)  # apt-get downloads as the user _apt
    mirrors: list[tuple[str, str]] = []
    for number, file in enumerate(apt_sources(etc)):
        if found := bookworm_mirrors(file):
            shutil.copy(file, parts / f"{number}{file.suffix}")
            mirrors += found
    if not mirrors:
        raise SlipwayError(
            Exit.UNAVAILABLE,
            "names no mirror with bookworm's main archive",
            where=f"{etc}/sources.list*",
            remedy="add one, or install Docker Engine and buildx by hand",
        )
    uri, keyring = mirrors[0]
    (parts / "trixie.list").write_text(f"deb [signed-by={keyring}] {uri} trixie main\n")
    (folder / "preferences").write_text("Package: *\nPin: release n=trixie\nPin-Priority: 50\n")
    options = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": parts,
        "Dir::Etc::preferences": folder / "preferences",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
    }
    return [word for key, value in options.items() for word in ("-o", f"{key}={value}")]


def apt_sources(etc: Path) -> list[Path]:
    """The machine's own lists of archives, in the order in which apt reads them."""
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    return [f for f in files if f.suffix in (".list", ".sources") and f.is_file()]


def bookworm_mirrors(file: Path) -> list[tuple[str, str]]:
    """(URI, keyring) of each entry for bookworm's main archive in a .list or .sources file (sources.list(5))."""
    text = file.read_text(encoding="utf-8")
    entries = _deb822(text) if file.suffix == ".sources" else _one_line(text)
    good = [(uri, signed) for uri, signed, words in entries if {"bookworm", "main"} <= set(words)]
    return [(uri, signed if signed.startswith("/") else _KEYRING) for uri, signed in good]


def _deb822(text: str) -> list[tuple[str, str, list[str]]]:
    """(URI, signed-by, suites and components) of each enabled entry."""
    entries = []
    for block in re.split(r"\n\s*\n", text):
        keys = {k.lower(): v.strip() for k, v in re.findall(r"^([\w-]+):(.*)$", block, re.M)}
        if "deb" in keys.get("types", "").split() and keys.get("enabled", "yes") != "no":
            words = f"{keys.get('suites', '')} {keys.get('components', '')}".split()
            entries += [(uri, keys.get("signed-by", ""), words) for uri in keys.get("uris", "").split()]
    return entries


def _one_line(text: str) -> list[tuple[str, str, list[str]]]:
    entries = []
    for options, rest in re.findall(r"^deb[ \t]+(?:\[(.*?)\][ \t]*)?(\S.*)$", text, re.M):
        uri, *words = rest.split()
        signed = re.search(r"signed-by=(\S+)", options)
        entries.append((uri, signed[1] if signed else "", words))
    return entries


def _has(tool: str) -> bool:
    if tool == "buildx":
        return bool(_output("docker", "buildx", "version"))
    if tool == "dockerd":
        major = re.match(r"\d+", dockerd_version())
        return major is not None and int(major[0]) >= OLDEST_ENGINE
    return Path(tool).is_file() if tool.startswith("/") else which(tool) is not None


def _output(program: str, *arguments: str) -> str:
    """What a command prints; empty where it is not there or fails."""
    path = which(program)
    if not path:
        return ""
    done = subprocess.run([path, *arguments], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def _debian_version() -> int:
    """Debian's release; 99 for testing and unstable, which have no number, 0 for every other system."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return 0
    return int(release.get("VERSION_ID", "99")) if release.get("ID") == "debian" else 0


def _apt_get(*arguments: str) -> None:
    argv = ["apt-get", "-o", "DPkg::Lock::Timeout=300", *arguments]
    environment = {**os.environ, "PATH": search_path(), "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    done = subprocess.run(
        argv,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        last = "\n  ".join(done.stdout.strip().splitlines()[-8:])
        raise SlipwayError(Exit.UNAVAILABLE, f"failed with {done.returncode}\n  {last}", where=" ".join(argv))

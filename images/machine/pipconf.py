"""How this machine reaches Python packages: its own pip configuration and proxies, which the project never repeats."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from slipway.errors import Exit, SlipwayError, quoted

# What BuildKit takes as build arguments without keeping them in the image's history or in a cache key. In the order in
# which they count for https, as package indexes are.
_PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY")


@dataclass(frozen=True)
class PipConfig:
    """`find_links`: folders of wheels on this machine; `index`: pip's own options for indexes; `cert`: a CA bundle.

    `proxies`: names of environment variables of this machine that a build's programs are to have, none of which holds
    credentials.
    """

    find_links: tuple[Path, ...] = ()
    index: tuple[tuple[str, str], ...] = ()
    cert: Path | None = None
    proxies: tuple[str, ...] = ()

    def file(self) -> str:
        """A pip configuration for a container on the host's network (folders of this machine are not in it)."""
        return "[global]\n" + "".join(f"{k} = {v}\n" for k, v in self.index)

    def wheels_for(self, requirement: str) -> tuple[Path, Path] | None:
        """Folder and file of the wheel `name==version` in `find_links`, if any."""
        name, _, version = requirement.partition("==")
        for folder in self.find_links:
            for wheel in sorted(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl")):
                return folder, wheel
        return None


def read() -> PipConfig:
    """Asks this interpreter's pip. Environment variables win over files, as in pip. Raises SlipwayError 69.

    A proxy of the environment that has credentials becomes pip's own option `proxy`, unless pip has one: its file is a
    secret of the build, and build arguments stay in the engine's records of builds.
    """
    command = [sys.executable, "-P", "-m", "pip", "config", "list"]  # -P: no pip.py of the folder one stands in
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SlipwayError(Exit.UNAVAILABLE, f"`pip config list` failed:{quoted(done.stderr.strip()[-400:])}")
    values: dict[str, str] = {}
    lines = sorted(done.stdout.splitlines(), key=lambda line: line.startswith(":env:"))
    for line in lines:
        key, _, value = line.partition("=")
        values[key.rpartition(".")[2]] = str(ast.literal_eval(value))
    links = [Path(p.removeprefix("file://")) for p in values.get("find-links", "").split()]
    remote = ("index-url", "extra-index-url", "trusted-host", "timeout", "default-timeout", "proxy")
    index = [(k, " ".join(v for v in values[k].split() if not v.startswith("file:"))) for k in remote if k in values]
    proxies = {name: os.environ[name] for name in _PROXIES if os.environ.get(name)}
    private = {name for name, value in proxies.items() if urlsplit(value).username}
    if private and "proxy" not in values:
        index.append(("proxy", next(iter(proxies.values()))))
    cert = values.get("cert") or os.environ.get("SSL_CERT_FILE")
    return PipConfig(
        find_links=tuple(p for p in links if p.is_dir()),
        index=tuple((k, v) for k, v in index if v),
        cert=Path(cert) if cert and Path(cert).is_file() else None,
        proxies=tuple(name for name in proxies if name not in private),
    )

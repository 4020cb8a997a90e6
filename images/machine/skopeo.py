"""skopeo, as `images squash` and `images build --push` call it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from images.machine import clients
from slipway.errors import Exit, SlipwayError
from slipway.files import cannot_write

_LOOPBACK = re.compile(r"(localhost|127\.[\d.]+|\[::1\])(:\d+)?")


def ask(reference: str, *words: str, fds: Sequence[int] = (), **variables: str) -> bytes:
    """What skopeo prints; `reference` (REGISTRY/NAME…) is the image that `words` are about.

    Raises SlipwayError 66, 69 or 77: what `clients.trouble` makes of skopeo's words.
    """
    command = ["skopeo", "--insecure-policy", *words]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, pass_fds=fds)
    if done.returncode:
        host = reference.partition("/")[0]
        raise clients.trouble(clients.SKOPEO, done.stderr.decode(errors="replace"), reference, host)
    return done.stdout


def name(reference: str) -> str:
    """`reference` without its tag where it has a digest, too: skopeo takes one of them."""
    image, at, digest = reference.partition("@")
    head, slash, last = image.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}{at}{digest}" if at else reference


def tls(reference: str, side: str = "") -> list[str]:
    """The option for plain HTTP, which is for loopback alone; `side` is `src-`, `dest-` or nothing."""
    return [f"--{side}tls-verify=false"] if _LOOPBACK.fullmatch(reference.partition("/")[0]) else []


def manifest(name: str) -> dict[str, Any]:
    """The manifest, or the index, of REGISTRY/IMAGE@DIGEST. Raises what `ask` does."""
    return dict(msgspec.json.decode(ask(name, "inspect", "--raw", *tls(name), f"docker://{name}")))


def of_platform(name: str, index: dict[str, Any], platform: str) -> str:
    """The name of the one image in `index`, which is that of `name`, for `platform`. Raises SlipwayError 65."""
    found = {f"{p['os']}/{p['architecture']}": m["digest"] for m in index["manifests"] if (p := m.get("platform"))}
    if platform not in found:
        raise SlipwayError(Exit.DATA, f"is there for {', '.join(sorted(found))}, not for {platform}", where=name)
    return f"{name.partition('@')[0]}@{found[platform]}"


def save(client: Any, image: str, archive: Path) -> None:
    """`docker save` into a file. Raises SlipwayError 73."""
    with cannot_write(archive), archive.open("wb") as out:
        for chunk in client.images.get(image).save():
            out.write(chunk)

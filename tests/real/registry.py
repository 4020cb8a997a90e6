"""A real registry on loopback, Debian's docker-registry, and tiny images that are pushed to it by plain HTTP."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from images.bootstrap import debian
from slipway.project import Root

from .support import PROJECT, until

USER, PASSWORD = "sailor", "ahoy"  # of a registry with `login`
# bcrypt of PASSWORD: docker-registry takes no other kind of hash.
_HTPASSWD = f"{USER}:$2b$05$g2XNoSd8II.tT7gWUWI6kefmgRDSMLlP996fSb8jabNWH7oH8NrFe\n"
DOCKER, OCI = "application/vnd.docker", "application/vnd.oci.image"
_MANIFEST = {DOCKER: f"{DOCKER}.distribution.manifest.v2+json", OCI: f"{OCI}.manifest.v1+json"}
_CONFIG = {DOCKER: f"{DOCKER}.container.image.v1+json", OCI: f"{OCI}.config.v1+json"}
_INDEX = {DOCKER: f"{DOCKER}.distribution.manifest.list.v2+json", OCI: f"{OCI}.index.v1+json"}


@contextmanager
def registry(folder: Path, login: bool = False) -> Iterator[int]:
    """Runs a registry on a free port of 127.0.0.1, its data in `folder`; gives the port.

    `login`: it answers nobody but USER with PASSWORD.
    """
    debian.need(Root(PROJECT), print, "docker-registry")
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": {"addr": "127.0.0.1:0", "secret": "none"},  # the kernel gives a free port; the log names it
    }
    if login:
        (folder / "htpasswd").write_text(_HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    (folder / "registry.yml").write_text(json.dumps(config))  # JSON is YAML
    command = [str(debian.which("docker-registry")), "serve", str(folder / "registry.yml")]
    log = folder / "registry.log"
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as program:

        def port() -> int:
            assert program.poll() is None, log.read_text()
            found = re.search(r"listening on 127\.0\.0\.1:(\d+)", log.read_text())
            return int(found[1]) if found else 0

        try:
            yield until("the registry's port", port)
        finally:
            program.terminate()


def push_image(port: int, name: str, tag: str, architecture: str = "amd64", kind: str = DOCKER, note: str = "") -> str:
    """Pushes an image without layers (docker v2 schema 2, or OCI); returns its manifest's digest.

    Another `note` is another image.
    """
    history = [{"created_by": note, "empty_layer": True}]
    rootfs = {"type": "layers", "diff_ids": []}
    config = json.dumps({"os": "linux", "architecture": architecture, "rootfs": rootfs, "history": history}).encode()
    described = {"mediaType": _CONFIG[kind], "digest": _push_blob(port, name, config), "size": len(config)}
    body = {"schemaVersion": 2, "mediaType": _MANIFEST[kind], "config": described, "layers": []}
    return _push_manifest(port, name, tag, body)


def push_index(port: int, name: str, tag: str, architectures: dict[str, str], kind: str = DOCKER) -> str:
    """Pushes an index (architecture -> digest of its image, which is there), as buildx does with the attestation that
    it calls a manifest of an unknown platform; returns its digest."""
    rows = [("linux", architecture, digest) for architecture, digest in architectures.items()]
    rows.append(("unknown", "unknown", push_image(port, name, f"{tag}-attested", kind=kind)))
    manifests = [_described(port, name, d, kind) | {"platform": {"os": o, "architecture": a}} for o, a, d in rows]
    return _push_manifest(port, name, tag, {"schemaVersion": 2, "mediaType": _INDEX[kind], "manifests": manifests})


def _described(port: int, name: str, digest: str, kind: str) -> dict[str, Any]:
    size = int(_ask(port, "HEAD", f"/v2/{name}/manifests/{digest}", accept=_MANIFEST[kind]).headers["Content-Length"])
    return {"mediaType": _MANIFEST[kind], "digest": digest, "size": size}


def _push_blob(port: int, name: str, data: bytes) -> str:
    digest = _digest(data)
    place = _ask(port, "POST", f"/v2/{name}/blobs/uploads/").headers["Location"]
    place = place.partition(f":{port}")[2]
    _ask(port, "PUT", f"{place}&digest={digest}", data, kind="application/octet-stream")
    return digest


def _push_manifest(port: int, name: str, tag: str, body: dict[str, Any]) -> str:
    data = json.dumps(body).encode()
    _ask(port, "PUT", f"/v2/{name}/manifests/{tag}", data, kind=body["mediaType"])
    return _digest(data)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _ask(
    port: int, method: str, path: str, data: bytes = b"", *, kind: str = "", accept: str = "*/*"
) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    word = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    headers = {"Content-Type": kind, "Accept": accept, "Authorization": f"Basic {word}"}
    connection.request(method, path, data, headers)
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status < 300, f"{method} {path}: {answer.status} {text!r}"
    return answer

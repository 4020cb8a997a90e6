"""`images build --push REF`: a built image into a registry, in the form that every puller understands."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from images import debian, dockerhost, identity, registry
from slipway import canonical
from slipway.errors import Exit, SlipwayError
from slipway.files import cannot_write
from slipway.project import Root


def push(root: Root, record: identity.ImageRecord, reference: str, say: Callable[[str], None]) -> identity.ImageRecord:
    """Pushes the recorded image to `reference` (REGISTRY/NAME:TAG); returns its record with the digests it has there.

    The manifest is Docker's v2 schema 2: some registries answer enroot's first question with 404 for an OCI manifest.
    Raises SlipwayError 66 (not on the engine), 69 (no registry, no skopeo) or 77 (a login is wanted).
    """
    address = dockerhost.find(root)
    debian.need(root, say, "skopeo")
    with dockerhost.engine_client(address) as client, tempfile.TemporaryDirectory(prefix="slipway-push-") as tmp:
        found = identity.present([record], client)
        if found is None:
            raise SlipwayError(Exit.NO_INPUT, f"the engine has no image of {record.name}")
        archive = Path(tmp) / "image.tar"
        with cannot_write(archive), archive.open("wb") as out:
            for chunk in client.images.get(found[1]).save():
                out.write(chunk)
        say(f"pushing {record.name} to {reference}")
        _skopeo(reference, "copy", "--quiet", "--format=v2s2", "--dest-", f"docker-archive:{archive}")
        manifest = _skopeo(reference, "inspect", "--raw", "--")
    digests = [msgspec.json.decode(manifest)["config"]["digest"], f"sha256:{canonical.sha256(manifest)}"]
    pushed = msgspec.structs.replace(record, ids=list(dict.fromkeys([*record.ids, *digests])))
    identity.save(root, pushed)
    say(f"pushed: {reference}, manifest {digests[1]}")
    return pushed


def _skopeo(reference: str, *words: str) -> bytes:
    """Runs skopeo on `docker://reference`; the word that ends with `-` becomes its tls option."""
    host = reference.partition("/")[0]
    here = re.fullmatch(r"(localhost|127\.[\d.]+|\[::1\])(:\d+)?", host) is not None
    options = [f"{w}tls-verify={'false' if here else 'true'}" if w.endswith("-") else w for w in words]
    done = subprocess.run(["skopeo", *options, f"docker://{reference}"], capture_output=True, check=False)
    if done.returncode:
        raise registry.trouble(registry.DOCKER, done.stderr.decode(errors="replace"), reference, host)
    return done.stdout

"""`images build --push REF`: a built image into a registry, in the form that every puller understands."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from images.bootstrap import debian
from images.building import identity
from images.machine import dockerhost, skopeo
from slipway import canonical
from slipway.errors import Exit, SlipwayError
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
        skopeo.save(client, found[1], archive)
        say(f"pushing {record.name} to {reference}")
        copy = ["copy", "--quiet", "--format=v2s2", *skopeo.tls(reference, "dest-"), f"docker-archive:{archive}"]
        skopeo.ask(reference, *copy, f"docker://{reference}")
        manifest = skopeo.ask(reference, "inspect", "--raw", *skopeo.tls(reference), f"docker://{reference}")
    digests = [msgspec.json.decode(manifest)["config"]["digest"], f"sha256:{canonical.sha256(manifest)}"]
    places = dict.fromkeys([f"{_repository(reference)}@{digests[1]}", *record.pushed])
    pushed = msgspec.structs.replace(record, ids=list(dict.fromkeys([*record.ids, *digests])), pushed=list(places))
    identity.save(root, pushed)
    say(f"pushed: {reference}, manifest {digests[1]}")
    return pushed


def _repository(reference: str) -> str:
    """`reference` without its tag: REGISTRY/NAME."""
    head, slash, name = reference.rpartition("/")
    return f"{head}{slash}{name.partition(':')[0]}"

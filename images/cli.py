"""The `images` command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from slipway.console import command_group, say
from slipway.errors import Exit
from slipway.files import read_text, write_atomic
from slipway.project import Root, find_root


@command_group()
def main() -> None:
    """Pinned container images: lock, render, build."""


@main.command()
@click.argument("libraries", nargs=-1)
@click.option("--check", is_flag=True, help="Write nothing; ask the registries: exit 1 where a tag has moved.")
@click.option("--upgrade", is_flag=True, help="Ask everything anew: packages, digests and commits.")
@click.option("--upgrade-package", "moving", multiple=True, metavar="NAME", help="Ask for the newest NAME that fits.")
@click.option("--record", "image", metavar="IMAGE", help="Write the identity of a built image into the lock.")
@click.option(
    "--attest",
    "attestations",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write into the lock that its entry was tested: what `launch selftest` has written. Asks nobody; repeatable.",
)
def lock(
    libraries: tuple[str, ...],
    check: bool,
    upgrade: bool,
    moving: tuple[str, ...],
    image: str | None,
    attestations: tuple[Path, ...],
) -> None:
    """Resolve images/matrix.yaml into versions.lock.

    A pin that still fits the matrix stays. Base digests and commits that are open are asked from their servers. With
    --upgrade and --upgrade-package pins move: those of LIBRARIES, else all.
    """
    from images.locking import attestation, resolve
    from images.locking import lock as locks
    from images.machine import mirrors

    if check + upgrade + bool(moving) + bool(image) + bool(attestations) > 1:
        raise click.UsageError("--check, --upgrade, --upgrade-package, --record and --attest exclude each other")
    root = find_root()
    if attestations:
        return _attest(root, libraries, attestations)
    if check:
        sys.exit(_check_lock(root, libraries))
    if image:
        return _record(root, image)
    matrix = locks.load_matrix(root)
    locks.check_libraries(matrix, libraries)
    old = locks.previous(root, say)
    outside = resolve.Outside(say, mirrors.load(root))
    anew = (libraries or tuple(matrix.libraries)) if upgrade else ()
    new, files = locks.build_lock(root, matrix, old, outside, libraries, anew, moving)
    for path, text in files.items():
        write_atomic(path, text)
    write_atomic(root.lock, locks.lock_text(new))
    say(f"versions.lock: {len(new.entries)} entries")
    for line in attestation.lost(old, new):
        say(line)
    for line in outside.unresolved:
        say(f"still unresolved: {line}")
    sys.exit(Exit.UNAVAILABLE if outside.unresolved else Exit.OK)


@main.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 with the difference where a file is stale.")
def render(check: bool) -> None:
    """Render the committed Dockerfiles and entrypoints."""
    from images.building import render as renderer
    from images.locking import lock as locks

    root = find_root()
    stale = 0
    for name, text in renderer.committed(root, locks.tracked(root)).items():
        path = root.file(name)
        before = read_text(path) if path.exists() else ""
        if before == text:
            continue
        stale += 1
        if check:
            _show_diff(name, before, text)
        else:
            write_atomic(path, text, mode=0o755 if name.endswith(".sh") else 0o644)
            say(f"wrote {name}")
    if check and stale:
        say(f"{stale} rendered file(s) are stale; run: images render")
        sys.exit(Exit.DIFFERS)


@main.command()
@click.argument("library")
@click.option("--release", metavar="R", help="The library's release; the lock's default otherwise.")
@click.option("--flavour", type=click.Choice(["cpu", "cuda"]), default="cuda", show_default=True)
@click.option(
    "--base", "bases", multiple=True, metavar="REF=IMAGE", help="Build over a local image in place of FROM REF."
)
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="NAME=DIR",
    help="Take a repository from a checkout as it stands; NAME=none leaves it out.",
)
@click.option(
    "--with",
    "added",
    multiple=True,
    metavar="PACKAGE",
    help="Add NAME==VERSION, or a name of `extras:` in a matrix.yaml of yours: the release R+NAME, in a lock of yours.",
)
@click.option("--push", "reference", metavar="REF", help="Push it too, with a manifest that enroot understands.")
@click.option(
    "--platform", type=click.Choice(["linux/amd64", "linux/arm64"]), help="For this processor; the engine's otherwise."
)
@click.option("--no-cache", is_flag=True, help="Build every layer anew.")
def build(
    library: str,
    release: str | None,
    flavour: Any,
    bases: tuple[str, ...],
    sources: tuple[str, ...],
    added: tuple[str, ...],
    reference: str | None,
    platform: str | None,
    no_cache: bool,
) -> None:
    """Build the image of LIBRARY and record what it is."""
    from images.building import build as builder
    from images.locking import lock as locks

    root = find_root()
    lock = locks.load_lock(root)
    if added:
        lock, release = _with_added(root, library, flavour, release, added, platform or "")
    entry = locks.select(lock, library, flavour, release)
    request = builder.Request(entry, builder.substitutions(bases), sources, no_cache, platform or "")
    record = builder.build(root, lock, request, say)
    if reference:
        from images.building import push

        record = push.push(root, record, reference, say)
    click.echo(record.ids[0])


@main.command()
def base() -> None:
    """Make the bases of the cpu images from Debian's packages."""
    from images.building import base as maker
    from images.locking import lock as locks
    from images.locking import platforms

    root = find_root()
    for name, wish in locks.load_matrix(root).bootstrap.items():
        tar = maker.ensure(root, wish, platforms.named(os.uname().machine), say)
        click.echo(f"{name} {tar.path} sha256:{tar.facts.sha256}")


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("library")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--release", metavar="R")
@click.option("--flavour", type=click.Choice(["cpu", "cuda"]), default="cuda", show_default=True)
@click.option(
    "--mount", "mounts", multiple=True, metavar="DIR", help="A folder that the container sees at its own path."
)
def run(library: str, command: tuple[str, ...], release: str | None, flavour: Any, mounts: tuple[str, ...]) -> None:
    """Run COMMAND in the recorded image of LIBRARY, as the caller, in the first mounted folder, without a network."""
    from images.building import build as builder
    from images.locking import lock as locks

    root = find_root()
    lock = locks.load_lock(root)
    sys.exit(builder.run(root, lock, locks.select(lock, library, flavour, release), command, mounts))


@main.command()
@click.argument("image")
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="Where the file goes, not .slipway/squash.")
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="NAME=DIR",
    help="As of build, where no engine has built the image.",
)
def squash(image: str, folder: Path | None, sources: tuple[str, ...]) -> None:
    """Make the .sqsh of IMAGE and its sidecar, for enroot and pyxis; print where it is.

    IMAGE is LIBRARY/RELEASE-FLAVOUR, a tag or id on the engine, or docker://REGISTRY/IMAGE@sha256:DIGEST. Without a
    Docker engine, LIBRARY/RELEASE-cuda is the official container from its registry with what a build would add.
    """
    from images.locking import lock as locks
    from images.squashing import squash as squasher

    root = find_root()
    click.echo(squasher.squash(root, locks.load_lock(root), image, folder, say, sources))


@main.command()
@click.argument("image")
def verify(image: str) -> None:
    """Compare what is in IMAGE with its entry: exit 65 where anything differs.

    IMAGE is LIBRARY/RELEASE-FLAVOUR, a tag or id on the engine, or a .sqsh of `images squash`.
    """
    from images.inspection import verify as verifier
    from images.locking import lock as locks

    root = find_root()
    verifier.verify(root, locks.load_lock(root), image, say)


@main.command()
@click.argument("a")
@click.argument("b")
@click.option("--json", "as_json", is_flag=True, help="A list of {entry, what, from, to}.")
def diff(a: str, b: str, as_json: bool) -> None:
    """Say which pin moved from A to B; exit 1 where one did.

    A and B: a git revision (its lock), a lock file, LIBRARY/RELEASE-FLAVOUR of the current lock, or an image by tag or
    id.
    """
    import json

    from images.inspection import compare, sides

    root = find_root()
    found = compare.diff(sides.find(root, a), sides.find(root, b))
    if as_json:
        click.echo(json.dumps([d.json() for d in found], indent=2))
    else:
        click.echo("\n".join(map(str, found)) or "no difference")
    sys.exit(Exit.DIFFERS if found else Exit.OK)


@main.group()
def engine() -> None:
    """The Docker engine that this project talks to."""


@engine.command()
def up() -> None:
    """Find the engine that answers; install and start a private one where there is none."""
    from images.bootstrap import engine as engines

    address = engines.ensure(find_root(), say)
    click.echo(address.url)


@engine.command()
def down() -> None:
    """End the private engine and remove everything it had: processes, mounts, data."""
    from images.bootstrap import engine as engines

    engines.stop(find_root(), say)


@engine.command()
def status() -> None:
    """Say which engine commands talk to, and from where they know."""
    from images.bootstrap import engine as engines

    found = engines.status(find_root())
    word = "answers" if found.answers else "does not answer"
    click.echo(f"{found.address.url} (from {found.address.source}) {word}")
    sys.exit(Exit.OK if found.answers else Exit.UNAVAILABLE)


def _with_added(
    root: Root, library: str, flavour: Any, release: str | None, words: tuple[str, ...], platform: str
) -> tuple[Any, str]:
    """The lock with an entry that has the packages, and the release of that."""
    from images.locking import extras, resolve
    from images.locking import lock as locks
    from images.machine import mirrors

    lock = locks.tracked(root)
    wish = extras.wished(root, lock, library, words)
    base = locks.select(lock, library, flavour, release)
    return extras.derive(root, lock, base, wish, resolve.Outside(say, mirrors.load(root)), platform)


def _check_lock(root: Root, libraries: tuple[str, ...]) -> int:
    """Prints every pin beside what its server says now; returns the exit code."""
    from images.locking import lock as locks
    from images.locking import registry
    from images.machine import mirrors

    lock = locks.tracked(root)
    locks.check_libraries(locks.load_matrix(root), libraries)
    rows = registry.check(lock, libraries, mirrors.load(root))
    for row in rows:
        click.echo(str(row))
    return int(registry.exit_code(rows))


def _record(root: Root, image: str) -> None:
    from images.building import identity
    from images.locking import lock as locks
    from images.machine import dockerhost

    lock = locks.tracked(root)
    with dockerhost.engine_client(dockerhost.find(root)) as client:
        record, _ = identity.find(root, lock, image, client)
    write_atomic(root.lock, locks.lock_text(locks.with_image(lock, record.name, record.ids, record.drift)))
    say(f"versions.lock: {record.name} is {record.ids[0]}")


def _attest(root: Root, libraries: tuple[str, ...], files: tuple[Path, ...]) -> None:
    """All of them, or none."""
    from images.building import identity
    from images.locking import attestation
    from images.locking import lock as locks

    if libraries:
        raise click.UsageError("--attest takes no LIBRARY: each FILE names its entry")
    lock, told = locks.tracked(root), []
    for file in files:
        found = attestation.load(file)
        entry = lock.entries.get(found.name)
        records = [r for r in identity.records(root, entry) if not r.drift and not r.left_out] if entry else []
        lock = attestation.attested(lock, found, {digest for r in records for digest in r.ids}, str(file))
        ran = [name for name, step in found.steps.items() if step.result == "ok"]
        told.append(f"versions.lock: {found.name} is tested: {len(ran)} of {len(found.steps)} steps, {found.hardware}")
    write_atomic(root.lock, locks.lock_text(locks.sealed(lock)))
    for line in told:
        say(line)


def _show_diff(name: str, before: str, after: str) -> None:
    import difflib

    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"{name} (committed)", f"{name} (now)", "", ""
    )
    click.echo("\n".join(line.rstrip("\n") for line in lines))

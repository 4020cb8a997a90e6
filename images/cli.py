"""The `images` command."""

from __future__ import annotations

import sys
from typing import Any

import click

from slipway.console import command_group, say
from slipway.errors import Exit
from slipway.files import read_text, write_atomic
from slipway.project import find_root


@command_group()
def main() -> None:
    """Pinned container images: lock, render, build."""


@main.command()
@click.argument("libraries", nargs=-1)
def lock(libraries: tuple[str, ...]) -> None:
    """Resolve images/matrix.yaml into versions.lock.

    Base digests that are open are asked from their registries: those of LIBRARIES, else all.
    """
    from images import lock as locks
    from images import resolve
    from images.model import Lock
    from slipway import yamldoc

    root = find_root()
    matrix = locks.load_matrix(root)
    locks.check_libraries(matrix, libraries)
    old = yamldoc.load(root.lock, Lock) if root.lock.is_file() and root.lock.stat().st_size else None
    outside = resolve.Outside(say)
    new, files = locks.build_lock(root, matrix, old, outside, ask=libraries)
    for path, text in files.items():
        write_atomic(path, text)
    write_atomic(root.lock, locks.lock_text(new))
    say(f"versions.lock: {len(new.entries)} entries")
    for line in outside.unresolved:
        say(f"still unresolved: {line}")
    sys.exit(Exit.UNAVAILABLE if outside.unresolved else Exit.OK)


@main.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 with the difference where a file is stale.")
def render(check: bool) -> None:
    """Render the committed Dockerfiles and entrypoints."""
    from images import lock as locks
    from images import render as renderer

    root = find_root()
    stale = 0
    for name, text in renderer.committed(root, locks.load_lock(root)).items():
        path = root.path / name
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
@click.option("--no-cache", is_flag=True, help="Build every layer anew.")
def build(library: str, release: str | None, flavour: Any, bases: tuple[str, ...], no_cache: bool) -> None:
    """Build the image of LIBRARY and record what it is."""
    from images import build as builder
    from images import lock as locks

    root = find_root()
    lock = locks.load_lock(root)
    entry = locks.select(lock, library, flavour, release)
    request = builder.Request(entry, builder.substitutions(bases), no_cache)
    click.echo(builder.build(root, lock, request, say).ids[0])


@main.command()
def base() -> None:
    """Make the bases of the cpu images from Debian's packages."""
    from images import base as maker
    from images import lock as locks

    root = find_root()
    for name, wish in locks.load_matrix(root).bootstrap.items():
        tar = maker.ensure(root, wish, say)
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
    from images import build as builder
    from images import lock as locks

    root = find_root()
    entry = locks.select(locks.load_lock(root), library, flavour, release)
    sys.exit(builder.run(root, entry, command, mounts))


@main.group()
def engine() -> None:
    """The Docker engine that this project talks to."""


@engine.command()
def up() -> None:
    """Find the engine that answers; install and start a private one where there is none."""
    from images import engine as engines

    address = engines.ensure(find_root(), say)
    click.echo(address.url)


@engine.command()
def down() -> None:
    """End the private engine and remove everything it had: processes, mounts, data."""
    from images import engine as engines

    engines.stop(find_root(), say)


@engine.command()
def status() -> None:
    """Say which engine commands talk to, and from where they know."""
    from images import engine as engines

    found = engines.status(find_root())
    word = "answers" if found.answers else "does not answer"
    click.echo(f"{found.address.url} (from {found.address.source}) {word}")
    sys.exit(Exit.OK if found.answers else Exit.UNAVAILABLE)


def _show_diff(name: str, before: str, after: str) -> None:
    import difflib

    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"{name} (committed)", f"{name} (now)", "", ""
    )
    click.echo("\n".join(line.rstrip("\n") for line in lines))

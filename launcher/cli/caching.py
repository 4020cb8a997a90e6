"""`launch cache`: what steps have made for launches: models for NeMo RL's Megatron backend, inputs by `--convert`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from launcher.cli import options
from slipway.console import say
from slipway.errors import Exit, visible
from slipway.project import find_root

WHERE = [
    click.option("--profile", envvar="SLIPWAY_PROFILE", default="docker", show_default=True, help="Whose cache it is."),
    click.option("--megatron-cache", metavar="DIR", help="NRL_MEGATRON_CHECKPOINT_DIR; the profile's or usual one."),
    options.runs_dir,
]


def where(command: Any) -> Any:
    """The options that say which cache is meant."""
    for decorate in reversed(WHERE):
        command = decorate(command)
    return command


@click.group()
def cache() -> None:
    """Look after what was made for launches: NRL_MEGATRON_CHECKPOINT_DIR, and what --convert made beside the runs."""


def _places(profile: str, megatron_cache: str | None, runs_dir: str | None) -> Any:
    from launcher.catalog.profiles import find_profile
    from launcher.prerequisites import admin

    root = find_root()
    return admin.places(root, find_profile(root, profile), megatron_cache, runs_dir, os.environ)


@cache.command("list")
@where
@options.as_json
def list_(as_json: bool, **which: Any) -> None:
    """List what is there: whole, being made, unfinished, quarantined."""
    from launcher.prerequisites import admin
    from slipway import canonical

    there = _places(**which)
    found = admin.items(there)
    say(f"in {there.megatron} and {there.converted}")
    click.echo(canonical.pretty(found) if as_json else admin.table(found), nl=False)


@cache.command()
@click.argument("folders", nargs=-1)
@click.option("--force", is_flag=True, help="Also what a run makes, as far as can be seen.")
@where
def prune(folders: tuple[str, ...], force: bool, **which: Any) -> None:
    """Remove FOLDERS; else all that is not whole and that no run makes. A job that reads one would fail."""
    from launcher.prerequisites import admin

    removed = admin.prune(admin.items(_places(**which)), folders, force)
    for item in removed:
        click.echo(visible(f"removed {item.path} ({item.state}, {item.bytes / 2**30:.2f} GiB)"))
    say(f"{len(removed)} removed, {sum(i.bytes for i in removed) / 2**30:.2f} GiB")


@cache.command()
@click.argument("folders", nargs=-1)
@where
def verify(folders: tuple[str, ...], **which: Any) -> None:
    """Check FOLDERS, else everything: each file as long as its marker says, every shard of the checkpoint there."""
    from launcher.prerequisites import admin

    found = admin.items(_places(**which))
    chosen = admin.choose(found, folders) if folders else found
    faults = list(admin.verify(chosen))
    for fault in faults:
        click.echo(visible(fault))
    say(f"{len(chosen)} looked at, {len(faults)} faults")
    sys.exit(Exit.DATA if faults else Exit.OK)


@cache.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("step")
@click.argument("model", metavar="INPUT=MODEL")
@click.option("--flavour", type=click.Choice(["cpu", "cuda"]), default="cuda", show_default=True)
@click.option("--release", metavar="R", help="The library's release; the lock's default otherwise.")
@where
def adopt(folder: Path, step: str, model: str, flavour: Any, release: str | None, **which: Any) -> None:
    """Take in FOLDER, which NeMo RL has made of MODEL outside of any launch, once it has been checked."""
    from launcher.prerequisites import admin

    home = _places(**which).megatron
    click.echo(admin.adopt(find_root(), home, folder.absolute(), step, model, flavour, release))

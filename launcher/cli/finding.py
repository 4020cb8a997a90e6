"""The commands that find runs again: the list, comparison, and removal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launcher.cli import options
from slipway.console import say
from slipway.errors import Exit, SlipwayError, visible

if TYPE_CHECKING:
    from launcher.records.run_directory import Run


@click.command()
@click.option("-n", "most", type=click.IntRange(1), metavar="N", help="Only the newest N of them.")
@click.option("--state", "states", multiple=True, metavar="STATE", help="Only those in this state: running, failed, …")
@click.option("--step", "steps", multiple=True, metavar="STEP", help="Only those of this step, or folder of steps.")
@click.option("--since", default="", metavar="AGE|DATE", help="Only those submitted since: 90m, 12h, 3d, 2026-11-27.")
@click.option("--name", "names", multiple=True, metavar="NAME", help="Only those called so; a pattern such as 'lr-*'.")
@click.option("--tag", "tags", multiple=True, metavar="KEY[=VALUE]", help="Only those with this tag.")
@click.option("-w", "--watch", is_flag=True, help="Look again every 2 s, until none of them goes on.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per run.")
@options.runs_dir
@click.option("--profile", metavar="NAME", help="Only those of this profile.")
def runs(as_json: bool, watch: bool, runs_dir: str | None, profile: str | None, **wanted: Any) -> None:
    """List runs, newest last: those of every profile.

    \b
    launch runs -n 5 --state running --step rl
    launch runs --since 3d --name 'lr-*' -w
    """
    from launcher.runs import listing

    chosen = listing.Wanted(**wanted, profiles=[profile] if profile else [])
    listing.list_runs(options.runs_folders(runs_dir, profile), as_json, chosen, watch)


@click.command()
@click.argument("run_names", metavar="A B…", nargs=-1, required=True)
@options.as_json
@options.runs_dir
@options.of_profile
def compare(run_names: tuple[str, ...], as_json: bool, runs_dir: str | None, profile: str | None) -> None:
    """Say in what runs differ, and how their losses and speed went. Ends with 1 where they differ.

    \b
    launch compare lr-3 lr-4

    Their records are enough: images and data may be gone.
    """
    from launcher.runs import comparison

    if len(run_names) < 2:
        raise SlipwayError(Exit.WORDS, "expected two runs or more", remedy="launch compare A B…")
    found = comparison.compare([options.find_run(name, runs_dir, profile) for name in run_names])
    click.echo((comparison.as_json if as_json else comparison.text)(found), nl=False)
    sys.exit(1 if found.differences else Exit.OK)


@click.command("rm")
@click.argument("run_names", metavar="RUN…", nargs=-1, required=True)
@options.removing
@options.runs_dir
@options.of_profile
def remove(run_names: tuple[str, ...], runs_dir: str | None, profile: str | None, **how: Any) -> None:
    """Remove the directories of runs that have ended: records and logs; outputs stay.

    A run that another one has gone on from, or is made of, is kept, and one that goes on is refused: nothing is removed
    then.
    """
    named = (options.find_run(name, runs_dir, profile) for name in run_names)
    runs = list({run.path: run for run in named}.values())
    _remove(runs, options.runs_folders(runs_dir, profile), strict=True, **how)


@click.command()
@click.option("--older", default="", metavar="AGE", help="Those submitted longer ago: 30d, 12h, 2w.")
@click.option("--state", "states", multiple=True, metavar="STATE", help="Those that ended so: failed, cancelled, …")
@click.option("--step", "steps", multiple=True, metavar="STEP", help="Those of this step, or folder of steps.")
@click.option("--name", "names", multiple=True, metavar="NAME", help="Those called so; a pattern such as 'lr-*'.")
@click.option("--tag", "tags", multiple=True, metavar="KEY[=VALUE]", help="Those with this tag.")
@options.removing
@options.runs_dir
@click.option("--profile", metavar="NAME", help="Those of this profile.")
def prune(older: str, runs_dir: str | None, profile: str | None, dry_run: bool, checkpoints: bool, force: bool,
          **wanted: Any) -> None:  # fmt: skip
    """Remove the directories of ended runs that all these options fit, as `rm` does; the others stay.

    \b
    launch prune --older 30d --state failed --dry-run
    """
    from launcher.records.run_directory import Run
    from launcher.runs import listing

    if not (older or any(wanted.values())):
        raise SlipwayError(
            Exit.WORDS, "expected which runs are to go", remedy="launch prune --older 30d --state failed"
        )
    folders = options.runs_folders(runs_dir, profile)
    chosen = listing.Wanted(**wanted, profiles=[profile] if profile else [])
    before = listing.begin_of(older) if older else None
    rows = [row for row in listing.find_rows(folders, chosen) if before is None or row.run < before]
    ended = [Run(Path(row.directory)) for row in rows if row.exit_code is not None or row.state == "never submitted"]
    _remove(ended, folders, strict=False, dry_run=dry_run, checkpoints=checkpoints, force=force)


def _remove(runs: list[Run], folders: list[Path], strict: bool, dry_run: bool, checkpoints: bool, force: bool) -> None:
    """Says of each what becomes of it. `strict`: one that has to stay is an error, before any is removed."""
    from launcher.records import run_directory
    from launcher.runs import removal

    going, kept = removal.choose(runs, run_directory.list_runs(folders), checkpoints, force)
    if strict and kept:
        raise kept[0]
    for why in kept:
        say(f"kept: {why}")
    for folder in folders if not dry_run else ():
        removal.clear(folder)
    for planned in going:
        if not dry_run:
            removal.remove(planned)
        said = "would remove" if dry_run else "removed"
        also = f" and {planned.output}" if planned.output else ""
        click.echo(visible(f"{said} {planned.run.id} ({planned.state}, {planned.bytes / 2**20:,.1f} MiB){also}"))

"""The commands that find runs again: the list, comparison, and removal."""

from __future__ import annotations

import sys
from typing import Any

import click

from launcher.cli import options
from slipway.errors import Exit, SlipwayError


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

"""The commands that find runs again: the list, comparison, and removal."""

from __future__ import annotations

from typing import Any

import click

from launcher.cli import options


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

"""`launch lineage`: of what something is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from launcher.cli import options
from slipway.errors import Exit, SlipwayError, visible

if TYPE_CHECKING:
    from launcher.core.asked import Former
    from launcher.records.run_directory import Run


@click.command()
@click.argument("name", metavar="PATH|RUN")
@options.as_json
@click.option("--prov", is_flag=True, help="As W3C PROV JSON.")
@options.runs_dir
def lineage(name: str, as_json: bool, prov: bool, runs_dir: str | None) -> None:
    """Say of what a checkpoint, data or the output of a run is made: run by run, image by image, back to the data.

    \b
    launch lineage out/LATEST/model/consolidated
    launch lineage last --json
    """
    from launcher.lists import provenance
    from launcher.records import lineage as lineages
    from launcher.runs import lifecycle
    from slipway import canonical

    if as_json and prov:
        raise SlipwayError(Exit.WORDS, "--json and --prov: one of them")
    folders = options.runs_folders(runs_dir, None)

    def find(former: Former) -> Run | None:
        """The run, where it was or in any folder of runs."""
        from launcher.records.run_directory import Run

        for path in (Path(former.directory), *(folder / former.run for folder in folders)):
            if path.name == former.run and (path / "record.json").is_file():
                return Run(path)
        return None

    path = Path(name).expanduser()
    if path.exists() and not (path / "plan.json").is_file():
        thing = lineages.of_path(path.absolute(), find)
    else:
        run = options.find_run(name, runs_dir)
        record, state = lifecycle.refresh(run)
        if record is None:
            raise SlipwayError(Exit.NO_INPUT, f"has made nothing: {state}", where=f"run {run.id}")
        thing = lineages.of_run(run, record, find)
    if prov:
        click.echo(provenance.as_prov(thing), nl=False)
    elif as_json:
        click.echo(canonical.pretty(thing), nl=False)
    else:
        for line in lineages.text(thing):
            click.echo(visible(line))

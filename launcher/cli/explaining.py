"""`launch explain`: from a run's end, and what its logs say, to the cause and what to do."""

from __future__ import annotations

import click

from launcher.cli import options
from slipway.errors import Exit, SlipwayError, visible


@click.command()
@click.argument("run_name", metavar="RUN", default="last")
@options.as_json
@options.runs_dir
@options.of_profile
def explain(run_name: str, as_json: bool, runs_dir: str | None, profile: str | None) -> None:
    """Say why a run failed, and what to do: by its end, and by the lines of its logs that say it.

    \b
    launch explain last

    Of each log the last MiB is read. Causes are listed with the line that says them, the likeliest first.
    """
    from launcher.runs import explaining, lifecycle
    from slipway import canonical

    run = options.find_run(run_name, runs_dir, profile)
    record, state = lifecycle.refresh(run)
    if state == lifecycle.ANOTHERS:
        raise SlipwayError(Exit.NOT_PERMITTED, "is another user's run", where=str(run.path))
    if record is None or record.outcome is None:
        what, remedy = f"there is nothing to explain yet: it is {state}", f"launch show {run_name}"
        raise SlipwayError(Exit.TRY_AGAIN, what, where=run.id, remedy=remedy)
    known = explaining.explain(run, record)
    if as_json:
        click.echo(canonical.pretty(known), nl=False)
        return
    for line in explaining.text(known):
        click.echo(visible(line))

"""`launch pipeline`: launches that follow each other."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from launcher.cli import launching, options
from slipway.console import say
from slipway.errors import Exit, SlipwayError, message
from slipway.project import find_root


@click.command()
@click.argument("file", required=False, metavar="[NAME|FILE]")
@click.argument("words", nargs=-1, metavar="[PARAM=VALUE]…")
@click.option("--profile", metavar="NAME", help="Where all its steps run; as the file says otherwise.")
@click.option("--flavour", type=click.Choice(["cpu", "cuda"]), help="Image flavour of all its steps.")
@click.option("--from", "first", default="", metavar="STEP", help="Run STEP and what depends on it again.")
@click.option("--until", "last", default="", metavar="STEP", help="Only STEP and what it needs.")
@click.option("--show", is_flag=True, help="Say how its steps stand; start nothing.")
@options.follow
@click.option("--dry-run", is_flag=True, help="Check it, and say what would run, what would not, and why.")
@options.as_json
@click.option("--allow-drift", is_flag=True, help="Accept images that are not what the lock says; recorded.")
@options.runs_dir
def pipeline(
    file: str | None, words: tuple[str, ...], first: str, last: str, show: bool, follow: bool, dry_run: bool,
    as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Run the steps of a file in order; what is finished and unchanged is not run again.

    \b
    launch pipeline                                  # those that are found by name
    launch pipeline sft-lora-quantize train=chats.jsonl model=llama/ --dry-run
    launch pipeline mine.yaml --from merge

    Without FILE: what there is. All of it is checked before the first step starts. On Slurm all jobs are submitted at
    once, each after those that it needs; elsewhere one runs after the other.
    """  # fmt: skip
    from launcher.catalog import pipelines
    from launcher.chains import links
    from launcher.lists import pipeline_list
    from launcher.planning.probe import Looks

    root = find_root()
    if file is None:
        click.echo(pipeline_list.names(root), nl=False)
        return
    if as_json and not (dry_run or show):
        raise SlipwayError(Exit.WORDS, "--json is for --dry-run and --show")
    found = pipelines.find(root, file)
    book = links.book_of(root, found, given["profile"], given["runs_dir"])
    book.read()
    if show:
        click.echo(pipeline_list.standing(found, book, as_json), nl=False)
        return
    names, anew = links.chosen(found, first, last)
    values, said = pipelines.given(found, words), frozenset(word.partition("=")[0] for word in words)
    asked = links.Asked(values, said, anew=anew, argv=tuple(sys.argv[1:]), **given)
    chain = links.Chain(root, found, asked, book, Looks())
    if dry_run:
        chain.look(names)
        sys.exit(_told(chain, as_json))
    with book.lock():
        book.read()
        chain.look(names, fetch=True)
        code = _told(chain, False, quiet=True)
        sys.exit(code or _driven(root, chain, follow))


def _told(chain: Any, as_json: bool, quiet: bool = False) -> int:
    """Says what was found, and what would be; the first error's code, or 76 where a step stays what is not enough."""
    from slipway import canonical, tables

    for link in chain.links.values():
        for finding in link.findings:
            say(str(finding))
    rows = [_row(link) for link in chain.links.values()]
    wrong = chain.error()
    if as_json:
        click.echo(canonical.pretty({"schema": 1, "pipeline": chain.pipeline.name, "steps": rows}), nl=False)
    elif not quiet or wrong:
        heads = ("STEP", "LAUNCH", "PROFILE", "STANDS", "RUN", "WHY")
        cells = [(r["step"], r["launch"], r["profile"], r["stands"], r["run"] or "", r["why"]) for r in rows]
        text = tables.columns([heads, *cells], width=tables.terminal_width(), spared=(2, 1))
        (say if quiet else partial(click.echo, nl=False))(text.rstrip("\n") if quiet else text)
    if wrong:
        return int(wrong.code)
    return int(Exit.NOT_MET) if not quiet and any(r["stands"] == "not met" for r in rows) else 0


def _row(link: Any) -> dict[str, Any]:
    plan = link.planned.plan
    return {
        "step": link.name,
        "launch": plan.step,
        "profile": plan.profile.name,
        "image": f"{plan.library}/{plan.release}-{plan.flavour}",
        "stands": link.stands,
        "why": link.why,
        "run": link.run.id if link.run else None,
        "needs": {name: before for name, (before, _) in link.needs.items()},
        "expect": list(link.options.expect),
        "key": link.key,
        "findings": link.findings,
    }


def _driven(root: Any, chain: Any, follow: bool) -> int:
    """Runs it; the code of the first step that failed."""
    from launcher.chains import driving
    from launcher.planning.checks import preflight

    def start(prepared: Any, again: Callable[[], Any], jobs: list[str]) -> int:
        try:
            launch = launching.Launch(root, chain.looks, again, not prepared.engine.ATTACHED, False, tuple(jobs))
            return launch.submit(prepared)
        except SlipwayError as e:
            say(f"error: {e}")
            return int(e.code)

    def report(link: Any, prepared: Any) -> int:
        for note in prepared.notes:
            say(message(note))
        findings = chain.told(link, prepared.findings)
        for finding in findings:
            say(str(finding))
        wrong = preflight.first_error(findings)
        return int(wrong.code) if wrong else 0

    ends = driving.drive(chain, start, report, follow)
    if ends.held:
        say(f"not started: {', '.join(f'{name} ({why})' for name, why in ends.held.items())}")
    if ends.jobs:
        say(f"see how they stand with: launch pipeline {chain.pipeline.file} --show")
    return ends.code

"""The commands that run something, end it, or bring what a run needs."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from launcher.cli import launching, options, rehearsing
from slipway.console import say
from slipway.errors import Exit, SlipwayError
from slipway.project import find_root


@click.command()
@options.planning
@options.convert
@click.option("--rehearse", is_flag=True, help="First `launch rehearse` it; submit only what passes.")
@options.labels
@options.after
@options.detach
@options.follow
@options.dry_run
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: the request as JSON.")
@click.option("-o", "directory", type=click.Path(path_type=Path), help="Write the run directory there; submit nothing.")
def run(
    after: tuple[str, ...],
    detach: bool,
    follow: bool,
    dry_run: bool,
    as_json: bool,
    directory: Path | None,
    convert: bool,
    rehearse: bool,
    name: str,
    tags: tuple[str, ...],
    words: tuple[str, ...],
    **given: Any,
) -> None:
    """Run STEP with WORDS: input=PATH, parameter=VALUE, output=PATH, section.key=VALUE."""
    from launcher.planning import preparation, run_files
    from launcher.planning.probe import Looks
    from launcher.records import labels as labelling

    labels = labelling.said(name, tags)
    if directory and (name or tags):
        raise SlipwayError(Exit.WORDS, "-o submits nothing that could have a name", remedy="launch submit --name …")
    if rehearse and dry_run:
        raise SlipwayError(Exit.WORDS, "--rehearse and --dry-run: one of them")
    if after and directory:
        raise SlipwayError(Exit.WORDS, "--after and -o: one of them", remedy="submit it when that has ended")
    launching.refuse_both(detach, follow)
    root, looks = find_root(), Looks()
    asked = preparation.Options(words=words, argv=tuple(sys.argv[1:]), **given)
    jobs = options.await_runs(root, asked, looks, after, dry_run)
    prepared = preparation.prepare(root, asked, looks)
    if not dry_run:
        prepared = preparation.fetched(root, asked, prepared, looks)
    needing = options.converted(root, asked, prepared, looks) if convert else asked
    prepared = preparation.prepare(root, needing, looks) if needing.needs else prepared
    code = options.report(prepared)
    if rehearse and not code:
        code = rehearsing.rehearsed(root, needing, prepared, looks)
    if dry_run:
        say(f"note: launch config {asked.step} … prints every setting, and who set it")
    if dry_run or directory:
        first = 0 if code else options.report_needs(root, prepared, looks, quiet=not dry_run or as_json)
        if directory and not code and not first:
            run_files.write_directory(prepared, directory)
            say(f"wrote {directory}; submit it with: launch submit {directory}")
        if dry_run:
            click.echo(run_files.request_as(prepared, as_json, first), nl=False)
        sys.exit(code or first)

    def labelled(found: Any) -> Any:
        return dataclasses.replace(found, labels=labels)

    def again() -> Any:
        anew = preparation.prepare(root, asked, looks)
        if convert and (made := options.converted(root, asked, anew, looks)).needs:
            anew = preparation.prepare(root, made, looks)
        return labelled(anew)

    launch = launching.Launch(root, looks, again, detach, follow, tuple(jobs))
    sys.exit(code or launch.submit(labelled(prepared)))


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@options.labels
@options.detach
@options.follow
@options.runs_dir
def submit(directory: Path, name: str, tags: tuple[str, ...], detach: bool, follow: bool, runs_dir: str | None) -> None:
    """Submit a run directory that `-o` wrote; it is copied to a run id of its own."""
    from launcher.planning import run_files
    from launcher.records import labels as labelling

    launching.refuse_both(detach, follow)
    root, labels = find_root(), labelling.said(name, tags)
    prepared = run_files.from_directory(root, directory, runs_dir, tuple(sys.argv[1:]))
    try:
        after = launching.ensured(root, prepared)
    except launching.FirstFailed as e:
        sys.exit(e.code)
    sys.exit(launching.go(root, dataclasses.replace(prepared, labels=labels), detach, follow, after))


@click.command()
@click.argument("run_name", metavar="RUN")
@options.runs_dir
@options.of_profile
def cancel(run_name: str, runs_dir: str | None, profile: str | None) -> None:
    """Ask a run to stop; kill it after its grace."""
    from launcher.records import run_directory
    from launcher.runs import display, ending

    try:
        found = options.find_run(run_name, runs_dir, profile)
    except SlipwayError as e:
        if e.code != Exit.NO_INPUT or not run_directory.is_id(run_name) or not options.end_lost(run_name, profile):
            raise
        return
    display.print_end(found, ending.cancel(found))


@click.command()
@click.argument("name", metavar="hf://…")
@click.option("--revision", default="", metavar="R", help="A branch, tag or commit; main otherwise.")
@click.option("--hf-home", metavar="DIR", help="Into this HF_HOME; the profile's otherwise.")
@click.option("--profile", envvar="SLIPWAY_PROFILE", default="docker", show_default=True, help="Whose HF_HOME it is.")
def fetch(name: str, revision: str, hf_home: str | None, profile: str) -> None:
    """Bring hf://[datasets/]org/name[@revision][/path] into HF_HOME, at one commit; print where it is."""
    from launcher.artifacts import hub, hub_cache
    from launcher.catalog.profiles import find_profile
    from launcher.planning import probe

    asked = hub_cache.parse(name, revision)
    home = Path(hf_home).expanduser().absolute() if hf_home else probe.hf_home(find_profile(find_root(), profile))
    click.echo(hub.fetch(asked, home))

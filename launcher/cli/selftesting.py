"""`launch selftest`: the `tiny` configuration of every step that a profile can hold, and what that attests."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from launcher.cli import options
from slipway.console import say
from slipway.errors import Exit, SlipwayError, message, visible
from slipway.project import find_root


@click.command()
@click.option("--profile", "name", envvar="SLIPWAY_PROFILE", default="docker", show_default=True, help="Where to run.")
@click.option("--library", metavar="L", help="Only the steps of this library.")
@click.option("--release", metavar="R", help="With --library: its release; the lock's default otherwise.")
@click.option("--flavour", type=click.Choice(["cpu", "cuda"]), help="Image flavour; by the engine's GPUs otherwise.")
@click.option("--dry-run", is_flag=True, help="Say what would run, with which words; create nothing.")
@click.option("-o", "folder", type=click.Path(path_type=Path), help="Where attestations go, not .slipway/attestations.")
@options.as_json
@options.runs_dir
def selftest(
    name: str,
    library: str | None,
    release: str | None,
    flavour: Any,
    dry_run: bool,
    folder: Path | None,
    as_json: bool,
    runs_dir: str | None,
) -> None:
    """Run the tiny configuration of every step that a profile can hold, and write down that it was run.

    \b
    launch selftest --profile site --library nemo-rl
    images lock --attest .slipway/attestations/nemo-rl-v0.7.0-cuda.json

    On tiny inputs that it makes, without a network; one run after the other, each an ordinary one with the tag
    `selftest`. For each image it writes an attestation, which `images lock --attest` takes into the lock. Ends with the
    code of the first step that failed; with 69 where none could run.
    """
    from launcher.catalog import profiles
    from launcher.planning.probe import Looks
    from launcher.records import run_directory
    from launcher.selftest import trial

    if release and not library:
        raise SlipwayError(Exit.WORDS, "a release is of one library", where="--release", remedy="name it: --library L")
    root = find_root()
    profile = profiles.find_profile(root, name)
    runs = run_directory.runs_dir(root, runs_dir, profile.runs)
    site = trial.Site(root, profile, runs, Looks(), tuple(sys.argv[1:]))
    lessons = trial.lessons(site, library, flavour, release)
    if dry_run:
        _foresee(site, lessons, as_json)
        return
    rows = _run(site, lessons, as_json)
    code = next((row.exit_code for row in rows if row.exit_code), Exit.OK)
    files = [] if any(row.result == "stopped" for row in rows) else _attest(site, rows, folder)
    if not any(row.run for row in rows) and not code:
        say(message(f"no step could be run with the profile {name}", "launch selftest --dry-run says why of each"))
        code = Exit.UNAVAILABLE
    if as_json:
        from slipway import canonical

        listed = [{"step": r.lesson.step, "entry": r.lesson.entry.name, "tested": r.tested} for r in rows]
        told = {"schema": 1, "profile": name, "exit_code": int(code), "steps": listed, "attestations": files}
        click.echo(canonical.pretty(told), nl=False)
    sys.exit(code)


def _foresee(site: Any, lessons: Sequence[Any], as_json: bool) -> None:
    """What would run, in order; where a step takes another one's output, the run is named by that step."""
    from launcher.selftest import trial
    from slipway import canonical

    outputs = {lesson.step: f"run:{lesson.step}" for lesson in lessons}
    rows: list[dict[str, Any]] = []
    for lesson in lessons:
        typed = ["launch", "--profile", site.profile.name, lesson.step, *lesson.options]
        command = [*typed, *trial.words(site, lesson, outputs)] if lesson.fits else []
        rows.append({"step": lesson.step, "entry": lesson.entry.name, "command": command, "why": lesson.why})
    if as_json:
        click.echo(canonical.pretty({"schema": 1, "profile": site.profile.name, "steps": rows}), nl=False)
        return
    for row in rows:
        if row["why"]:
            click.echo(visible(f"# skipped: {row['step']} in {row['entry']}: {row['why']}"))
        if row["command"]:
            click.echo(visible(("# " if row["why"] else "") + shlex.join(row["command"])))


def _run(site: Any, lessons: Sequence[Any], as_json: bool) -> list[Any]:
    """One after the other, and a row as each ends."""
    from launcher.selftest import trial
    from launcher.selftest.attesting import Row

    if any(not lesson.why for lesson in lessons):
        trial.lay_out(site)
    rows: list[Any] = []
    outputs: dict[str, str] = {}
    told = {lesson.step: lesson.why for lesson in lessons}
    for number, lesson in enumerate(lessons, 1):
        lacks = next((of for of in lesson.inputs.values() if of in told and of not in outputs), None)
        if lesson.why or lacks:
            row = Row(lesson, "skipped", lesson.why or f"{lacks}, whose output it takes, has made none")
        else:
            say(f"{number}/{len(lessons)} {lesson.step} in {lesson.entry.name}")
            row = trial.run(site, lesson, trial.words(site, lesson, outputs))
        if row.result == "ok" and row.run:
            outputs[lesson.step] = f"run:{row.run.path}"
        rows.append(row)
        _tell(row, max(len(each.step) for each in lessons), as_json)
        if row.result == "stopped":
            say(f"stopped; {len(lessons) - number} more were not run, and nothing is attested")
            break
    return rows


def _tell(row: Any, width: int, as_json: bool) -> None:
    """A line, and those that explain a failure; beside a JSON document they are for the person at the terminal."""
    tell = say if as_json else click.echo
    time = f"{row.seconds:.0f} s" if row.seconds is not None else ""
    lines = [f"exit code {row.exit_code}"] if row.told else row.why.split("\n")
    rest = "; ".join(filter(None, [time, row.run.id if row.run else "", lines[0]]))
    tell(visible(f"{row.result:8} {row.lesson.step.ljust(width)}  {row.lesson.entry.name}  {rest}"))
    for line in [*lines[1:], *row.told]:
        tell(visible(f"         {line.strip()}"))
    if row.result == "failed" and row.run:
        tell(visible(f"         launch explain {row.run.id}"))


def _attest(site: Any, rows: Sequence[Any], folder: Path | None) -> list[str]:
    """Writes what of each image has run; the files."""
    from launcher.catalog import definitions
    from launcher.selftest import attesting

    home = site.root.file("launcher")
    ours = [step.id for step in definitions.all_steps(site.root) if Path(step.folder).is_relative_to(home)]
    files = []
    for path, found in attesting.attestations(rows, ours, folder or site.root.kept("attestations")):
        attesting.write(path, found)
        failed = [name for name, step in found.steps.items() if step.result == "failed"]
        lead = f"the lock takes it by: images lock --attest {shlex.quote(str(path))}"
        say(f"{found.name}: {f'{path} says what failed; the lock does not take it' if failed else lead}")
        files.append(str(path))
    return files

"""The commands that look: at steps, profiles, files, plans and runs. None of them starts anything."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from launcher.cli import options
from slipway.console import say
from slipway.errors import Exit, SlipwayError, visible
from slipway.project import find_root

TOKENIZER = "tokenizer="


@click.command("env")
@options.planning
@options.as_json
def show_env(as_json: bool, words: tuple[str, ...], **given: Any) -> None:
    """Say which variables STEP with WORDS would see, who sets each, and what the image says. Takes what `run` takes."""
    from launcher.lists import step_list
    from launcher.planning import preparation

    root = find_root()
    prepared = preparation.prepare(root, preparation.Options(words=words, **given))
    click.echo(step_list.environment(root, prepared.plan, as_json), nl=False)


@click.command("config")
@options.planning
@click.option("--diff", type=click.Choice(["default"]), help="Only what is not as the step's default has it.")
@options.as_json
def show_config(diff: str | None, as_json: bool, words: tuple[str, ...], **given: Any) -> None:
    """Print every setting that STEP with WORDS would have, and who set it. Takes what `run` takes."""
    from launcher.lists import config_list
    from launcher.planning import configuration, planner, preparation

    if diff and as_json:
        raise SlipwayError(Exit.WORDS, "--diff and --json: one of them")
    prepared = preparation.prepare(find_root(), preparation.Options(words=words, **given))
    assert prepared.spec is not None  # it was made here
    if diff:
        click.echo(config_list.changes(prepared.spec, planner.container_paths(prepared.plan.inputs)), nl=False)
    else:
        click.echo((config_list.as_json if as_json else config_list.text)(prepared.spec), nl=False)
    wrong = [*configuration.check(prepared.spec)]
    for finding in wrong:
        say(str(finding))
    sys.exit(wrong[0].code if wrong else Exit.OK)


@click.command("show")
@click.argument("run_name", metavar="RUN", default="last")
@click.option("--json", "as_json", is_flag=True, help="The record as JSON.")
@click.option("--timing", is_flag=True, help="Where its time went, phase by phase; adds up to the whole.")
@options.runs_dir
@options.of_profile
def show_run(run_name: str, as_json: bool, timing: bool, runs_dir: str | None, profile: str | None) -> None:
    """Show a run: what, how it stands or ended, where its things are."""
    from launcher.runs import display, lifecycle
    from launcher.runs import timing as timings

    run = options.find_run(run_name, runs_dir, profile)
    if not timing:
        display.show(run, as_json)
        return
    record, state = lifecycle.refresh(run)
    if record is None:
        raise SlipwayError(Exit.NO_INPUT, f"there is no time to tell of: {state}", where=str(run.path))
    click.echo((timings.as_json if as_json else timings.text)(timings.of(run, record)), nl=False)


@click.command()
@click.argument("run_names", metavar="RUN…", nargs=-1, required=True)
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="Give up after that long, with 75.")
@options.runs_dir
@options.of_profile
def wait(run_names: tuple[str, ...], timeout: float | None, runs_dir: str | None, profile: str | None) -> None:
    """Wait until runs have ended; print how each did.

    \b
    launch wait $(launch --detach …) && launch …

    Ends with the exit code of the first, in this order, that did not end with 0. Ctrl-C, and --timeout, leave the runs
    alone.
    """
    from launcher.runs import lifecycle, waiting

    deadline = None if timeout is None else time.monotonic() + timeout
    runs = [options.find_run(name, runs_dir, profile) for name in run_names]
    code = 0
    for run in runs:
        record = waiting.await_end(run, deadline)
        click.echo(visible(f"{run.id} {lifecycle.word(record)}"))
        code = code or (record.outcome.exit_code if record.outcome else 0)
    sys.exit(code)


@click.command()
@click.argument("run_name", metavar="RUN", default="last")
@click.option("-f", "--follow", is_flag=True, help="Until the run ends; Ctrl-C leaves it running.")
@click.option("--ray", is_flag=True, help="What Ray wrote on every node, by file; then the log, which is the driver's.")
@options.runs_dir
@options.of_profile
def logs(run_name: str, follow: bool, ray: bool, runs_dir: str | None, profile: str | None) -> None:
    """Print a run's log."""
    from launcher.runs import display

    if ray and follow:
        raise SlipwayError(Exit.WORDS, "--ray and --follow: one of them")
    found = options.find_run(run_name, runs_dir, profile)
    if ray:
        display.ray_logs(found)
    else:
        display.logs(found, follow)


@click.command()
@options.planning
@click.option("--full", is_flag=True, help="Of files: read all of them, not the beginning.")
@click.option("--workers", type=click.IntRange(1), help="Processes with --full; all cores otherwise.")
@click.option("--rows", is_flag=True, help="Of files: numbers of all rows, also where there are many.")
@click.option("--length", type=click.IntRange(1), help="Of files: how many rows have more tokens (tokenizer=PATH).")
@options.as_json
def check(
    full: bool, workers: int | None, rows: bool, length: int | None, as_json: bool, step: str, words: tuple[str, ...],
    **given: Any,
) -> None:  # fmt: skip
    """Say what would stop `launch run STEP WORDS`; or what is wrong with files, folders and quoted patterns, and how
    many rows they have, of which roles, how long (tokenizer=PATH or hf://…), and which repeat another."""
    if not Path(step).exists() and not (full or rows or length):
        from launcher.catalog import definitions
        from launcher.planning import preparation  # files need neither

        root = find_root()
        if definitions.is_step(root, step):
            prepared = preparation.prepare(root, preparation.Options(step=step, words=words, **given))
            code = options.report(prepared) or options.report_needs(root, prepared)
            say("nothing stops it" if code == Exit.OK else "it would not be submitted")
            sys.exit(code)
    named = [w.removeprefix(TOKENIZER) for w in words if w.startswith(TOKENIZER)]
    files = (step, *(w for w in words if not w.startswith(TOKENIZER)))
    _check_files(files, full, workers, rows, named[-1] if named else "", length, as_json)


def _check_files(
    words: tuple[str, ...], full: bool, workers: int | None, rows: bool, tokenizer: str, length: int | None,
    as_json: bool,
) -> None:  # fmt: skip
    from launcher.artifacts import full_check, tokens
    from slipway import canonical

    if length and not tokenizer:
        raise SlipwayError(Exit.WORDS, "--length counts tokens", remedy="name tokenizer=PATH or tokenizer=hf://…")
    for word in words:
        if word.startswith("hf://"):
            raise SlipwayError(Exit.WORDS, "hf:// is not a path", where=word, remedy="launch fetch prints one")
    paths = [Path(word) for word in words]
    if full:
        report = full_check.check_files(paths, workers or len(os.sched_getaffinity(0)), _progress())
    else:
        report = full_check.look_at(paths)
    loaded = tokens.Tokenizer(_tokenizer_folder(tokenizer)) if tokenizer else None
    report = full_check.with_numbers(report, rows or bool(tokenizer), loaded, length)
    text = canonical.pretty(report) if as_json else "".join(f"{full_check.describe(c)}\n" for c in report.checked)
    click.echo(text, nl=False)
    sys.exit(report.exit)


def _tokenizer_folder(named: str) -> Path:
    """A folder, or what HF_HOME has of a name on the hub. Raises SlipwayError 66 where it has nothing."""
    from launcher.artifacts import hub, hub_cache

    if not named.startswith("hf://"):
        return Path(named).expanduser()
    home, asked = hub_cache.home(), hub_cache.parse(named)
    if not (commit := hub_cache.known_commit(asked, home)):
        what = f"is not in the cache {home}"
        raise SlipwayError(Exit.NO_INPUT, what, where=f"{TOKENIZER}{named}", remedy=hub.remedy(asked, home))
    return asked.at(commit).snapshot(home) / asked.below


@click.command()
@click.argument("step", required=False)
@click.option("--library", metavar="L", help="Only those that run in this library's image.")
@click.option("--consumes", metavar="TYPE", help="Only those that take artifacts of this type.")
@click.option("--produces", metavar="TYPE", help="Only those that make an artifact of this type.")
@options.as_json
def steps(step: str | None, library: str | None, consumes: str | None, produces: str | None, as_json: bool) -> None:
    """List the steps, or those of a folder (sft, rl); or say everything of one STEP."""
    from launcher.catalog import definitions
    from launcher.lists import step_list

    root = find_root()
    if step and (chosen := step_list.below(root, step)):
        click.echo((step_list.as_json if as_json else step_list.table)(root, chosen), nl=False)
        return
    if step and not as_json:
        click.echo(step_list.details(root, step), nl=False)
        return
    chosen = [definitions.find_step(root, step)] if step else step_list.choose(root, library, consumes, produces)
    click.echo((step_list.as_json if as_json else step_list.table)(root, chosen), nl=False)


@click.group(invoke_without_command=True)
@options.as_json
@click.pass_context
def profiles(context: click.Context, as_json: bool) -> None:
    """List the profiles; `profiles show NAME` says every key of one, `profiles doctor NAME` looks at its machine."""
    from launcher.lists import profile_list
    from slipway import canonical

    if context.invoked_subcommand is None:
        found = profile_list.all_profiles(find_root())
        click.echo(canonical.pretty(found) if as_json else profile_list.table(found), nl=False)


@profiles.command("show")
@click.argument("name")
@options.as_json
def show_profile(name: str, as_json: bool) -> None:
    """Say every key of the profile NAME, its value and the file and line that say so."""
    from launcher.lists import profile_list
    from slipway import canonical

    found = profile_list.keys(find_root(), name)
    click.echo(canonical.pretty(found) if as_json else profile_list.details(found), nl=False)


@profiles.command()
@click.argument("name")
@click.option("--probe", "nodes", type=click.IntRange(1), is_flag=False, flag_value=2, default=None, metavar="[N]",
              help="Slurm: a job of seconds on N nodes, 2 unless named.")  # fmt: skip
@options.as_json
def doctor(name: str, nodes: int | None, as_json: bool) -> None:
    """Look whether the machine or site of the profile NAME is what that says."""
    from launcher import doctor
    from launcher.catalog.profiles import find_profile
    from slipway import canonical

    root = find_root()
    profile = find_profile(root, name)
    if nodes and profile.kind != "slurm":
        raise SlipwayError(Exit.WORDS, f"{name} is a {profile.kind} profile: it has no nodes", where="--probe")
    results = doctor.examine(root, profile, nodes or 0)
    click.echo(canonical.pretty(results) if as_json else doctor.table(results), nl=False)
    sys.exit(doctor.exit_code(results))


@click.command()
@click.argument("kind", type=click.Choice(["matrix", "metrics", "pipeline", "profile", "record", "step"]))
def schema(kind: str) -> None:
    """Print the JSON Schema of step.yaml, of profiles, pipelines or images/matrix.yaml, for editors; for programs, that
    of a run's record.json, or of a line of its metrics.jsonl."""
    from launcher.lists import step_list

    click.echo(step_list.schema(kind), nl=False)


def _progress() -> Callable[[int, int], None]:
    """Draws a bar on stderr where that is a terminal; the bar ends with the last byte."""
    bars: list[Any] = []

    def show(done: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        if not bars:
            bars.append(click.progressbar(length=total, file=sys.stderr, label="checking").__enter__())
        bars[0].update(done - bars[0].pos)
        if done == total:
            bars[0].render_finish()

    return show

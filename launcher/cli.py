"""The `launch` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from slipway.console import Group, command_group, say
from slipway.errors import Exit, SlipwayError
from slipway.project import find_root


class _Launch(Group):
    """`launch [run] STEP …`: a first word with `/` is a step, else a verb; options may stand before it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first = next((i for i, a in enumerate(args) if not a.startswith("-") and not _is_value(args, i)), None)
        if first is not None and args[first] in self.commands:
            args = [args[first], *args[:first], *args[first + 1 :]]
        elif first is not None and "/" in args[first]:
            args = ["run", *args]
        return super().parse_args(ctx, args)


_TAKES_VALUE = (
    "--profile", "--release", "--flavour", "--nodes", "--gpus", "--procs", "--env", "--code", "--runs-dir",
    "--megatron-cache", "-c", "-o",
)  # fmt: skip


def _is_value(args: list[str], index: int) -> bool:
    return index > 0 and args[index - 1] in _TAKES_VALUE


@command_group(cls=_Launch)
def main() -> None:
    """Run training steps in pinned containers.

    \b
    launch [--profile NAME] STEP input=PATH … [parameter=VALUE …] [section.key=VALUE …]
    launch sft/automodel train=chats.jsonl model=llama/ output=out/ max_steps=100
    """


def _runs_dir(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--runs-dir", metavar="DIR", help="Where run directories are.")(command)


@main.command()
@click.argument("step")
@click.argument("words", nargs=-1)
@click.option("--profile", envvar="SLIPWAY_PROFILE", default="docker", show_default=True, help="Where to run.")
@click.option("--release", metavar="R", help="The library's release; the lock's default otherwise.")
@click.option("--flavour", type=click.Choice(["cpu", "cuda"]), help="Image flavour; by the engine's GPUs otherwise.")
@click.option(
    "-c", "overlays", multiple=True, metavar="NAME|FILE", help="A configuration over the default; repeatable."
)
@click.option("--nodes", type=click.IntRange(1), help="Machines.")
@click.option("--gpus", type=click.IntRange(0), help="GPUs per machine.")
@click.option("--procs", type=click.IntRange(1), help="Processes per machine (cpu flavour; 1 otherwise).")
@click.option("--env", multiple=True, metavar="NAME[=VALUE]", help="A variable for the container; repeatable.")
@click.option("--code", multiple=True, metavar="NAME=DIR[@REV]", help="Your tree over the image's NAME; repeatable.")
@click.option("--allow-dirty", is_flag=True, help="With --code: pack changes that are not committed; recorded.")
@click.option("--convert", is_flag=True, help="Where an input is of another type: run the step that converts it first.")
@click.option(
    "--megatron-cache", metavar="DIR", help="NRL_MEGATRON_CHECKPOINT_DIR; the profile's or usual one otherwise."
)
@click.option("--resume", is_flag=True, help="Continue the run whose output is in output=.")
@click.option("--allow-drift", is_flag=True, help="Accept an image that is not what the lock says; recorded.")
@click.option("--detach", is_flag=True, help="Submit and return: what Slurm always does without --follow.")
@click.option("--follow", is_flag=True, help="Stay with a Slurm job until it ends; Ctrl-C leaves it running.")
@click.option("--dry-run", is_flag=True, help="Print what would be submitted; create nothing.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: the request as JSON.")
@click.option("-o", "directory", type=click.Path(path_type=Path), help="Write the run directory there; submit nothing.")
@_runs_dir
def run(
    detach: bool,
    follow: bool,
    dry_run: bool,
    as_json: bool,
    directory: Path | None,
    convert: bool,
    words: tuple[str, ...],
    **given: Any,
) -> None:
    """Run STEP with WORDS: input=PATH, parameter=VALUE, output=PATH, section.key=VALUE."""
    from launcher import flow

    root = find_root()
    options = flow.Options(words=words, argv=tuple(sys.argv[1:]), **given)
    prepared = flow.prepare(root, options)
    if not dry_run:
        prepared = flow.fetched(root, options, prepared)
    if convert:
        prepared = _convert(root, options, prepared, dry=dry_run or bool(directory))
    code = _report(prepared)
    if dry_run or directory:
        if directory and not code:
            flow.write_directory(prepared, directory)
            say(f"wrote {directory}; submit it with: launch submit {directory}")
        if dry_run:
            click.echo(flow.request_as(prepared, as_json), nl=False)
        sys.exit(code)
    if code:
        sys.exit(code)
    _go(prepared, detach, follow)


_NOT_PLANNING = ("detach", "follow", "dry_run", "directory", "convert")


@main.command("env", params=[p for p in run.params if p.name not in _NOT_PLANNING])
def show_env(as_json: bool, words: tuple[str, ...], **given: Any) -> None:
    """Say which variables STEP with WORDS would see, who sets each, and what the image says. Takes what `run` takes."""
    from launcher import flow, steplist

    root = find_root()
    prepared = flow.prepare(root, flow.Options(words=words, **given))
    click.echo(steplist.environment(root, prepared.plan, as_json), nl=False)


@main.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--detach", is_flag=True, help="Submit and return: what Slurm always does without --follow.")
@click.option("--follow", is_flag=True, help="Stay with a Slurm job until it ends; Ctrl-C leaves it running.")
@_runs_dir
def submit(directory: Path, detach: bool, follow: bool, runs_dir: str | None) -> None:
    """Submit a run directory that `-o` wrote; it is copied to a run id of its own."""
    from launcher import flow

    _go(flow.from_directory(find_root(), directory, runs_dir, tuple(sys.argv[1:])), detach, follow)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object per run.")
@_runs_dir
def runs(as_json: bool, runs_dir: str | None) -> None:
    """List runs, newest last."""
    from launcher import show

    show.list_runs(_where(runs_dir), as_json)


@main.command("show")
@click.argument("run_name", metavar="RUN", default="last")
@click.option("--json", "as_json", is_flag=True, help="The record as JSON.")
@_runs_dir
def show_run(run_name: str, as_json: bool, runs_dir: str | None) -> None:
    """Show a run: what, how it stands or ended, where its things are."""
    from launcher import records, show

    show.show(records.find(_where(runs_dir), run_name), as_json)


@main.command()
@click.argument("run_name", metavar="RUN", default="last")
@click.option("-f", "--follow", is_flag=True, help="Until the run ends; Ctrl-C leaves it running.")
@click.option("--ray", is_flag=True, help="What Ray wrote on every node, by file; then the log, which is the driver's.")
@_runs_dir
def logs(run_name: str, follow: bool, ray: bool, runs_dir: str | None) -> None:
    """Print a run's log."""
    from launcher import records, show

    if ray and follow:
        raise SlipwayError(Exit.WORDS, "--ray and --follow: one of them")
    found = records.find(_where(runs_dir), run_name)
    if ray:
        show.ray_logs(found)
    else:
        show.logs(found, follow)


@main.command()
@click.argument("run_name", metavar="RUN")
@_runs_dir
def cancel(run_name: str, runs_dir: str | None) -> None:
    """Ask a run to stop; kill it after its grace."""
    from launcher import life, records, show

    found = records.find(_where(runs_dir), run_name)
    show.print_end(found, life.cancel(found))


@main.command()
@click.argument("name", metavar="hf://…")
@click.option("--revision", default="", metavar="R", help="A branch, tag or commit; main otherwise.")
@click.option("--hf-home", metavar="DIR", help="Into this HF_HOME; the profile's otherwise.")
@click.option("--profile", envvar="SLIPWAY_PROFILE", default="docker", show_default=True, help="Whose HF_HOME it is.")
def fetch(name: str, revision: str, hf_home: str | None, profile: str) -> None:
    """Bring hf://[datasets/]org/name[@revision][/path] into HF_HOME, at one commit; print where it is."""
    from launcher import hub, hubcache, observe
    from launcher.profiles import find_profile

    asked = hubcache.parse(name, revision)
    home = Path(hf_home).expanduser().absolute() if hf_home else observe.hf_home(find_profile(find_root(), profile))
    click.echo(hub.fetch(asked, home))


_FOR_FILES = [
    click.Option(["--full"], is_flag=True, help="Of files: read all of them, not the beginning."),
    click.Option(["--workers"], type=click.IntRange(1), help="Processes with --full; all cores otherwise."),
]


@main.command("check", params=[*(p for p in run.params if p.name not in _NOT_PLANNING), *_FOR_FILES])
def check(full: bool, workers: int | None, as_json: bool, step: str, words: tuple[str, ...], **given: Any) -> None:
    """Say what would stop `launch run STEP WORDS`; or what is wrong with files, folders and quoted patterns."""
    from launcher import catalogue, flow

    root = find_root()
    if not Path(step).exists() and not full and catalogue.is_step(root, step):
        code = _report(flow.prepare(root, flow.Options(step=step, words=words, **given)))
        say("nothing stops it" if code == Exit.OK else "it would not be submitted")
        sys.exit(code)
    _check_files((step, *words), full, workers, as_json)


def _check_files(words: tuple[str, ...], full: bool, workers: int | None, as_json: bool) -> None:
    from launcher import fullcheck
    from slipway import canonical

    for word in words:
        if word.startswith("hf://"):
            raise SlipwayError(Exit.WORDS, "hf:// is not a path", where=word, remedy="launch fetch prints one")
    paths = [Path(word) for word in words]
    if full:
        report = fullcheck.check_files(paths, workers or len(os.sched_getaffinity(0)), _progress())
    else:
        report = fullcheck.look_at(paths)
    text = canonical.pretty(report) if as_json else "".join(f"{fullcheck.describe(c)}\n" for c in report.checked)
    click.echo(text, nl=False)
    sys.exit(report.exit)


@main.command()
@click.argument("step", required=False)
@click.option("--library", metavar="L", help="Only those that run in this library's image.")
@click.option("--consumes", metavar="TYPE", help="Only those that take artifacts of this type.")
@click.option("--produces", metavar="TYPE", help="Only those that make an artifact of this type.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def steps(step: str | None, library: str | None, consumes: str | None, produces: str | None, as_json: bool) -> None:
    """List the steps; or say everything of one STEP."""
    from launcher import catalogue, steplist

    root = find_root()
    if step and not as_json:
        click.echo(steplist.details(root, step), nl=False)
        return
    chosen = [catalogue.find_step(root, step)] if step else steplist.choose(root, library, consumes, produces)
    click.echo((steplist.as_json if as_json else steplist.table)(root, chosen), nl=False)


@main.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_context
def profiles(context: click.Context, as_json: bool) -> None:
    """List the profiles; `profiles show NAME` says every key of one, `profiles doctor NAME` looks at its machine."""
    from launcher import profilelist
    from slipway import canonical

    if context.invoked_subcommand is None:
        found = profilelist.all_profiles(find_root())
        click.echo(canonical.pretty(found) if as_json else profilelist.table(found), nl=False)


@profiles.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show_profile(name: str, as_json: bool) -> None:
    """Say every key of the profile NAME, its value and the file and line that say so."""
    from launcher import profilelist
    from slipway import canonical

    found = profilelist.keys(find_root(), name)
    click.echo(canonical.pretty(found) if as_json else profilelist.details(found), nl=False)


@profiles.command()
@click.argument("name")
@click.option("--probe", "nodes", type=click.IntRange(1), is_flag=False, flag_value=2, default=None, metavar="[N]",
              help="Slurm: a job of seconds on N nodes, 2 unless named.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def doctor(name: str, nodes: int | None, as_json: bool) -> None:
    """Look whether the machine or site of the profile NAME is what that says."""
    from launcher import doctor
    from launcher.profiles import find_profile
    from slipway import canonical

    root = find_root()
    profile = find_profile(root, name)
    if nodes and profile.kind != "slurm":
        raise SlipwayError(Exit.WORDS, f"{name} is a {profile.kind} profile: it has no nodes", where="--probe")
    results = doctor.examine(root, profile, nodes or 0)
    click.echo(canonical.pretty(results) if as_json else doctor.table(results), nl=False)
    sys.exit(doctor.exit_code(results))


@main.command()
@click.argument("kind", type=click.Choice(["matrix", "profile", "step"]))
def schema(kind: str) -> None:
    """Print the JSON Schema of step.yaml, of profiles or of images/matrix.yaml, for editors."""
    from launcher import steplist

    click.echo(steplist.schema(kind), nl=False)


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


def _where(runs_dir: str | None) -> Path:
    from launcher import profiles, records

    root = find_root()
    profile = profiles.find_profile(root, os.environ.get("SLIPWAY_PROFILE", "").strip() or "docker")
    return records.runs_dir(root, runs_dir, profile.runs)


def _report(prepared: Any) -> int:
    """Prints notes and findings; returns the exit code of the first error."""
    from launcher import rules

    for note in prepared.notes:
        say(note)
    for finding in prepared.findings:
        say(str(finding))
    error = rules.first_error(prepared.findings)
    return error.code if error else Exit.OK


def _convert(root: Any, options: Any, prepared: Any, dry: bool) -> Any:
    """Runs the steps that convert inputs; the launch anew, with what they made. A dry run prints the first and ends."""
    from launcher import convert, flow

    conversions = convert.needed(root, options, prepared)
    for conversion in conversions:
        step = conversion.prepared.plan.step
        if conversion.made:
            say(f"{conversion.input}: {step} has made {conversion.folder} before")
            continue
        say(f"{conversion.input}: first {step}, into {conversion.folder}")
        if code := _report(conversion.prepared):
            sys.exit(code)
        if dry:
            click.echo(flow.request_as(conversion.prepared, False), nl=False)
            say("what follows is planned once that has run: its inputs do not exist yet")
            sys.exit(Exit.OK)
        with conversion.claimed():
            if not conversion.made:
                if code := _finish(conversion.prepared).outcome.exit_code:
                    sys.exit(code)
                conversion.marker.touch()
    return flow.prepare(root, convert.converted(options, conversions)) if conversions else prepared


def _go(prepared: Any, detach: bool, follow: bool) -> None:
    from launcher import life

    if detach and follow:
        raise SlipwayError(Exit.WORDS, "--detach and --follow: one of them")
    if detach or not (prepared.engine.ATTACHED or follow):
        with life.submitted(prepared) as (started, _):
            click.echo(started.id)
        say(f"follow it with: launch logs -f {started.id}")
        return
    sys.exit(_finish(prepared).outcome.exit_code)


def _finish(prepared: Any) -> Any:
    """Runs it to its end; its record, which has an outcome."""
    from launcher import life, show

    if prepared.engine.ATTACHED:
        finished, record = life.run_in_foreground(prepared)
        show.print_end(finished, record)
    else:
        with life.submitted(prepared) as (finished, _):
            click.echo(finished.id)
        record = show.follow(finished)
    if record.outcome is None:
        raise SlipwayError(Exit.INTERNAL, "the run goes on although its log ended", where=str(finished.path))
    return record

"""From a plan to a run: what is printed of it, what is made first, and who stays with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from launcher.cli import options
from slipway.console import say
from slipway.errors import Exit, SlipwayError


def refuse_both(detach: bool, follow: bool) -> None:
    """Raises SlipwayError 64 where a launch is to stay and to return."""
    if detach and follow:
        raise SlipwayError(Exit.WORDS, "--detach and --follow: one of them")


class FirstFailed(Exception):
    """What a launch needs could not be made, which has been said: the exit `code` of the launch that was to make it."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Launch:
    """How a launch that is planned becomes a run.

    `again`: plans it anew, where another run has taken its GPUs meanwhile, or what it needs was made. `jobs`: those
    that have to end well first. `interactive`: its user's terminal goes into the container.
    """

    root: Any
    looks: Any
    again: Callable[[], Any]
    detach: bool = False
    follow: bool = False
    jobs: tuple[str, ...] = ()
    interactive: bool = False

    def report(self, prepared: Any, dry_run: bool, as_json: bool = False) -> int:
        """Prints it, or submits it; the exit code."""
        from launcher.planning import run_files

        code = options.report(prepared)
        if not dry_run:
            return code or self.submit(prepared)
        first = 0 if code else options.report_needs(self.root, prepared, self.looks, quiet=as_json)
        click.echo(run_files.request_as(prepared, as_json, first), nl=False)
        return code or first

    def submit(self, prepared: Any) -> int:
        """Submits what nothing stops, and stays with it where that is asked for; the exit code."""
        from launcher.core import gpus
        from launcher.prerequisites import requirements

        code = 0
        while not code:
            try:
                made = ensured(self.root, prepared, self.looks, self.jobs)
                if not requirements.outdated(prepared.plan):
                    return self._go(prepared, made)
                say("planned anew, with what was made")
            except FirstFailed as e:
                return e.code
            except gpus.Taken as e:
                say(f"{e.what}; planned anew")
            self.looks.waited()
            prepared = self.again()
            code = options.report(prepared)
        return code

    def _go(self, prepared: Any, after: Sequence[str]) -> int:
        if not self.interactive:
            return go(self.root, prepared, self.detach, self.follow, after, self.jobs)
        from launcher.runs import display, interactive

        run, record = interactive.run(prepared, after)
        display.print_end(run, record)
        return int(record.outcome.exit_code) if record.outcome else Exit.INTERNAL


def ensured(root: Any, prepared: Any, looks: Any = None, jobs: Sequence[str] = ()) -> list[str]:
    """Has made what a launch needs, or knows the jobs that make it. Raises FirstFailed where that fails.

    `jobs`: those that have to end well before anything of it may start.
    """
    from launcher.prerequisites import requirements
    from launcher.runs import lifecycle

    def start(first: Any) -> Any:
        if code := options.report(first):
            raise FirstFailed(code)
        after = ensured(root, first, looks, jobs)
        if first.engine.ATTACHED:
            if code := _finish(first).outcome.exit_code:
                raise FirstFailed(code)
            return None
        with lifecycle.submitted(first, after, jobs) as (started, _):
            say(f"it is run {started.id}")
            return started

    return requirements.ensure(root, prepared, start, looks)


def go(root: Any, prepared: Any, detach: bool, follow: bool, after: Sequence[str], jobs: Sequence[str] = ()) -> int:
    """Its exit code, or 0 where nobody stays with it.

    `after`: jobs that make what it needs; `jobs`: those that have to end well before it may start.
    """
    from launcher.records import run_directory
    from launcher.runs import lifecycle

    if detach or not (prepared.engine.ATTACHED or follow):
        with lifecycle.submitted(prepared, after, jobs) as (started, _):
            click.echo(started.id)
        say(f"follow it with: launch logs -f {run_directory.spoken(root, started.path)}")
        return 0
    return int(_finish(prepared, after, jobs).outcome.exit_code)


def _finish(prepared: Any, after: Sequence[str] = (), jobs: Sequence[str] = ()) -> Any:
    """Runs it to its end; its record, which has an outcome."""
    from launcher.runs import display, foreground, lifecycle

    if prepared.engine.ATTACHED:
        finished, record = foreground.run(prepared)
        display.print_end(finished, record)
    else:
        with lifecycle.submitted(prepared, after, jobs) as (finished, _):
            click.echo(finished.id)
        record = display.follow(finished)
    if record.outcome is None:
        raise SlipwayError(Exit.INTERNAL, "the run goes on although its log ended", where=str(finished.path))
    return record

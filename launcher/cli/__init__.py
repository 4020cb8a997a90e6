"""The `launch` command: `running` are the commands that run something, `repeating` those that do so again, `by_hand`
those that run what their user types, `rehearsing` tries a launch out, `pipelining` is `launch pipeline`, `looking` are
those that look, `finding` those that find runs again, `tracing` tells of what something is made, `explaining` why a run
failed, `caching` are those about converted models, `selftesting` tries the steps out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from launcher.cli import (
    by_hand,
    caching,
    explaining,
    finding,
    looking,
    pipelining,
    rehearsing,
    repeating,
    running,
    selftesting,
    tracing,
)
from slipway.console import Group, command_group
from slipway.errors import nearest

COMMANDS = {
    "Run": [running.run, pipelining.pipeline, rehearsing.rehearse, running.submit, repeating.resume, repeating.replay],
    "By hand": [by_hand.shell, by_hand.execute],
    "Watch": [finding.runs, looking.show_run, looking.logs, explaining.explain, looking.wait, running.cancel],
    "Past runs": [finding.compare, tracing.lineage, finding.remove, finding.prune],
    "Look": [looking.steps, looking.check, looking.show_config, looking.show_env],
    "Prepare": [running.fetch, caching.cache],
    "Site": [looking.profiles, selftesting.selftest, looking.schema],
}
# What other tools call it.
ELSEWHERE = {
    "start": "run", "bash": "shell", "attach": "shell",
    "stop": "cancel", "kill": "cancel", "scancel": "cancel", "ps": "runs", "ls": "runs",
    "list": "runs", "queue": "runs", "squeue": "runs", "status": "show", "describe": "show", "info": "show",
    "log": "logs", "tail": "logs -f", "watch": "logs -f", "pull": "fetch", "download": "fetch", "validate": "check",
    "doctor": "profiles doctor", "catalog": "steps", "dry-run": "run --dry-run", "diff": "compare", "delete": "rm",
    "remove": "rm", "why": "explain", "diagnose": "explain",
}  # fmt: skip
WHOLE = 1000  # characters of a sentence of help: all of it


class _Launch(Group):
    """`launch [run] STEP …`: a first word with `/` is a step, else a verb; options may stand before it. With --help a
    step is shown, and not the options of `run`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = [p for p in running.run.params if isinstance(p, click.Option) and not p.is_flag]
        take_value = {name for option in options for name in option.opts}
        words = (n for n, a in enumerate(args) if not a.startswith("-") and not (n and args[n - 1] in take_value))
        first = next(words, None)
        if first is not None and args[first] in self.commands:
            args = [args[first], *args[:first], *args[first + 1 :]]
        elif first is not None and "/" in args[first]:
            asks = not {"-h", "--help"}.isdisjoint(args)
            args = ["steps", args[first]] if asks else ["run", *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            ctx.fail(f"there is no command {args[0]!r}; {_meant(args[0], self.commands)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """By what they are for, each with its whole first sentence."""
        for title, commands in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(str(c.name), c.get_short_help_str(WHOLE)) for c in commands])


def _meant(word: str, commands: Iterable[str]) -> str:
    """What a word that is no command may have been for."""
    if word in ELSEWHERE:
        return f"did you mean `launch {ELSEWHERE[word]}`?"
    near = nearest(word, commands)
    return near if near.startswith("did") else "a step is named with its folder, as `launch steps` lists them"


@command_group(cls=_Launch)
def main() -> None:
    """Run training steps in pinned containers.

    \b
    launch [OPTIONS] STEP input=PATH … [parameter=VALUE …] [section.key=VALUE …]

    \b
    launch sft/automodel train=chats.jsonl model=llama/ output=out/ max_steps=100
    launch --profile site rl/grpo policy=llama/ train=math.jsonl --nodes 2
    launch logs -f last
    """


for command in (command for commands in COMMANDS.values() for command in commands):
    main.add_command(command)

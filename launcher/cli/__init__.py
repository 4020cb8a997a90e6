"""The `launch` command: `running` are the commands that run something, `rehearsing` tries a launch out, `looking` are
those that look, `caching` those about converted models."""

from __future__ import annotations

import click

from launcher.cli import caching, looking, rehearsing, running
from slipway.console import Group, command_group


class _Launch(Group):
    """`launch [run] STEP …`: a first word with `/` is a step, else a verb; options may stand before it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = [p for p in running.run.params if isinstance(p, click.Option) and not p.is_flag]
        take_value = {name for option in options for name in option.opts}
        words = (n for n, a in enumerate(args) if not a.startswith("-") and not (n and args[n - 1] in take_value))
        first = next(words, None)
        if first is not None and args[first] in self.commands:
            args = [args[first], *args[:first], *args[first + 1 :]]
        elif first is not None and "/" in args[first]:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@command_group(cls=_Launch)
def main() -> None:
    """Run training steps in pinned containers.

    \b
    launch [--profile NAME] STEP input=PATH … [parameter=VALUE …] [section.key=VALUE …]
    launch sft/automodel train=chats.jsonl model=llama/ output=out/ max_steps=100
    """


for command in (
    *(running.run, running.submit, running.cancel, running.fetch),
    *(looking.show_config, looking.show_env, looking.runs, looking.show_run, looking.logs),
    looking.check,
    rehearsing.rehearse,
    *(looking.steps, looking.profiles, looking.schema, caching.cache),
):
    main.add_command(command)

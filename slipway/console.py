"""What every command does alike: speak on stderr, and turn errors into one message and an exit code."""

from __future__ import annotations

import os
import select
import sys
import traceback
from collections.abc import Callable
from typing import Any, TextIO

import click

from slipway.errors import Exit, SlipwayError, visible


def say(text: str) -> None:
    """Lines for the person at the terminal, while there is one; stdout is kept for results.

    What they tell may come from a container or a file: nothing in it steers the terminal.
    """
    try:
        click.echo("\n".join(map(visible, text.split("\n"))), err=True)
    except OSError:  # it was closed, or is a file on a disk that is full: no reason to end what goes on
        unread(sys.stderr)


def say_now(text: str) -> None:
    """The same, but nothing where that would have to wait: whoever is at the terminal may have stopped reading."""
    if sys.stderr is not None and select.select([], [sys.stderr], [], 0)[1]:
        say(text)


def unread(stream: TextIO) -> None:
    """Sends what is still to come on `stream` nowhere: every write would fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Group(click.Group):
    """Maps every SlipwayError of a command to its exit code, in one place."""

    def invoke(self, ctx: click.Context) -> Any:
        # Not in main: there, click has taken a reader that left and Ctrl-C for failures with exit code 1.
        try:
            return super().invoke(ctx)
        except SlipwayError as e:
            say(f"error: {e}")
            sys.exit(e.code)
        except KeyboardInterrupt:
            sys.exit(130)
        except BrokenPipeError:
            # Whoever read our output left (`launch runs | head`): nothing more to say.
            unread(sys.stdout)
            sys.exit(Exit.OK)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise  # click's own ways to end a command
        except Exception as e:  # noqa: BLE001 - shown whole, with its own exit code
            traceback.print_exc()
            say(f"error: a fault in slipway itself: {type(e).__name__}: {e}")
            sys.exit(Exit.INTERNAL)


def command_group(cls: type[click.Group] = Group, **options: Any) -> Callable[[Callable[..., Any]], click.Group]:
    """`click.group` with the project's error handling and `-h`."""
    from slipway import __version__

    def decorate(function: Callable[..., Any]) -> click.Group:
        settings = {"help_option_names": ["-h", "--help"]}
        group = click.group(cls=cls, context_settings=settings, **options)(function)
        return click.version_option(__version__, message="slipway %(version)s")(group)

    return decorate

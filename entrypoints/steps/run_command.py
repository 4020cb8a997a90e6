"""A command of the user's own where a step would run: run_command.py FOLDER COMMAND [WORD...]

The command takes this process's place, in FOLDER, with all that a step has. 127 and 126 as in a shell: there is no such
command, or it cannot be started.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    folder, *command = sys.argv[1:]
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and a command would inherit
        signal.signal(number, signal.SIG_DFL)
    try:
        os.chdir(folder)
        os.execvp(command[0], command)
    except OSError as e:
        print(f"slipway: {command[0]}: cannot be started: {e.strerror}", file=sys.stderr, flush=True)
        sys.exit(127 if isinstance(e, FileNotFoundError) else 126)


if __name__ == "__main__":
    main()

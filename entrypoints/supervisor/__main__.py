"""`<library>.sh` starts this with its own arguments, by the Python of the image, as `-I -S -B -X utf8`.

So neither the caller's variables, locale and working directory nor packages of the image change what this does.
"""

import os

try:
    import signal
    import sys

    # Before anything else: from here on no signal does anything by itself. `processes` takes them one by one.
    INHERITED = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
except KeyboardInterrupt:  # until now it ends this program, as any other signal does
    os._exit(130)

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # last: no module is found there instead

from supervisor.main import Supervisor
from supervisor.settings import inherited

os._exit(Supervisor(inherited(), INHERITED).run(sys.argv[1:]))  # nothing is left to be written or waited for

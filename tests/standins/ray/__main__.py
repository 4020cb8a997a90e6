"""`ray start --block`: writes down its words and environment, and a log where Ray has them; ends when it is told."""

import json
import os
import signal
import sys
from pathlib import Path

place = Path(os.environ["RAY_STANDIN"])
if (place / "broken").exists():
    sys.exit("\x1b[0mno raylet for you")
(place / "ray.json").write_text(json.dumps({"argv": sys.argv[1:], "env": dict(os.environ), "pid": os.getpid()}))
for temp in [word.partition("=")[2] for word in sys.argv if word.startswith("--temp-dir=")]:
    logs = Path(temp, "session_2026", "logs")
    logs.mkdir(parents=True)
    (logs / "raylet.out").write_text("raylet: is up\n")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
(place / "started").touch()
print("Ray runtime started.", flush=True)
while True:
    signal.pause()

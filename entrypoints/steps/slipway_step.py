"""What step programs share: the plan, the merged configuration, and what they leave in the run directory.

Programs in this folder run in the library's own Python (3.9 or newer) and import nothing heavy at their top.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import slipway_resolver

OUTPUT = Path(os.environ.get("SLIPWAY_OUTPUT_DIR", "/output"))
SLIPWAY = Path(os.environ.get("SLIPWAY_DIR", "/slipway"))
STATE = Path(os.environ.get("SLIPWAY_STATE_DIR", "/run/slipway"))
REFUSED = 78
STARTED = "SLIPWAY_STARTED_WITH"  # by continue_with: a wrapper's interpreter need not have the name that was asked for
MARKER = "slipway.json"  # in a folder of a cache: it is whole


class ConfigError(Exception):
    """A configuration that cannot be run; the message names the key. Ends a step program with 78."""


def rank() -> int:
    """The global rank; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def node_dir() -> Path:
    """What the ranks of one node share with its entrypoint."""
    return Path(os.environ.get("SLIPWAY_NODE_DIR", STATE / "0"))


def run(main: Callable[[], None]) -> None:
    """Runs a step program: announces this rank, and leaves the reason of a failure for status.json."""
    write_private(node_dir() / "ranks" / f"{rank()}.pid", f"{os.getpid()}\n")  # whom to tell that it is time to stop
    show_stacks_when_asked()
    try:
        main()
        if rank() == 0:
            seal(load_plan().get("makes"))
    except ConfigError as e:
        leave("refused", str(e))
        print(f"slipway: refused: {e}", file=sys.stderr, flush=True)
        sys.exit(REFUSED)
    except Exception as e:
        leave("reason", f"{type(e).__name__}: {e}")
        raise


def show_stacks_when_asked() -> None:
    """USR2 makes Python write the stacks of all threads, whatever they wait for; the entrypoint sends it where nothing
    has moved for too long (profile: stall), and has made the folder where it may."""
    folder = node_dir() / "stacks"
    if folder.is_dir():
        file = os.open(folder / f"{rank()}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        faulthandler.register(signal.SIGUSR2, file=file, all_threads=True)


def leave(name: str, why: str) -> None:
    """One line for the entrypoint; the first rank that fails tells why, the others fail because of it."""
    with (
        contextlib.suppress(FileExistsError),
        open(node_dir() / name, "x", encoding="utf-8", errors="backslashreplace", opener=private) as f,
    ):
        f.write(" ".join(why.split())[:500] + "\n")


def continue_with(python: str, what: str) -> None:
    """Starts this program anew with another environment's interpreter, once. Raises ConfigError where there is none."""
    if os.environ.get(STARTED) == python:
        return
    if not os.access(python, os.X_OK):
        raise ConfigError(f"{python}: the image has no environment for {what}")
    os.environ[STARTED] = python
    os.execv(python, [python, *sys.argv])


def load_plan() -> dict[str, Any]:
    return json.loads((SLIPWAY / "plan.json").read_text(encoding="utf-8"))


def merge_config(
    config: dict[str, Any], load: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> dict[str, Any]:
    """base, then layers in order, `remove`, `resume`, `set`, as the plan's `config` has them. Raises ConfigError.

    `load`: reads the base, where the library has a way of its own.
    """
    layers = [("", layer["values"]) for layer in config["layers"]]
    resume = config["resume"]["set"] if goes_on(config) else []
    assigned = [slipway_resolver.Assignment(key, value, "") for key, value in [*resume, *config["set"]]]
    found = slipway_resolver.resolve((load or load_base)(config["base"]), layers, config["remove"], assigned)
    for wrong in found.impossible:
        raise ConfigError(str(wrong))
    return slipway_resolver.plain(found.root)


def goes_on(config: dict[str, Any]) -> bool:
    """Whether this run continues another (`--resume`) or an earlier attempt of its own that left a checkpoint."""
    if "resume" not in config or not (os.environ.get("SLIPWAY_ATTEMPT", "0") != "0" or load_plan()["resume"]):
        return False
    where = Path(config["resume"]["where"])
    found = any(where.parent.glob(where.name))
    if not found and rank() == 0:
        print(f"slipway: there is no {config['resume']['where']} to go on from: starting anew", file=sys.stderr)
    return found


def load_base(base: dict[str, Any]) -> dict[str, Any]:
    """The base's own values, or those of a YAML file in the image."""
    if "values" in base:
        return base["values"]
    import yaml

    path = Path(base["path"])
    if not path.is_file():
        raise ConfigError(f"{path}: the step starts from this file, and the image does not have it")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@contextlib.contextmanager
def config_file(config: dict[str, Any]) -> Iterator[Path]:
    """The configuration as a YAML file: on rank 0 the run directory's config.yaml, elsewhere one that goes away."""
    import yaml

    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    if rank() == 0:
        write_private(STATE / "config.yaml", text)
        yield STATE / "config.yaml"
        return
    with tempfile.TemporaryDirectory(prefix="slipway-config-") as folder:
        path = Path(folder, "config.yaml")
        path.write_text(text, encoding="utf-8")
        yield path


def write_result(result: dict[str, Any]) -> None:
    """What the step made, for the record; rank 0 alone calls it.

    JSON has no NaN and no infinities: such a number is null, and `not_finite` says by its dotted key what it was.
    """
    odd: dict[str, str] = {}
    said = finite(result, odd)
    if odd:
        said["not_finite"] = odd
        print(f"slipway: not finite: {', '.join(f'{key} is {what}' for key, what in odd.items())}", file=sys.stderr)
    write_private(STATE / "result.json", json.dumps(said, indent=2, allow_nan=False) + "\n")


def finite(value: Any, odd: dict[str, str], key: str = "") -> Any:
    """`value` with null for every number that is not finite; those are told in `odd`."""
    if isinstance(value, float) and not math.isfinite(value):
        odd[key] = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return None
    if isinstance(value, dict):
        return {k: finite(v, odd, f"{key}.{k}" if key else str(k)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v, odd, f"{key}.{n}") for n, v in enumerate(value)]
    return value


def seal(makes: dict[str, Any] | None) -> None:
    """Ends what this run puts into a cache: all of it on disk, then the marker that says so, and with what sizes.

    Whoever finds the marker may read the folder, on any node and after any crash.
    """
    if makes is None:
        return
    paths = sorted(OUTPUT.rglob("*"))
    for path in [*(p for p in paths if p.is_file()), *(p for p in paths if p.is_dir()), OUTPUT]:
        sync(path)
    files = {str(p.relative_to(OUTPUT)): p.stat().st_size for p in paths if p.is_file()}
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    made = {**makes, "schema": 1, "run": os.environ.get("SLIPWAY_RUN", ""), "finished": finished, "files": files}
    part = OUTPUT / f".{MARKER}.{os.getpid()}"
    part.write_text(json.dumps(made, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    sync(part)
    part.replace(OUTPUT / MARKER)
    sync(OUTPUT)


def sync(path: Path) -> None:
    """Returns when a file, or a folder's list of names, is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, text: str, opener: Callable[[str, int], int] | None = None) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with open(part, "w", encoding="utf-8", opener=opener) as f:
        f.write(text)
    part.replace(path)


def write_private(path: Path, text: str) -> None:
    """Into the run directory, where files are for their owner alone; the step's umask is about its output."""
    write_atomic(path, text, private)


def private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

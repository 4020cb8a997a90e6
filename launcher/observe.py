"""All looking before a launch: artifacts, output, host, engine, image. Everything after it is pure."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from images.model import Entry
from launcher import artifacts, catalogue, engines
from launcher.artifacts import Artifact
from launcher.catalogue import Step
from launcher.plan import EngineSeen, HostSeen, Observed, OutputSeen
from launcher.profiles import Profile
from launcher.words import Words
from slipway.errors import SlipwayError
from slipway.project import Root


def engine(root: Root, profile: Profile) -> EngineSeen:
    """The profile's engine."""
    return engines.of(profile.kind).probe(root, profile)


def everything(root: Root, profile: Profile, entry: Entry, words: Words, found: EngineSeen, runs: Path) -> Observed:
    """Looks at all that rules and plan need, once."""
    return Observed(
        artifacts={name: artifacts.inspect(name, Path(value)) for name, value in words.inputs.items()},
        output=_output(Path(words.output)) if words.output else None,
        engine=found,
        image=engines.of(profile.kind).find_image(root, entry, profile, found),
        host=_host(profile, runs),
    )


def converters(root: Root, step: Step, found: dict[str, Artifact]) -> list[Step]:
    """The catalogue, where an input is of another type than the step takes; else nothing has to be read for it."""
    wrong = any(a.type and a.type not in step.inputs[name].types for name, a in found.items())
    try:
        return catalogue.all_steps(root) if wrong else []
    except SlipwayError:
        return []  # another step's file is wrong, which is no reason not to say what is wrong here


def _output(path: Path) -> OutputSeen:
    real = path.expanduser().absolute()
    real = real.resolve() if real.exists() else real.parent.resolve() / real.name
    kind = "folder" if real.is_dir() else "other" if real.exists() else "missing"
    nearest = _nearest(real)
    return OutputSeen(
        path=str(real),
        kind=kind,  # type: ignore[arg-type]
        empty=kind == "missing" or (kind == "folder" and not any(real.iterdir())),
        writable=os.access(nearest, os.W_OK | os.X_OK),
        free=shutil.disk_usage(nearest).free,
        nearest=str(nearest),
    )


def _nearest(path: Path) -> Path:
    """The path itself or the nearest parent that is there."""
    return next(p for p in (path, *path.parents) if p.exists())


def _host(profile: Profile, runs: Path) -> HostSeen:
    hf_home = profile.hf_home or os.environ.get("HF_HOME", "").strip() or "~/.cache/huggingface"
    return HostSeen(
        uid=os.getuid(),
        gid=os.getgid(),
        cpus=len(os.sched_getaffinity(0)),
        hf_home=str(Path(hf_home).expanduser().absolute()),
        runs=str(runs),
        runs_writable=os.access(_nearest(runs), os.W_OK | os.X_OK),
        runs_free=shutil.disk_usage(_nearest(runs)).free,
        missing_mounts=[m.source for m in profile.mounts if not Path(m.source).exists()],
        missing_secrets=_missing_secrets(profile.secrets),
    )


def _missing_secrets(declared: dict[str, str]) -> dict[str, str]:
    """Name -> why it cannot be had."""
    missing = {}
    for name, where in declared.items():
        path = Path(where.removeprefix("file:"))
        if where == "env" and not os.environ.get(name):
            missing[name] = "the variable is not set here"
        elif where != "env" and not os.access(path, os.R_OK):
            missing[name] = f"{path} cannot be read"
    return missing

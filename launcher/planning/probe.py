"""All looking before a launch: artifacts, output, host, engine, image. Everything after it is pure."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from images.locking.model import Entry
from launcher import engines
from launcher.artifacts import checkpoints, detection, hub, hub_cache
from launcher.artifacts.datasets import USUAL, Rows
from launcher.artifacts.detection import Artifact, Reader
from launcher.artifacts.faults import fault
from launcher.catalog import definitions
from launcher.catalog.definitions import Resume, Step
from launcher.catalog.profiles import Profile
from launcher.core.arguments import Arguments
from launcher.core.plan import SECRETS, EngineInfo, HostInfo, HubInfo, OutputInfo, Probed, Unreadable
from launcher.records import outputs
from slipway.errors import Exit, SlipwayError
from slipway.files import owner
from slipway.findings import Finding
from slipway.project import Root


def engine(root: Root, profile: Profile) -> EngineInfo:
    """The profile's engine."""
    return engines.of(profile.kind).probe(root, profile)


def everything(
    root: Root,
    profile: Profile,
    entry: Entry,
    words: Arguments,
    found: EngineInfo,
    runs: Path,
    reads: Mapping[str, Rows] | None = None,
    resumed: Resume | None = None,
) -> Probed:
    """Looks at all that rules and plan need, once. `reads`: how an input's rows are read, as `rows` has it.

    `resumed`: from what the run is to go on.
    """
    seen = _inputs(words, profile, reads or {})
    return Probed(
        artifacts={name: seen[name][0] for name in words.inputs},
        hub={name: of_hub for name in words.inputs if (of_hub := seen[name][1])},
        output=_output(Path(words.output), resumed) if words.output else None,
        engine=found,
        image=engines.of(profile.kind).find_image(root, entry, profile, found),
        host=_host(root, profile, runs),
        unreadable=dict(_unreadable({name: seen[name][0] for name in words.inputs}, _reader(profile, found))),
    )


def _reader(profile: Profile, found: EngineInfo) -> Reader:
    """Who reads in the container, as this machine knows users.

    A rootless engine's root is the user whose engine it is. With Docker a container has the first of the user's groups
    alone; enroot and pyxis start it as a process of the user's, with all of them.
    """
    uid, gid = os.getuid(), os.getgid()
    if profile.kind != "docker":
        return Reader(uid, frozenset({gid, *os.getgroups()}))
    if found.users == "rootless" and found.owner is not None:
        uid = found.owner
        with contextlib.suppress(KeyError):
            gid = pwd.getpwuid(uid).pw_gid
    return Reader(uid, frozenset({gid}))


def _unreadable(inputs: Mapping[str, Artifact], reader: Reader) -> Iterator[tuple[str, Unreadable]]:
    for name, artifact in inputs.items():
        if path := detection.unreadable(artifact, reader):
            place, mode = hub_cache.place(artifact.path), f"{stat.S_IMODE(path.stat().st_mode):04o}"
            top = place.repository if place else artifact.path if artifact.kind == "folder" else path
            facts = {
                "path": str(path),
                "mode": mode,
                "owner": owner(path.resolve()),
                "uid": reader.uid,
                "folder": path.is_dir(),
            }
            yield name, msgspec.convert({**facts, "top": str(top)}, Unreadable)


def _inputs(
    words: Arguments, profile: Profile, reads: Mapping[str, Rows]
) -> dict[str, tuple[Artifact, HubInfo | None]]:
    """Every input; conversations last, since what they may be depends on the model's chat template."""
    found: dict[str, tuple[Artifact, HubInfo | None]] = {}
    for name in sorted(words.inputs, key=lambda n: bool(reads.get(n, USUAL).grammar)):
        rows, text = reads.get(name, USUAL), words.inputs[name]
        if rows.grammar == "last" and any(a.facts.get("generation") for a, _ in found.values()):
            rows = rows._replace(grammar="texts")
        of_hub = text.startswith("hf://")
        found[name] = _hub(name, text, profile, rows) if of_hub else (detection.inspect(name, Path(text), rows), None)
    return {name: (_fitting(one, found), of_hub) for name, (one, of_hub) in found.items()}


def _fitting(found: Artifact, others: Mapping[str, tuple[Artifact, HubInfo | None]]) -> Artifact:
    """An adapter with the fault that it does not fit its base, where both are of Hugging Face and whole."""
    base = others["base"][0] if "base" in others else None
    if not base or found.facts.get("layout") != "hf_peft" or base.type != "checkpoint_hf":
        return found
    if base.faults or found.faults or {"adapter", "quantized"} & (found.facts.keys() | base.facts.keys()):
        return found
    try:
        wrong = checkpoints.misfit(Path(found.path), Path(base.path))
    except (OSError, ValueError):
        return found  # what cannot be read is a fault of its own
    faults = [fault(found.path, f"does not fit base=: it {wrong}")] if wrong else []
    return msgspec.structs.replace(found, faults=faults)


def hf_home(profile: Profile) -> Path:
    """HF_HOME on the host: the profile's, the shell's, or the usual one."""
    named = profile.hf_home or os.environ.get("HF_HOME", "").strip() or "~/.cache/huggingface"
    return Path(named).expanduser().absolute()


def _hub(name: str, text: str, profile: Profile, rows: Rows) -> tuple[Artifact, HubInfo]:
    """An input of the hub: its snapshot in the cache, or why there is none."""
    asked, home, offline = hub_cache.parse(text), hf_home(profile), profile.offline or hub.is_offline()
    try:
        found = hub.look(asked, home, offline)
    except SlipwayError as e:
        wrong = Finding(severity="error", where=f"{name}={e.where}", what=e.what, remedy=e.remedy, code=int(e.code))
        return Artifact(name=name, path=text, kind="missing"), HubInfo(id=text, finding=wrong)
    path, at = found.id.snapshot(home) / found.id.below, str(found.id)
    if not found.missing:
        return detection.inspect(name, path, rows), HubInfo(id=at, note=found.note)
    wrong = Finding(
        severity="error", where=f"{name}={at}", what=found.missing, remedy=hub.remedy(found.id, home),
        code=int(Exit.NO_INPUT),
    )  # fmt: skip
    absent = Artifact(name=name, path=str(path), kind="missing", fingerprint=found.id.revision, facts={"hub": at})
    return absent, HubInfo(id=at, note=found.note, fetch=not offline, finding=wrong)


def rows(step: Step, words: Arguments) -> dict[str, Rows]:
    """How each input's rows are read: columns by the names that parameters give, conversations by the release."""
    said = words.parameters
    return {
        n: Rows({column: said[p] for column, p in i.columns.items() if p in said}, i.grammar)
        for n, i in step.inputs.items()
    }


def converters(root: Root, step: Step, found: dict[str, Artifact]) -> list[Step]:
    """The catalogue, where an input is of another type than the step takes; else nothing has to be read for it."""
    wrong = any(a.type and a.type not in step.inputs[name].types for name, a in found.items())
    try:
        return definitions.all_steps(root) if wrong else []
    except SlipwayError:
        return []  # another step's file is wrong, which is no reason not to say what is wrong here


def _output(path: Path, resumed: Resume | None) -> OutputInfo:
    real = path.expanduser().absolute()
    real = real.resolve() if real.exists() else real.parent.resolve() / real.name
    kind = "folder" if real.is_dir() else "other" if real.exists() else "missing"
    nearest = _nearest(real)
    seen = OutputInfo(
        path=str(real),
        kind=kind,  # type: ignore[arg-type]
        empty=kind == "missing" or (kind == "folder" and outputs.is_empty(real)),
        writable=os.access(nearest, os.W_OK | os.X_OK),
        free=shutil.disk_usage(nearest).free,
        nearest=str(nearest),
    )
    return _resumed(seen, real, resumed) if resumed and kind != "other" else seen


def _resumed(seen: OutputInfo, folder: Path, asked: Resume) -> OutputInfo:
    """What the folder has to go on from."""
    origin, unread = None, ""
    try:
        origin = outputs.origin(folder) if seen.kind == "folder" else None
    except SlipwayError as e:
        unread = f"{e.where}: {e.what}"
    there = outputs.has(folder, asked.where)
    near = [] if there else outputs.near(folder, asked.where)
    return msgspec.structs.replace(seen, checkpoint=there, near=near, origin=origin, unread=unread)


def _nearest(path: Path) -> Path:
    """The path itself or the nearest parent that is there."""
    return next(p for p in (path, *path.parents) if p.exists())


def _host(root: Root, profile: Profile, runs: Path) -> HostInfo:
    home = hf_home(profile)
    return HostInfo(
        uid=os.getuid(),
        gid=os.getgid(),
        cpus=len(os.sched_getaffinity(0)),
        hf_home=str(home),
        hub=(home / "hub").is_dir(),
        runs=str(runs),
        runs_writable=os.access(_nearest(runs), os.W_OK | os.X_OK),
        runs_free=shutil.disk_usage(_nearest(runs)).free,
        missing_mounts=[m.source for m in profile.mounts if not Path(m.source).exists()],
        missing_secrets=_missing_secrets(profile.secrets),
        home=_home(),
        logins=_logins(home),
        secrets=_secrets_folder(runs),
        kept=_kept(root, runs, home),
    )


def _secrets_folder(runs: Path) -> str:
    """Where the caller's secrets may lie: in a folder of runs that users share, the usual one may be another's."""
    try:
        found = (runs / SECRETS).lstat()
    except OSError:
        return SECRETS  # not there; or what else is wrong is said when it is made
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return SECRETS if ours else f"{SECRETS}-{os.geteuid()}"


def _kept(root: Root, runs: Path, hf_home: Path) -> dict[str, str]:
    """Folders of everybody's things, in which no run may write as if they were its own."""
    named = {_home(): "your home", str(runs): "the folder of all runs", str(hf_home): "HF_HOME"}
    named |= {str(root.path): "the project"}
    return {os.path.realpath(path): what for path, what in named.items() if os.path.isabs(path)}  # noqa: PTH117


def _home() -> str:
    """The caller's; `~` where nothing tells, which Path.home() takes for an error."""
    return os.path.expanduser("~")  # noqa: PTH111


def _logins(home: Path) -> list[str]:
    """The files of a login to the hub, and of git's, below HF_HOME and the caller's home."""
    usual = Path(_home())
    places = [home, usual / ".cache" / "huggingface"]
    files = [p / name for p in places for name in ("token", "stored_tokens")]
    return sorted({str(f) for f in (*files, usual / ".netrc", usual / ".git-credentials") if f.is_file()})


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

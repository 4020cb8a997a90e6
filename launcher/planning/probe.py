"""All looking before a launch: artifacts, output, host, engine, image. Everything after it is pure."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

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
from launcher.core.plan import SECRETS, EngineInfo, HostInfo, HubInfo, ImageInfo, OutputInfo, Probed, Unreadable
from launcher.records import outputs
from slipway.errors import Exit, SlipwayError
from slipway.files import owner
from slipway.findings import Finding
from slipway.project import Root

T = TypeVar("T")
_ENGINE = "engine"


class Looks:
    """What a launch has looked at. What it makes first, and itself when it is planned anew, look at nothing twice.

    `commits`: what revisions of the hub are, as they were named; `listings`: what the hub said of a commit.
    """

    def __init__(self) -> None:
        self.commits: dict[str, str] = {}
        self.listings: dict[str, hub.Listing] = {}
        self._seen: dict[tuple[object, ...], Any] = {}

    def once(self, look: Callable[[], T], *key: object) -> T:
        """What `look` has seen, the first time that it is asked with this key."""
        if key not in self._seen:
            self._seen[key] = look()
        return self._seen[key]  # type: ignore[no-any-return]

    def known(self, seen: object, *key: object) -> None:
        """What was seen has this key, too."""
        self._seen.setdefault(key, seen)

    def fetched(self, text: str, at: str) -> None:
        """An input of the hub is there now, and has not been looked at since."""
        self.commits[text] = at
        self._forget(text, at)

    def waited(self) -> None:
        """What an engine has to give may have changed."""
        self._forget(_ENGINE)

    def _forget(self, *firsts: str) -> None:
        self._seen = {key: seen for key, seen in self._seen.items() if key[0] not in firsts}


def engine(root: Root, profile: Profile, looks: Looks | None = None) -> EngineInfo:
    """The profile's engine."""
    return (looks or Looks()).once(lambda: engines.of(profile.kind).probe(root, profile), _ENGINE, profile.name)


def _image(root: Root, entry: Entry, profile: Profile, found: EngineInfo) -> ImageInfo:
    return engines.of(profile.kind).find_image(root, entry, profile, found)


def everything(
    root: Root,
    profile: Profile,
    entry: Entry,
    words: Arguments,
    found: EngineInfo,
    runs: Path,
    reads: Mapping[str, Rows] | None = None,
    resumed: Resume | None = None,
    looks: Looks | None = None,
    expected: Mapping[str, Artifact] | None = None,
) -> Probed:
    """Looks at all that rules and plan need, once. `reads`: how an input's rows are read, as `rows` has it.

    `resumed`: from what the run is to go on; `expected`: inputs in whose place others stand, which are made first.
    """
    looks = looks or Looks()
    seen = _inputs(words, profile, reads or {}, looks, expected or {})
    reader = _reader(profile, found)
    return Probed(
        artifacts={name: seen[name][0] for name in words.inputs},
        hub={name: of_hub for name in words.inputs if (of_hub := seen[name][1])},
        output=_output(Path(words.output), resumed) if words.output else None,
        engine=found,
        image=looks.once(lambda: _image(root, entry, profile, found), _ENGINE, profile.name, entry.checksum),
        host=_host(root, profile, runs),
        unreadable=dict(_unreadable({name: seen[name][0] for name in words.inputs}, reader, looks)),
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


def _unreadable(inputs: Mapping[str, Artifact], reader: Reader, looks: Looks) -> Iterator[tuple[str, Unreadable]]:
    for name, artifact in inputs.items():
        if artifact.expected:
            continue  # it is not there
        look = partial(detection.unreadable, artifact, reader)
        if path := looks.once(look, artifact.path, artifact.fingerprint, reader):
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
    words: Arguments, profile: Profile, reads: Mapping[str, Rows], looks: Looks, expected: Mapping[str, Artifact]
) -> dict[str, tuple[Artifact, HubInfo | None]]:
    """Every input; conversations last, since what they may be depends on the model's chat template."""
    found: dict[str, tuple[Artifact, HubInfo | None]] = {}
    for name in sorted(words.inputs, key=lambda n: bool(reads.get(n, USUAL).grammar)):
        rows = reads.get(name, USUAL)
        if rows.grammar == "last" and any(a.tokenizer.marks_learned for a, _ in found.values()):
            rows = rows._replace(grammar="texts")
        found[name] = (expected[name], None) if name in expected else _look(name, words, profile, rows, looks)
    return {name: (_fitting(one, found, looks), of_hub) for name, (one, of_hub) in found.items()}


def _look(name: str, words: Arguments, profile: Profile, rows: Rows, looks: Looks) -> tuple[Artifact, HubInfo | None]:
    """An input, under the name that it has here. What a launch has seen by a word has, for others, the path found."""
    text = looks.commits.get(words.inputs[name], words.inputs[name])
    home = str(hf_home(profile)) if text.startswith("hf://") else ""

    def look() -> tuple[Artifact, HubInfo | None]:
        return _hub(name, text, profile, rows, looks) if home else (detection.inspect(name, Path(text), rows), None)

    found, of_hub = looks.once(look, text, home, str(rows))
    if found.kind != "missing":
        looks.known((found, None), found.path, "", str(rows))
    return msgspec.structs.replace(found, name=name), of_hub


def _fitting(found: Artifact, others: Mapping[str, tuple[Artifact, HubInfo | None]], looks: Looks) -> Artifact:
    """An adapter with the fault that it does not fit its base, where both are of Hugging Face and whole."""
    base = others["base"][0] if "base" in others else None
    if not base or found.adapter.layout != "hf_peft" or base.type != "checkpoint_hf":
        return found
    unknown = [found.adapter.beyond, found.expected, base.expected, base.weights.quantized]
    if base.faults or found.faults or any(unknown):
        return found
    try:
        both = Path(found.path), Path(base.path)
        wrong = looks.once(lambda: checkpoints.misfit(*both), *both)
    except (OSError, ValueError):
        return found  # what cannot be read is a fault of its own
    faults = [fault(found.path, f"does not fit base=: it {wrong}")] if wrong else []
    return msgspec.structs.replace(found, faults=faults)


def hf_home(profile: Profile) -> Path:
    """HF_HOME on the host: the profile's, the shell's, or the usual one."""
    return hub_cache.home(profile.hf_home)


def _hub(name: str, text: str, profile: Profile, rows: Rows, looks: Looks) -> tuple[Artifact, HubInfo]:
    """An input of the hub: its snapshot in the cache, or why there is none."""
    asked, home, offline = hub_cache.parse(text), hf_home(profile), profile.offline or hub.is_offline()
    try:
        found = hub.look(asked, home, offline)
    except SlipwayError as e:
        wrong = Finding(severity="error", where=f"{name}={e.where}", what=e.what, remedy=e.remedy, code=int(e.code))
        return Artifact(name=name, path=text, kind="missing"), HubInfo(id=text, finding=wrong)
    path, at = found.id.snapshot(home) / found.id.below, str(found.id)
    if found.listing:
        looks.listings[at] = found.listing
    if not found.missing:
        return detection.inspect(name, path, rows), HubInfo(id=at, note=found.note)
    wrong = Finding(
        severity="error", where=f"{name}={at}", what=found.missing, remedy=hub.remedy(found.id, home),
        code=int(Exit.NO_INPUT),
    )  # fmt: skip
    absent = Artifact(name=name, path=str(path), kind="missing", fingerprint=found.id.revision, hub=at)
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

"""`images build`: a rendered context through BuildKit into an image on the engine, and its record."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from images.bootstrap import debian
from images.building import base as bases
from images.building import configurations, identity, render, workspace
from images.locking import own, platforms, sources
from images.locking.lock import REPAIRS
from images.locking.model import Entry, Lock
from images.locking.resolve import TORCH_CPU_INDEX
from images.machine import dockerhost, mirrors, pipconf
from slipway import canonical
from slipway.errors import Exit, SlipwayError
from slipway.files import cannot_write, make_folders, sha256_file
from slipway.project import Root

_LEAST_SPACE = 1 << 30  # bytes; of an image that was never built here
CA_BUNDLE_SECRET, PIP_SECRET = "ca", "pip"


@dataclass(frozen=True)
class Request:
    """What to build, and what stands in for what.

    `substitutions` maps a FROM reference to a local image; `sources` are words `NAME=DIR` or `NAME=none`. `platform`:
    such as linux/arm64; the engine's own where it is empty.
    """

    entry: Entry
    substitutions: dict[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    no_cache: bool = False
    platform: str = ""


@dataclass(frozen=True)
class Context:
    """A build's inputs: name -> text of rendered files, name -> path of files that are taken as they are.

    `sources` have contexts of their own; repositories.json, which is among `texts`, has the hashes of their trees.
    """

    texts: dict[str, str]
    files: dict[str, Path]
    base: bases.BaseTar | None
    sources: dict[str, sources.Source] = field(default_factory=dict)

    def checksum(self, substitutions: dict[str, str]) -> str:
        """Changes whenever a rebuild could give another image."""
        files = {name: sha256_file(path) for name, path in self.files.items()}
        tar = self.base.facts.sha256 if self.base else ""
        return canonical.sha256({"texts": self.texts, "files": files, "base": tar, "substitutions": substitutions})


def build(root: Root, lock: Lock, request: Request, say: Callable[[str], None]) -> identity.ImageRecord:
    """Builds, or finds that nothing has changed; returns the image's record.

    Raises SlipwayError 78 (unresolved base or repository), 64 (a substitution for nothing), 65 (the lock has nothing
    for the platform), 66 (no such checkout), 69 (no engine, or one that does not run programs of the platform, no
    buildx, or the build failed: BuildKit's own output stands above), 73.
    """
    check(request)
    workspace.sweep(root)
    chosen = sources.choose(request.entry, request.sources)
    address = dockerhost.find(root)
    with dockerhost.engine_client(address) as client:
        own = platforms.of_engine(client)
        platform = request.platform or own
        request = dataclasses.replace(request, entry=lock.on(platform, request.entry))
        platforms.check_locked(request.entry, platform)
        if platform != own:
            debian.need(root, say, "docker", "buildx")
            platforms.check_runs(address.url, platform)
        stand_ins = {
            ref: _image_id(root, lock, client, image, platform) for ref, image in request.substitutions.items()
        }
        context = gather(root, lock, request.entry, chosen, platform, say)
        inputs = context.checksum(stand_ins)
        if not request.no_cache:
            known = [r for r in identity.records(root, request.entry) if r.inputs == inputs]
            same = [r for r in known if (r.platform or own) == platform]
            if found := identity.present(same, client):
                say(f"{request.entry.tag}: unchanged ({found[1]})")
                inside = configurations.in_engine(address.url, found[1])
                return configurations.remember(root, request.entry, found[0], inside, say)
        reproducible = request.entry.flavour == "cpu" and _containerd_store(client)
        if request.entry.flavour == "cpu" and not reproducible:
            say("this engine has no containerd image store: the digest is not reproducible here")
        debian.need(root, say, "docker", "buildx")
        _check_space(root, request.entry, client)
        started = time.monotonic()
        ids = _buildx(root, address, client, request, context, stand_ins, reproducible, say)
        record = identity.ImageRecord(
            name=request.entry.name,
            entry=request.entry.checksum,
            ids=ids,
            tag=request.entry.tag,
            platform=platform,
            inputs=inputs,
            reproducible=reproducible,
            substitutions=stand_ins,
            sources={name: source.brought for name, source in chosen.items()},
            base_tar=context.base.facts.sha256 if context.base else "",
            debian_packages=context.base.facts.packages if context.base else {},
            layers=_layers(client, ids[-1]),
            seconds=round(time.monotonic() - started, 1),
            built=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        told = configurations.look(root, request.entry, configurations.in_engine(address.url, ids[-1]), say)
        record = told.into(record)
    identity.save(root, record)
    say(f"{request.entry.tag}: built in {record.seconds:.0f} s, {record.ids[0]}")
    return record


def gather(
    root: Root,
    lock: Lock,
    entry: Entry,
    chosen: dict[str, sources.Source],
    platform: str,
    say: Callable[[str], None],
) -> Context:
    """The context of `entry`: rendered texts, requirements, the verify program, CUDA's substitutes, the base tar."""
    entrypoints = root.file("entrypoints")
    files = {"verify.py": entrypoints / "verify.py"}
    for name, group in entry.groups.items():
        path = own.file_of(root, group)
        if not path.is_file() or sha256_file(path) != group.sha256:
            remedy = f"run: {entry.build_command if entry.extends else 'images lock'}"
            raise SlipwayError(Exit.DATA, "not the file that the lock names", where=str(path), remedy=remedy)
        files[f"requirements-{name}.txt"] = path
    files |= {f"repair/{r.program}": root.path / REPAIRS / r.program for r in entry.repair if r.program}
    tar = None
    if entry.base.bootstrap:
        tar = bases.ensure(root, entry.base.bootstrap, platform or platforms.named(os.uname().machine), say)
        folder = entrypoints / "cpu" / entry.library
        hooks = [p for p in sorted(folder.glob("*")) if p.is_file()]
        files |= {f"cpu/{p.name}": p for p in [*hooks, *(folder.parent.glob("*.py") if hooks else ())]}
    files = {name: path if name.startswith("requirements-") else root.file(path) for name, path in files.items()}
    texts = render.files_of(root, lock, entry)
    if chosen:
        texts["repositories.json"] = canonical.pretty({name: source.brought for name, source in chosen.items()})
    return Context(texts, files, tar, chosen)


def substitutions(words: tuple[str, ...]) -> dict[str, str]:
    """`REF=IMAGE` words as a mapping. Raises SlipwayError 64."""
    result = {}
    for word in words:
        reference, equals, image = word.rpartition("=")
        if not (equals and reference and image):
            raise SlipwayError(Exit.WORDS, "not of the form REF=IMAGE", where=f"--base {word}")
        result[reference] = image
    return result


def run(root: Root, lock: Lock, entry: Entry, command: tuple[str, ...], mounts: tuple[str, ...]) -> int:
    """Runs `command` in the recorded image as the calling user, without a network; returns its exit code.

    `mounts`: folders that the container sees at their own paths, the first is its working directory. For examples and
    their verify scripts: steps are run by `launch`. Raises SlipwayError 66 or 69.
    """
    address = dockerhost.find(root)
    with dockerhost.engine_client(address) as client:
        entry = lock.on(platforms.of_engine(client), entry)
        found = identity.present(identity.records(root, entry), client)
    if found is None:
        what = f"the engine has no image of {entry.name}"
        raise SlipwayError(Exit.NO_INPUT, what, remedy=f"run: {entry.build_command}")
    folders = [str(Path(m).resolve()) for m in mounts]
    words = ["docker", "run", "--rm", "--init", "--network", "none", "--user", f"{os.getuid()}:{os.getgid()}"]
    words += [w for f in folders for w in ("--volume", f"{f}:{f}")]
    words += ["--workdir", folders[0]] if folders else []
    words += ["--env", "HOME=/tmp", found[1], *command]
    return subprocess.run(words, env={**os.environ, "DOCKER_HOST": address.url}, check=False).returncode


def check(request: Request) -> None:
    """Whether it says what to start from. Raises SlipwayError 64 (a substitution for nothing) or 78 (unresolved)."""
    base = request.entry.base
    for reference in request.substitutions:
        if reference != base.reference:
            raise SlipwayError(
                Exit.WORDS,
                f"{request.entry.name} does not start from {reference!r}",
                where="--base",
                remedy=f"its FROM is {base.reference!r}" if base.reference else "its base is made from Debian packages",
            )
    if base.image and not base.digest and base.reference not in request.substitutions:
        raise SlipwayError(
            Exit.CONFIG,
            f"the base {base.image}:{base.tag} is unresolved: nobody has asked {base.registry} for its digest",
            where=f"versions.lock, {request.entry.name}",
            remedy=f"where {base.registry} is reachable, run: images lock {request.entry.library}",
        )


def _image_id(root: Root, lock: Lock, client: Any, image: str, platform: str) -> str:
    """The id, on the engine, of what stands in: named by that, by a tag, or by any id that a record of ours has."""
    name = image
    if not (found := identity.tagged(name, client)):
        # One with the containerd image store knows no image by the digest of its configuration, which a build prints.
        ours = (r for entry in lock.entries.values() for r in identity.records(root, entry) if image in r.ids)
        known = identity.present(ours, client)
        name = found = known[1] if known else ""
    if not found:
        raise SlipwayError(Exit.NO_INPUT, f"the engine has no image {image!r}", where="--base")
    has, wanted = client.images.get(name).attrs.get("Architecture"), platform.removeprefix("linux/")
    if has and wanted and has != wanted:
        what = f"the image is for {has}, what is built is for {wanted}"
        raise SlipwayError(
            Exit.DATA, what, where=f"--base …={image}", remedy=f"take the {wanted} manifest of its index"
        )
    return found


def _check_space(root: Root, entry: Entry, client: Any) -> None:
    """Room for the image, as large as its newest record says, where it is exported to and where the engine keeps it."""
    known = [sum(layer.bytes for layer in r.layers) for r in identity.records(root, entry) if r.layers]
    need = known[0] if known else _LEAST_SPACE
    engine_root = Path(client.info().get("DockerRootDir") or "/nowhere")  # of another machine, where it is not there
    for folder, remedy in ((_nearest(workspace.contexts(root)), "set TMPDIR"), (engine_root, "docker system prune")):
        free = shutil.disk_usage(folder).free if folder.is_dir() else need
        if free < need:
            what = f"an image of about {need >> 20} MiB is to be written, {free >> 20} MiB are free"
            raise SlipwayError(Exit.CANNOT_WRITE, what, where=str(folder), remedy=f"free space there, or: {remedy}")


def _nearest(folder: Path) -> Path:
    return next(p for p in (folder, *folder.parents) if p.is_dir())


def _named(image: str, digest: str) -> str:
    """BuildKit takes a local image by a tag alone: what is named by an id gets this one, of the engine's `digest`."""
    return f"slipway/stand-in:{digest.removeprefix('sha256:')[:12]}" if image.startswith("sha256:") else image


@contextlib.contextmanager
def _nameable(client: Any, request: Request, stand_ins: dict[str, str], say: Callable[[str], None]) -> Iterator[None]:
    """Names for what stands in and is named by an id, for the time of the build.

    One that has no other name keeps it: an engine drops an image with its last name.
    """
    lent = []
    for reference, image in request.substitutions.items():
        digest = stand_ins[reference]
        name = _named(image, digest)
        if name == image:
            continue
        found = client.images.get(digest)
        if any(tag != name for tag in found.tags):
            lent.append(name)
        elif not found.tags:
            say(f"{digest} has no name, and is called {name} from now on")
        found.tag(name)
    try:
        yield
    finally:
        for name in lent:
            client.images.remove(name, noprune=True)


def _containerd_store(client: Any) -> bool:
    """Whether digests survive a build: facts of the engine, `driver-type` of its storage."""
    status = client.info().get("DriverStatus") or []
    return ["driver-type", "io.containerd.snapshotter.v1"] in status


def _buildx(
    root: Root,
    address: dockerhost.Address,
    client: Any,
    request: Request,
    context: Context,
    stand_ins: dict[str, str],
    repro: bool,
    say: Callable[[str], None],
) -> list[str]:
    """Runs BuildKit; returns the image's ids, the config's first, the engine's last."""
    place = workspace.contexts(root)
    if place.is_relative_to(root.state):
        with cannot_write(place):
            make_folders(place)
    with workspace.make(place, "build") as (tmp, fd):
        folder, out = tmp / "context", tmp / "image.tar"
        write_context(folder, context)
        for name, source in context.sources.items():
            # One folder deeper: BuildKit obeys a .dockerignore at the top of a context.
            sources.export(root, source, tmp / "sources" / name / "tree", say)
        secrets = pipconf.read()
        (tmp / "pip.conf").write_text(secrets.file())
        metadata = tmp / "metadata.json"
        command = _command(request, context, secrets, stand_ins, tmp)
        command += _mirrored(request, mirrors.load(root))
        if repro:  # facts: rewrite-timestamp needs an exporter that does not unpack; hence a tar, loaded afterwards
            export = f"type=oci,dest={out},name=docker.io/{request.entry.tag},rewrite-timestamp=true"
            # Level 1: rewriting takes as long at any level, and an uncompressed tar is slower to write and load.
            command += ["--output", f"{export},compression=gzip,compression-level=1"]
        else:
            command += ["--load"]
        command += ["--metadata-file", str(metadata), str(folder)]
        env = {**os.environ, "DOCKER_HOST": address.url, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
        try:
            with _nameable(client, request, stand_ins, say):
                code = subprocess.run(command, env=env, stdout=2, check=False, pass_fds=(fd,)).returncode
        except FileNotFoundError as e:
            raise SlipwayError(Exit.UNAVAILABLE, "there is no docker command", remedy="images engine up") from e
        if code:
            raise SlipwayError(Exit.UNAVAILABLE, f"the build of {request.entry.name} failed (buildx exited {code})")
        if repro:
            with out.open("rb") as tar:
                client.images.load(tar)
        facts = msgspec.json.decode(metadata.read_bytes())
    digests = [facts.get("containerimage.config.digest"), facts.get("containerimage.digest")]
    image = client.images.get(request.entry.tag)
    ids = list(dict.fromkeys(d for d in (*digests, image.id) if d))
    # A name of its own: the containerd store drops an image when its last name moves on to the next build.
    image.tag(f"{request.entry.tag}-{ids[0].removeprefix('sha256:')[:12]}")
    return ids


def _command(
    request: Request, context: Context, pip: pipconf.PipConfig, stand_ins: dict[str, str], tmp: Path
) -> list[str]:
    entry = request.entry
    command = ["docker", "buildx", "build", "--network", "host", "--provenance=false", "--tag", request.entry.tag]
    command += ["--no-cache"] if request.no_cache else []
    command += ["--platform", request.platform] if request.platform else []
    if entry.base.bootstrap:
        command += ["--build-arg", f"SOURCE_DATE_EPOCH={entry.base.bootstrap.source_date_epoch}"]
    if pip.cert:
        command += ["--secret", f"id={CA_BUNDLE_SECRET},src={pip.cert}"]
    if pip.index:
        command += ["--secret", f"id={PIP_SECRET},src={tmp / 'pip.conf'}"]
    for name in pip.proxies:
        command += ["--build-arg", name]  # BuildKit takes the value from our environment
    for name, group in entry.groups.items():
        for requirement in (p for p in group.packages if p.endswith("+cpu")):
            if found := pip.wheels_for(requirement):
                command += ["--build-context", f"wheels={found[0]}"]
            else:
                command += ["--build-arg", f"INDEX_{name.upper().replace('-', '_')}={TORCH_CPU_INDEX}"]
    for reference, image in request.substitutions.items():
        command += ["--build-context", f"{reference}=docker-image://{_named(image, stand_ins[reference])}"]
        command += ["--label", f"slipway.substituted={reference}={stand_ins[reference]}"]
    for name in context.sources:
        command += ["--build-context", f"source-{name}={tmp / 'sources' / name}"]
    if left_out := [name for name, source in context.sources.items() if source.brought.left_out]:
        command += ["--label", f"slipway.left-out={','.join(left_out)}"]
    return command


def _mirrored(request: Request, mirrored: mirrors.Mirrors) -> list[str]:
    """The base from where this site keeps it, by the same digest; the Dockerfile names it as ever."""
    base = request.entry.base
    place = mirrored.of(base.image or "")
    if place == (base.image or "") or base.reference in request.substitutions:
        return []
    return ["--build-context", f"{base.reference}=docker-image://{place}@{base.digest}"]


def write_context(folder: Path, context: Context) -> None:
    """Everything but the repositories, which have contexts of their own."""
    for name, text in context.texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name, source in context.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
    if context.base:
        try:
            os.link(context.base.path, folder / "base.tar")
        except OSError:  # another filesystem
            shutil.copyfile(context.base.path, folder / "base.tar")


def _layers(client: Any, image: str) -> list[identity.Layer]:
    """Newest first, as the engine lists them; metadata-only steps left out."""
    history = client.images.get(image).history()
    return [identity.Layer(bytes=h["Size"], made_by=h["CreatedBy"][:160]) for h in history if h["Size"]]

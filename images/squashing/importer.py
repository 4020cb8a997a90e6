"""One image into one squashfs file, by enroot or by skopeo, umoci and mksquashfs."""

from __future__ import annotations

import datetime
import os
import shutil
import struct
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from images.bootstrap import debian
from images.building import identity, rootfs
from images.building.configurations import NOTHING, Told
from images.machine import skopeo
from images.squashing import apply
from slipway.errors import Exit, SlipwayError
from slipway.files import cannot_write

COMPRESSION = "-comp zstd -Xcompression-level 3 -b 1M"
MORE_SPACE = "--dir DIR sets where the file goes; TMPDIR or ENROOT_TEMP_PATH where images are unpacked"
TOOLS = ("skopeo", "umoci", "mksquashfs")
_SUPERBLOCK = struct.Struct("<4s36xQ")  # squashfs 4.0: magic, and the bytes that the file system takes


@dataclass(frozen=True)
class Source:
    """Where an image is: on the engine under the id `digest`, or in a registry where there is no `client`.

    `uri` is dockerd://ID or docker://REGISTRY/IMAGE@DIGEST; `engine` is the engine's URL. `addition`: what has to be
    added to it before it is the record's image.
    """

    record: identity.ImageRecord
    uri: str
    digest: str
    client: Any = None
    engine: str = ""
    addition: apply.Addition | None = None

    @property
    def name(self) -> str:
        """REGISTRY/IMAGE@DIGEST, of a registry's image."""
        return self.uri.removeprefix("docker://")

    @property
    def image(self) -> dict[str, Any]:
        """The engine's facts about it."""
        return dict(self.client.images.get(self.digest).attrs)


@dataclass(frozen=True)
class Job:
    """One import: from `source` into `part`, unpacked in `work`.

    `fds`: locks, which the programs inherit: while one of them still writes, nobody takes its place.
    """

    source: Source
    work: Path
    part: Path
    fds: tuple[int, ...]

    def run(self, *words: str, **variables: str) -> bytes:
        """What a program prints; it ends with us. Raises SlipwayError 69, or 73 where it found no space."""
        command = ["setpriv", "--pdeathsig", "KILL", debian.which(words[0]) or words[0], *words[1:]]
        env = {**os.environ, "PATH": debian.search_path(), "TMPDIR": str(self.work), "LC_ALL": "C", **variables}
        # Folders that no layer names have the mode of the umask: nobody but the owner could look into the image.
        done = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, capture_output=True, pass_fds=self.fds, umask=0o022
        )
        if done.returncode:
            said = (done.stdout + done.stderr).decode(errors="replace")
            last = "\n  ".join(said.strip().splitlines()[-4:])
            what = f"{words[0]} ended with {done.returncode}\n  {last}"
            if "No space left" in said:
                raise SlipwayError(Exit.CANNOT_WRITE, what, where=self.source.uri, remedy=MORE_SPACE)
            raise SlipwayError(Exit.UNAVAILABLE, what, where=self.source.uri)
        return done.stdout


@dataclass(frozen=True)
class Imported:
    """What `part` holds: the image's configuration (the OCI one's keys), its platform, and what has made it.

    `told`: what the image knows of configurations, where something was added here.
    """

    config: dict[str, Any]
    platform: str
    tool: str
    told: Told = NOTHING


def enroot_takes(source: Source) -> bool:
    """Whether enroot is there and can take it: it makes a container, for which the image has to name a command.

    Of a registry's it takes what is added to, where the programs are missing that compare digests.
    """
    if not debian.which("enroot"):
        return False
    if source.client is None:
        return source.addition is not None and bool(debian.missing("skopeo", "umoci"))
    config = source.image["Config"]
    return bool(config.get("Cmd") or config.get("Entrypoint"))


def packed_bytes(source: Source) -> int:
    """The image's size as it is stored; 0 where only enroot could ask for it.

    Raises SlipwayError 65 for an index, or what skopeo says of the registry.
    """
    if source.client is not None:
        return int(source.image["Size"])
    if enroot_takes(source):
        return 0
    manifest = skopeo.manifest(source.name)
    if "layers" not in manifest and source.addition:  # the lock's digest is an index's
        manifest = skopeo.manifest(skopeo.of_platform(source.name, manifest, source.record.platform))
    if "layers" not in manifest:
        found = ", ".join(f"{m['platform']['architecture']} {m['digest']}" for m in manifest.get("manifests", []))
        raise SlipwayError(Exit.DATA, "an index of images, not an image", where=source.uri, remedy=f"name one: {found}")
    return sum(layer["size"] for layer in manifest["layers"])


def through_enroot(job: Job) -> Imported:
    """enroot's own import from the engine, into a squashfs with the image's own time."""
    image = job.source.image
    _enroot_import(job, job.part, DOCKER_HOST=job.source.engine, SOURCE_DATE_EPOCH=_epoch(image))
    return Imported(image["Config"], f"{image['Os']}/{image['Architecture']}", _enroot_version(job))


def through_enroot_with_addition(job: Job, addition: apply.Addition) -> Imported:
    """enroot's import from a registry, unpacked, and packed again with what is added.

    enroot leaves of the image's configuration what it writes into /etc: that is read back, and its own files stay.
    """
    base, root = job.work / "base.sqsh", job.work / "rootfs"
    # Plain HTTP is for loopback alone, as with skopeo.
    _enroot_import(job, base, **({"ENROOT_ALLOW_HTTP": "y"} if skopeo.tls(job.source.name) else {}))
    job.run("unsquashfs", "-no-progress", "-quiet", "-no-xattrs", "-d", str(root), str(base))
    base.unlink()
    image = addition.put(root, {"config": rootfs.read(root)}, job.work)
    told = addition.read(root, image)
    with cannot_write(root):
        rootfs.amend(root, image["config"])
    _pack(job, root, image)
    return Imported(image["config"], job.source.record.platform, _enroot_version(job), told)


def _enroot_import(job: Job, target: Path, **variables: str) -> None:
    temporary, cache = job.work / "temp", Path(os.environ.get("ENROOT_CACHE_PATH") or job.work / "cache")
    for path in (temporary, cache):  # enroot makes neither
        with cannot_write(path):
            path.mkdir(parents=True, exist_ok=True)
    uri = job.source.uri
    if uri.startswith("docker://"):  # enroot writes the registry apart
        uri = "docker://{}#{}".format(*job.source.name.split("/", 1))
    job.run(
        *("enroot", "import", "--output", str(target), uri),
        ENROOT_TEMP_PATH=str(temporary),
        ENROOT_CACHE_PATH=str(cache),
        ENROOT_SQUASH_OPTIONS=COMPRESSION,
        **variables,
    )


def _enroot_version(job: Job) -> str:
    return f"enroot {job.run('enroot', 'version').decode().strip()}"


def through_umoci(job: Job) -> Imported:
    """The same by Debian's tools, without a container and, from a registry, without an engine."""
    layout, root = job.work / "layout", job.work / "rootfs"
    _copy(job, layout)
    image = _configuration(layout)
    rootless = ["--rootless"] if os.geteuid() else []
    job.run("umoci", "raw", "unpack", *rootless, "--image", f"{layout}:image", str(root))
    shutil.rmtree(layout)
    told = NOTHING
    if job.source.addition:
        image = job.source.addition.put(root, image, job.work)
        told = job.source.addition.read(root, image)
    config = image.get("config") or {}
    with cannot_write(root):
        rootfs.configure(root, config, job.source.uri)
    _pack(job, root, image)
    return Imported(config, f"{image['os']}/{image['architecture']}", _versions(job), told)


def _pack(job: Job, root: Path, image: dict[str, Any]) -> None:
    options = [*COMPRESSION.split(), "-all-root", "-no-xattrs", "-no-progress", "-quiet", "-exit-on-error"]
    # Fixed times, so that one image is one file. Not -all-time: a source's time is in its bytecode, which would be
    # taken for stale and compiled anew at every start; this only takes back what is later than the image.
    job.run(
        *("mksquashfs", str(root), str(job.part), *options, "-wildcards", "-e", "dev/*"),
        SOURCE_DATE_EPOCH=_epoch(image),
    )


def check(job: Job, imported: Imported) -> None:
    """Whether the file is a whole squashfs with the image's environment in it. Raises SlipwayError 65."""
    with job.part.open("rb") as f:
        magic, used = _SUPERBLOCK.unpack(f.read(_SUPERBLOCK.size).ljust(_SUPERBLOCK.size))
    size = job.part.stat().st_size
    if magic != b"hsqs" or used > size:
        raise SlipwayError(Exit.DATA, f"no whole squashfs came out: {size} of {used} bytes", where=job.source.uri)
    if job.run("unsquashfs", "-cat", str(job.part), rootfs.ENVIRONMENT).decode() != rootfs.environment(imported.config):
        raise SlipwayError(Exit.DATA, f"its {rootfs.ENVIRONMENT} is not the image's", where=job.source.uri)


def _copy(job: Job, layout: Path) -> None:
    """The image as an OCI layout, tagged `image`."""
    if job.source.client is None:
        name = job.source.name
        copy = ["copy", "--quiet", *skopeo.tls(name, "src-"), job.source.uri, f"oci:{layout}:image"]
        skopeo.ask(name, *copy, fds=job.fds, TMPDIR=str(job.work))
        return
    archive = job.work / "image.tar"
    skopeo.save(job.source.client, job.source.digest, archive)
    with tarfile.open(archive) as tar:  # engines from 25 on write an OCI layout: nothing has to be packed anew
        kind = "oci" if "oci-layout" in tar.getnames() else "docker"
    job.run("skopeo", "--insecure-policy", "copy", "--quiet", f"{kind}-archive:{archive}", f"oci:{layout}:image")
    archive.unlink()


def _configuration(layout: Path) -> dict[str, Any]:
    """That of a layout's only image. Its digest says nothing: skopeo writes a v2s2 image's anew, in OCI's order."""

    def blob(digest: str) -> dict[str, Any]:
        return dict(msgspec.json.decode((layout / "blobs" / digest.replace(":", "/")).read_bytes()))

    (described,) = msgspec.json.decode((layout / "index.json").read_bytes())["manifests"]
    return blob(blob(described["digest"])["config"]["digest"])


def _epoch(image: dict[str, Any]) -> str:
    """When the image was made (its base's SOURCE_DATE_EPOCH, of a reproducible one); 1970 where it is silent."""
    made = image.get("created") or image.get("Created") or "1970-01-01T00:00:00"
    return str(max(0, int(datetime.datetime.fromisoformat(f"{made[:19]}+00:00").timestamp())))


def _versions(job: Job) -> str:
    said = [
        job.run("skopeo", "--version"),
        job.run("umoci", "--version"),
        job.run("mksquashfs", "-version").splitlines()[0],
    ]
    return ", ".join(line.decode().strip().replace(" version", "") for line in said)

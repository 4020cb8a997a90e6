"""`images squash` with the real programs: what comes out, once for twenty, and nothing of one that was killed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from helpers import PARTS

from images.bootstrap import debian
from images.building import identity
from images.locking import lock as locks
from images.locking.model import Entry
from images.squashing.importer import TOOLS
from slipway.project import Root

from .registry import registry
from .support import PROJECT, Done, Running, Tree, until

pytestmark = pytest.mark.real
STANDINS = PROJECT / "tests" / "standins"
SECONDS = 1_600_000_000  # of a file that is older than the image
CHANGES = [
    'ENV PATH=/opt/bin:/bin SPACES="one two"',
    'ENTRYPOINT ["/bin/start", "it\'s"]',
    'CMD ["go"]',
    "WORKDIR /data/here",
    "VOLUME /data",
    "LABEL boat=yes",
]
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user or mount")


def tiny() -> bytes:
    """A root file system with what is awkward: devices, links, an owner, files that not even their owner may read."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:

        def add(name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, data: bytes = b"", **facts: Any) -> None:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.size, info.mtime = kind, mode, len(data), SECONDS
            for key, value in facts.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))

        for folder in ("bin", "dev", "etc", "proc", "tmp"):
            add(folder, tarfile.DIRTYPE, 0o755)
        add("dev/null", tarfile.CHRTYPE, 0o666, devmajor=1, devminor=3)
        add("etc/environment", data=b"OLD=1\n")
        add("bin/start", mode=0o4755, data=os.urandom(300_000), uid=1000, gid=1000)
        add("bin/again", tarfile.LNKTYPE, linkname="bin/start")
        add("bin/link", tarfile.SYMTYPE, linkname="/bin/start")
        add("closed", tarfile.DIRTYPE, 0o555)
        add("closed/file", mode=0, data=b"x")
    return out.getvalue()


@dataclass
class Yard:
    """A project with a tiny recorded image, the folder for its .sqsh and the one for unpacking."""

    tree: Tree
    image: str
    record: identity.ImageRecord
    folder: Path
    temporary: Path
    programs: Path
    env: dict[str, str] = field(default_factory=dict)

    def start(self, image: str = "", **env: str) -> Running:
        words = ("squash", image or self.image, "--dir", str(self.folder))
        return self.tree.start("images", *words, TMPDIR=str(self.temporary), **self.env, **env)

    def squash(self, image: str = "", **env: str) -> Path:
        done = self.start(image, **env).finish()
        assert done.code == 0, done
        return Path(done.out.strip())

    @property
    def names(self) -> set[str]:
        """What is in the folder, but for the lock."""
        return {p.name for p in self.folder.iterdir() if not p.name.endswith(".lock")}

    @property
    def left(self) -> list[Path]:
        return list(self.temporary.iterdir())

    def hold(self, program: str, before: bool = True) -> tuple[Path, Path]:
        """Puts a program on PATH that stands still, before or after its work, until the second file is there; the first
        says that it has come so far. Gives both."""
        reached, go = self.programs / f"{program}.reached", self.programs / f"{program}.go"
        wait = f"echo >>{reached}; while [ ! -e {go} ]; do sleep 0.02; done"
        work = f'{debian.which(program)} "$@"'
        script = f"{wait}; exec {work}" if before else f"{work} || exit; {wait}"
        self.put(program, f"#!/bin/sh\n{script}\n")
        return reached, go

    def put(self, program: str, text: str) -> None:
        (self.programs / program).write_text(text)
        (self.programs / program).chmod(0o755)
        self.env["PATH"] = f"{self.programs}:{os.environ['PATH']}"


@pytest.fixture(scope="module")
def image(docker: Any) -> Iterator[str]:
    """The tiny image's id."""
    debian.need(Root(PROJECT), print, *TOOLS)
    name = f"slipway-test/tiny-{os.getpid()}"
    docker.api.import_image_from_data(tiny(), repository=name, tag="1", changes=CHANGES)
    yield docker.images.get(f"{name}:1").id
    docker.images.remove(f"{name}:1", force=True)


@pytest.fixture(scope="module")
def pin() -> Entry:
    return locks.select(locks.load_lock(Root(PROJECT)), "automodel", "cpu")


@pytest.fixture(scope="module")
def archive(docker: Any, image: str, ground: Path) -> Path:
    """The image as the engine saves it."""
    path = ground / "tiny.tar"
    with path.open("wb") as out:
        for chunk in docker.images.get(image).save():
            out.write(chunk)
    return path


@pytest.fixture
def yard(docker: Any, address: str, image: str, archive: Path, pin: Entry, place: Path) -> Iterator[Yard]:
    path = place / "project"
    for name in PARTS:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        copy(PROJECT / name, path / name)
    with tarfile.open(archive) as tar:
        (described,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        digest = hashlib.sha256(tar.extractfile(described["Config"]).read()).hexdigest()  # type: ignore[union-attr]
    record = identity.ImageRecord(
        name=pin.name, entry=pin.checksum, ids=[f"sha256:{digest}", image], tag="", inputs="", reproducible=False,
        seconds=1, built="2026-01-01T00:00:00+00:00", layers=[identity.Layer(bytes=300_000, made_by="")],
    )  # fmt: skip
    identity.save(Root(path), record)
    made = [place / name for name in ("squash", "temporary", "programs")]
    for folder in made:
        folder.mkdir()
    env = {"PATH": os.environ["PATH"], "HOME": str(place), "DOCKER_HOST": address}
    tree = Tree(path, place / "runs", env, docker)
    yield Yard(tree, image, record, *made)
    tree.end_all()


def cat(file: Path, name: str) -> str:
    return subprocess.run(["unsquashfs", "-cat", file, name], stdout=subprocess.PIPE, text=True, check=True).stdout


def listing(file: Path) -> dict[str, tuple[str, str]]:
    """Path -> modes and owner."""
    out = subprocess.run(["unsquashfs", "-lln", file], stdout=subprocess.PIPE, text=True, check=True).stdout
    rows = [line.split() for line in out.splitlines() if "squashfs-root" in line]
    return {row[5].removeprefix("squashfs-root").lstrip("/"): (row[0], row[1]) for row in rows}


def seconds_of(file: Path) -> int:
    """When the file system was made, says its superblock."""
    return int.from_bytes(file.read_bytes()[8:12], "little")


def test_the_file_is_what_enroot_expects(yard: Yard, pin: Entry) -> None:
    file = yard.squash()
    assert file.name == f"automodel-{pin.release}-cpu-{yard.record.ids[0][7:19]}.sqsh"
    assert yard.names == {file.name, f"{file.name}.json"} and yard.left == []
    assert cat(file, "etc/environment") == "PATH=/opt/bin:/bin\nSPACES=one two\n"
    assert cat(file, "etc/fstab") == "${ENROOT_ROOTFS}/data /data none x-create=dir,bind,rw,nosuid,nodev\n"
    rc = cat(file, "etc/rc").splitlines()
    assert rc[:2] == [f"# enroot-provenance: dockerd://{yard.image}", "# boat yes"]
    assert rc[-2:] == ["""[ $# -eq 0 ] || exec /bin/start 'it'"'"'s' "$@\"""", """exec /bin/start 'it'"'"'s' go"""]
    assert "cd /data/here && unset OLDPWD || exit 1" in rc
    found = listing(file)
    assert {owner for _, owner in found.values()} == {"0/0"}
    assert not [name for name in found if name.startswith("dev/")] and "data/here" in found
    assert found["bin/start"][0] == "-rwsr-xr-x" and found["bin/link"][0].startswith("l")
    assert (found["closed"][0], found["closed/file"][0]) == ("drwxr-xr-x", "-r--------")


def test_the_sidecar_says_what_the_file_is(yard: Yard, pin: Entry) -> None:
    file = yard.squash()
    sidecar = json.loads(Path(f"{file}.json").read_text())
    assert sidecar["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (sidecar["size"], sidecar["ids"]) == (file.stat().st_size, yard.record.ids)
    assert (sidecar["name"], sidecar["entry"]) == (pin.name, pin.checksum)
    assert (sidecar["source"], sidecar["platform"]) == (f"dockerd://{yard.image}", "linux/amd64")
    assert all(tool in sidecar["tool"] for tool in TOOLS)


def test_one_image_is_one_file(yard: Yard, docker: Any) -> None:
    """Files that the import itself makes carry the image's time, as does the file system; those of the image theirs."""
    first = yard.squash().read_bytes()
    made = seconds_of(yard.folder / next(n for n in yard.names if n.endswith(".sqsh")))
    shutil.rmtree(yard.folder)
    file = yard.squash(yard.record.name)
    assert file.read_bytes() == first
    created = docker.images.get(yard.image).attrs["Created"][:19]
    assert made == int(subprocess.check_output(["date", "-u", "-d", f"{created}Z", "+%s"]))
    out = subprocess.check_output(["unsquashfs", "-lln", "-UTC", file, "bin/start"], text=True)
    assert "2020-09-13 12:26" in out


def test_a_hit_imports_nothing_and_takes_no_lock(yard: Yard) -> None:
    file = yard.squash()
    before = file.stat()
    reached = [yard.hold(program)[0] for program in TOOLS]
    with (yard.folder / f".{file.name}.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert yard.squash() == file
    assert file.stat() == before and not any(r.exists() for r in reached)


def test_twenty_at_once_make_one_import(yard: Yard) -> None:
    reached, go = yard.hold("mksquashfs")
    running = [yard.start() for _ in range(20)]
    until("nineteen that wait", lambda: sum("waiting for another" in r.err for r in running) == 19)
    go.touch()
    done = [r.finish() for r in running]
    assert {d.code for d in done} == {0} and len({d.out for d in done}) == 1
    assert sum("importing dockerd://" in d.err for d in done) == 1
    assert reached.read_text() == "\n\n"  # the import, and its question for the version
    assert len(yard.names) == 2 and yard.left == []


@pytest.mark.parametrize(
    ("program", "before"),
    [("skopeo", True), ("umoci", True), ("mksquashfs", True), ("mksquashfs", False), ("unsquashfs", False)],
)
def test_killed_it_leaves_nothing_under_the_name(yard: Yard, program: str, before: bool) -> None:
    reached, _ = yard.hold(program, before)
    running = yard.start()
    until(f"{program} held", reached.exists)
    running.kill()
    assert not [n for n in yard.names if not n.startswith(".")]
    yard.env.clear()
    file = yard.squash()
    assert yard.names == {file.name, f"{file.name}.json"} and yard.left == []


def test_a_file_that_was_cut_off_is_imported_again(yard: Yard) -> None:
    file = yard.squash()
    whole = file.read_bytes()
    os.truncate(file, 4096)
    done = yard.start().finish()
    assert done.code == 0 and "not what its sidecar says; importing it again" in done.err
    assert file.read_bytes() == whole


@pytest.mark.long
def test_killed_at_any_stage_it_leaves_nothing_or_everything(yard: Yard) -> None:
    def run(stage: int) -> int:
        command = [sys.executable, "-P", str(STANDINS / "stages.py"), str(stage), "images", "squash", yard.image]
        env = yard.tree.env | {"TMPDIR": str(yard.temporary)}
        return Running([*command, "--dir", str(yard.folder)], yard.tree.path, env).process.wait()

    file = yard.squash()
    whole, sidecar = file.read_bytes(), Path(f"{file}.json")
    stage, killed = 0, -signal.SIGKILL
    while killed == -signal.SIGKILL:
        file.unlink(missing_ok=True)
        sidecar.unlink(missing_ok=True)
        stage += 1
        killed = run(stage)
        if file.exists():
            assert file.read_bytes() == whole, stage
            assert json.loads(sidecar.read_text())["size"] == len(whole)
    assert (killed, stage > 30) == (0, True)
    assert yard.names == {file.name, sidecar.name} and yard.left == []


@contextlib.contextmanager
def pushed(yard: Yard, archive: Path, place: Path) -> Iterator[str]:
    """The image in a registry, in the form of docker's v2 schema 2, and recorded under the digest that it has there."""
    with registry(place) as port:
        reference = f"127.0.0.1:{port}/boats/tiny"
        copy = ["skopeo", "--insecure-policy", "copy", "--quiet", "--format=v2s2", "--dest-tls-verify=false"]
        subprocess.run([*copy, f"docker-archive:{archive}", f"docker://{reference}:1"], check=True)
        ask = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference}:1"]
        digest = f"sha256:{hashlib.sha256(subprocess.check_output(ask)).hexdigest()}"
        facts = identity.ImageRecord(**{n: getattr(yard.record, n) for n in yard.record.__struct_fields__})
        facts.ids.append(digest)
        identity.save(Root(yard.tree.path), facts)
        yield f"docker://{reference}@{digest}"


def test_from_a_registry_without_an_engine(yard: Yard, archive: Path, place: Path) -> None:
    dead = f"unix://{place}/dead"
    with pushed(yard, archive, place) as uri:
        file = yard.squash(uri, DOCKER_HOST=dead)
        refused = yard.start(f"{uri[:-1]}{'0' if uri[-1] != '0' else '1'}", DOCKER_HOST=dead).finish()
    assert json.loads(Path(f"{file}.json").read_text())["source"] == uri
    assert cat(file, "etc/environment") == "PATH=/opt/bin:/bin\nSPACES=one two\n"
    assert cat(file, "etc/rc").startswith(f"# enroot-provenance: {uri}\n")
    assert refused.code == 65 and "no image record names this digest" in refused.err
    assert yard.squash(uri, DOCKER_HOST=dead) == file  # the registry is gone, and not asked
    file.unlink()
    gone = yard.start(uri, DOCKER_HOST=dead).finish()
    assert gone.code == 69 and "cannot be reached" in gone.err


@ROOT
def test_another_user_makes_the_same_file(yard: Yard, archive: Path, place: Path) -> None:
    become = ["setpriv", "--reuid=12345", "--regid=23456", "--clear-groups", "--inh-caps=-all,+dac_read_search"]
    with pushed(yard, archive, place) as uri:
        mine = yard.squash(uri).read_bytes()
        yard.tree.prefix = [*become, "--ambient-caps=+dac_read_search", "--"]
        shutil.rmtree(yard.folder)
        for folder in (yard.folder, yard.temporary, yard.tree.path):
            folder.mkdir(exist_ok=True)
            os.chown(folder, 12345, 23456)
        file = yard.squash(uri)
    assert file.stat().st_uid == 12345 and yard.left == []
    assert file.read_bytes() == mine


def test_an_image_without_a_record(yard: Yard) -> None:
    shutil.rmtree(yard.tree.path / ".slipway" / "images")
    done = yard.start().finish()
    assert done.code == 65 and "no image record names" in done.err
    assert yard.start("nothing:1").finish().code == 66
    assert yard.names == set() and yard.left == []


@ROOT
@pytest.mark.parametrize(("which", "word"), [("temporary", "TMPDIR"), ("folder", "--dir")])
def test_no_space(yard: Yard, which: str, word: str) -> None:
    disk: Path = getattr(yard, which)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
    try:
        done = yard.start().finish()
        assert done.code == 73, done
        assert f"error: {disk}: not enough space: " in done.err and word in done.err
        assert yard.names == set() and yard.left == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_through_enroot(yard: Yard) -> None:
    """A stand-in of enroot: what it is told, where its folders are, and that what it makes is checked."""
    folder = yard.programs / "enroot-stand-in"
    (folder / "rootfs" / "etc").mkdir(parents=True)
    environment = folder / "rootfs" / "etc" / "environment"
    environment.write_text("PATH=/opt/bin:/bin\nSPACES=one two\n")
    yard.put("enroot", f'#!/bin/sh\nexec {sys.executable} -IS {STANDINS / "enroot.py"} {folder} "$@"\n')
    file = yard.squash()
    call, version = [json.loads(line) for line in (folder / "calls").read_text().splitlines()]
    part = file.with_name(f".{file.name}.part")
    assert call["words"] == ["import", "--output", str(part), f"dockerd://{yard.image}"]
    assert version["words"] == ["version"]
    variables = call["variables"]
    assert variables["ENROOT_SQUASH_OPTIONS"] == "-comp zstd -Xcompression-level 3 -b 1M"
    assert variables["DOCKER_HOST"] == yard.tree.env["DOCKER_HOST"]
    assert call["there"] == {"ENROOT_TEMP_PATH": True, "ENROOT_CACHE_PATH": True}
    assert variables["ENROOT_TEMP_PATH"].startswith(f"{yard.temporary}/slipway-held-squash-")
    assert json.loads(Path(f"{file}.json").read_text())["tool"] == "enroot 4.1.2"
    assert yard.names == {file.name, f"{file.name}.json"} and yard.left == []
    first = file.read_bytes()
    file.unlink()
    assert yard.squash().read_bytes() == first
    file.unlink()
    environment.write_text("OTHER=1\n")
    wrong: Done = yard.start().finish()
    assert wrong.code == 65 and "its etc/environment is not the image's" in wrong.err
    assert file.name not in yard.names and yard.left == []

"""`images verify`: runs entrypoints/verify.py inside an image or a .sqsh, against the entry in the lock.

Inside: nothing of this machine but that program and the entry, no network, a read-only root, a user that nobody knows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from images.bootstrap import debian
from images.building import configurations, identity, render, rootfs, workspace
from images.building.configurations import USER
from images.locking.model import Entry, Lock, named
from images.machine import dockerhost
from images.squashing import sidecar, squash
from slipway.errors import Exit, SlipwayError, nearest
from slipway.files import sha256_file
from slipway.project import Root

BROUGHT = "/tmp/slipway"  # where program and entry are, inside
_OWN = "/etc/slipway/entry.json"
# Not the image's own start script, whose entrypoint may print or do anything. Code 1 is enroot's own, too, where it
# could not start the image: inside it becomes another one, outside 125, as docker's.
_START = '"$@"\ncode=$?\n[ $code -ne 1 ] || exit 101\nexit $code\n'
_AROUND = ["sh", "-c", '"$@"; code=$?; case $code in 1) exit 125 ;; 101) exit 1 ;; esac; exit $code', "sh"]
_NO_GPU = {"NVIDIA_VISIBLE_DEVICES": "void", "MELLANOX_VISIBLE_DEVICES": "void"}  # for enroot's hooks on this host


def verify(root: Root, lock: Lock, image: str, say: squash.Say) -> None:
    """Prints a table of what was expected and found in `image`: LIBRARY/RELEASE-FLAVOUR, a tag, an id, or FILE.sqsh.

    Raises SlipwayError 65 (differences, each on stderr; or a file that is not what its sidecar says), 66 (not there)
    or 69 (no engine, or nothing here can look into a .sqsh). A record of it that does not say what its configurations
    are gets them.
    """
    workspace.sweep(root)
    with workspace.make(workspace.unpacking(), "verify") as (folder, _):
        brought = folder / "brought"
        if image.endswith(sidecar.SUFFIX):
            entry = check_file(lock, Path(image))
            ids = set(sidecar.read(Path(image)).ids)
            command, env = _in_file(root, entry, Path(image).resolve(), folder, say)
        else:
            entry, command, env, digest = _in_engine(root, lock, image, brought)
            ids = {digest}
        _bring(root, entry, brought)
        # Without the folder's lock: what is in an image gets nothing of this machine to hold.
        code = subprocess.run([*command, *_words()], env=env, check=False).returncode
        if not code and (record := configurations.of_ids(root, entry, ids)):
            configurations.remember(root, entry, record, lambda w: configurations.run([*command, *w[1:]], env), say)
    if code == 125:  # docker, chroot, and what is around enroot: it could not be started; they have said why
        raise SlipwayError(Exit.UNAVAILABLE, "the image cannot be run here", where=image)
    if code:
        what = f"no interpreter {_python(entry)}" if code in (126, 127) else "the differences stand above"
        raise SlipwayError(Exit.DATA, f"not what {entry.name} in the lock says: {what}", where=image)
    say(f"{image}: as {entry.name} in the lock says")


def check_file(lock: Lock, file: Path) -> Entry:
    """The entry of a .sqsh that is what its sidecar says. Raises SlipwayError 65 or, without a file, 66."""
    if not file.is_file():
        raise SlipwayError(Exit.NO_INPUT, "there is no such file", where=str(file))
    said = sidecar.read(file)
    again = "make the file again: images squash"
    if (size := file.stat().st_size) != said.size:
        what = f"{size} bytes, its sidecar says {said.size}"
        raise SlipwayError(Exit.DATA, what, where=str(file), remedy=again)
    if (found := sha256_file(file)) != said.sha256:
        what = f"its sha256 is {found}, its sidecar says {said.sha256}"
        raise SlipwayError(Exit.DATA, what, where=str(file), remedy=again)
    entry = lock.entries.get(said.name)
    if entry is None or entry.checksum != said.entry:
        what = f"made from {said.name}, entry {said.entry[:12]}, which is not in the lock"
        remedy = f"its entry is {entry.checksum[:12]}; {again}" if entry else nearest(said.name, lock.entries)
        raise SlipwayError(Exit.DATA, what, where=str(file), remedy=remedy)
    return entry


def _in_engine(root: Root, lock: Lock, image: str, brought: Path) -> tuple[Entry, list[str], dict[str, str], str]:
    """The entry, its Python in the image as a command, that one's environment, and the image's id."""
    address = dockerhost.find(root)
    with dockerhost.engine_client(address) as client:
        digest = identity.find(root, lock, image, client)[1] if image in lock.entries else ""
        digest = digest or identity.tagged(image, client)
        labels = client.images.get(digest).labels if digest else {}
    if not digest:
        remedy = f"{nearest(image, lock.entries)}, or the tag or id of an image, or FILE{sidecar.SUFFIX}"
        raise SlipwayError(Exit.NO_INPUT, f"the engine has no image {image!r}", remedy=remedy)
    parts = [labels.get(f"slipway.{key}", "?") for key in ("library", "release", "flavour")]
    name = named(parts[0], parts[1], parts[2], labels.get("slipway.platform", ""))
    if name not in lock.entries:
        what = f"its labels say {name}, which is not in the lock" if labels else "it has no labels of `images build`"
        raise SlipwayError(Exit.DATA, what, where=image, remedy="build it: images build LIBRARY")
    entry = lock.entries[name]
    command = [debian.which("docker") or "docker", "run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp"]
    command += ["--user", f"{USER}:{USER}", "--volume", f"{brought}:{BROUGHT}:ro", "--entrypoint", _python(entry)]
    return entry, [*command, digest], {**os.environ, "DOCKER_HOST": address.url}, digest


def _in_file(root: Root, entry: Entry, file: Path, folder: Path, say: squash.Say) -> tuple[list[str], dict[str, str]]:
    """The entry's Python in the file as a command, and that one's environment."""
    brought = folder / "brought"
    if enroot := debian.which("enroot"):
        start, env = folder / "rc", os.environ | _NO_GPU
        start.write_text(_START)
        container = str(file) if _can_mount() else _unpack(enroot, file, folder / "data", env, say)
        mount = f"{brought}:{BROUGHT}:none:x-create=dir,bind,ro:0:0"
        return [*_AROUND, enroot, "start", "--rc", str(start), "--mount", mount, container, _python(entry)], env
    if os.geteuid():
        remedy = "install enroot, or let root do it, who mounts the file"
        raise SlipwayError(Exit.UNAVAILABLE, "nothing here runs a program in a .sqsh", where=str(file), remedy=remedy)
    debian.need(root, say, "mksquashfs")
    mountpoint = folder / "root"
    mountpoint.mkdir()
    variables = rootfs.variables(_environment(file))
    script = [str(Path(__file__).with_name("chroot.sh")), str(file), str(mountpoint), str(brought)]
    clean = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in variables.items())]
    apart = ["unshare", "--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    return [*apart, *script, *clean, _python(entry)], {"PATH": debian.search_path()}


def _can_mount() -> bool:
    """Whether enroot can start a .sqsh as it is."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError:
        return False
    return debian.which("squashfuse") is not None


def _unpack(enroot: str, file: Path, data: Path, env: dict[str, str], say: squash.Say) -> str:
    """The name of a container that enroot makes of the file in the folder `data`, which `env` then says."""
    say(f"{file}: cannot be mounted by this user; unpacking it below {data.parent.parent}")
    data.mkdir()
    env["ENROOT_DATA_PATH"] = str(data)
    done = subprocess.run([enroot, "create", "--name", "verify", str(file)], env=env, capture_output=True, text=True)
    if done.returncode:
        what = f"cannot be unpacked here: {(done.stderr.strip() or 'enroot said nothing').splitlines()[-1]}"
        remedy = "free space there, or name another folder: TMPDIR"
        raise SlipwayError(Exit.UNAVAILABLE, what, where=str(file), remedy=remedy)
    return "verify"


def _environment(file: Path) -> str:
    command = [debian.which("unsquashfs") or "unsquashfs", "-cat", str(file), rootfs.ENVIRONMENT]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        what = f"its {rootfs.ENVIRONMENT} cannot be read: {done.stderr.strip()}"
        raise SlipwayError(Exit.DATA, what, where=str(file), remedy="make the file again: images squash")
    return done.stdout


def _bring(root: Root, entry: Entry, brought: Path) -> None:
    brought.mkdir()
    shutil.copyfile(root.file("entrypoints/verify.py"), brought / "verify.py")
    (brought / "entry.json").write_text(render.entry_json(entry))
    for path in (brought.parent, brought, *brought.iterdir()):
        path.chmod(0o755)  # whoever it runs as has to read it


def _python(entry: Entry) -> str:
    return render.main_environment(entry).python


def _words() -> list[str]:
    return ["-B", f"{BROUGHT}/verify.py", "image", "--entry", f"{BROUGHT}/entry.json", "--own", _OWN]

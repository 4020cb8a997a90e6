"""A stand-in of enroot: enroot.py FOLDER WORD...

Writes the words and the ENROOT_ variables of every call as one JSON line to FOLDER/calls. `import --output FILE URI`
makes a real squashfs of FOLDER/rootfs, with the options that enroot takes from its environment; of an image that
docker://HOST#NAME@DIGEST names, which it unpacks there, with the files in /etc that enroot 4.1.2 writes. `create`,
`list`, `remove`, `start` and `exec` do what enroot's do, with its grammar, in namespaces of their own; but where there
is FOLDER/code, `start` only ends with that number.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

NEW_SPACE, NEW_USER = 0x20000, 0x10000000
FLAGS = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "bind": 4096, "rbind": 4096 | 16384}
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHELL = """\
case ${ENROOT_LOGIN_SHELL-} in n*|N*) ;; *) [ ! -r /etc/profile ] || . /etc/profile ;; esac
unset ENROOT_LOGIN_SHELL
[ ! -r "$0" ] || exec /bin/sh "$0" "$@"
exec "${@:-/bin/sh}"
"""
libc = ctypes.CDLL(None, use_errno=True)


def fail(message: str) -> NoReturn:
    sys.exit(message if message.startswith(("enroot-", "[")) else f"[ERROR] {message}")


def data() -> Path:
    """Where containers are."""
    return Path(os.environ.get("ENROOT_DATA_PATH") or Path.home() / ".local" / "share" / "enroot")


def import_(folder: Path, words: list[str]) -> None:
    options = os.environ["ENROOT_SQUASH_OPTIONS"].split()
    if words[-1].startswith("docker://"):
        pull(folder, words[-1])
    command = ["mksquashfs", str(folder / "rootfs"), words[words.index("--output") + 1], "-all-root", *options]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def pull(folder: Path, uri: str) -> None:
    named = re.fullmatch(r"docker://([^#/@]+)#([a-z0-9/._-]+)@(sha256:[0-9a-f]+)", uri)
    if not named:
        fail(f"Invalid image reference: {uri}")
    os.environ["PATH"] = PATH
    name, layout, root = "{}/{}@{}".format(*named.groups()), folder / "layout", folder / "rootfs"
    tls = "false" if os.environ.get("ENROOT_ALLOW_HTTP") else "true"
    copy = ["skopeo", "--insecure-policy", "copy", "-q", f"--src-tls-verify={tls}"]
    if subprocess.run([*copy, f"docker://{name}", f"oci:{layout}:image"]).returncode:
        fail(f"Could not process JSON input\ncurl: (7) {name}")
    inspect = ["skopeo", "inspect", "--config", f"oci:{layout}:image"]
    config = json.loads(subprocess.check_output(inspect))["config"]
    rootless = ["--rootless"] if os.geteuid() else []
    subprocess.run(["umoci", "raw", "unpack", *rootless, "--image", f"{layout}:image", str(root)], check=True)
    shutil.rmtree(layout)
    subprocess.run(["chmod", "-R", "u+rX", str(root)], check=True)
    start = f'mkdir -p "{config["WorkingDir"]}" 2> /dev/null\ncd "{config["WorkingDir"]}" && unset OLDPWD || exit 1\n'
    texts = {"environment": "".join(f"{v}\n" for v in config["Env"]), "fstab": "", "rc.local": "# This file\n"}
    for file, text in (texts | {"rc": f"# enroot-provenance: {uri}\n\n{start}"}).items():
        (root / "etc" / file).unlink(missing_ok=True)
        (root / "etc" / file).write_text(text)


def create(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="enroot create")
    parser.add_argument("-n", "--name")
    parser.add_argument("-f", "--force", action="store_true")
    parser.add_argument("image", type=Path)
    asked = parser.parse_args(words)
    target = data() / (asked.name or asked.image.stem)
    if not asked.image.is_file():
        fail(f"No such file or directory: {asked.image}")
    if target.exists() and not asked.force:
        fail(f"File already exists: {target}")
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    command = ["unsquashfs", "-no-progress", "-no-xattrs", "-d", str(target), str(asked.image)]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        fail(f"Invalid image format: {asked.image}")


def remove(words: list[str]) -> None:
    names = [word for word in words if word not in ("-f", "--force")]
    if names == words:  # enroot asks, and nobody is there to answer
        sys.exit(1)
    for name in names:
        if not (data() / name).is_dir():
            fail(f"No such file or directory: {data() / name}")
        shutil.rmtree(data() / name)


def start(words: list[str]) -> NoReturn:
    parser = argparse.ArgumentParser(prog="enroot start", allow_abbrev=False)
    parser.add_argument("-e", "--env", action="append", default=[])
    parser.add_argument("-m", "--mount", action="append", default=[])
    parser.add_argument("-r", "--root", action="store_true")
    parser.add_argument("-w", "--rw", action="store_true")
    parser.add_argument("--rc", default="")
    parser.add_argument("container")
    parser.add_argument("words", nargs=argparse.REMAINDER)
    asked = parser.parse_args(words)
    for mount_ in asked.mount:
        if re.search(r"\s", mount_):
            fail(f"Invalid argument: {mount_}")
    packed = asked.container.endswith(".sqsh")
    root = Path(asked.container) if packed else data() / asked.container
    if not root.exists() or ("/" in asked.container and not packed):
        fail(f"No such file or directory: {root}")
    if packed and os.geteuid():
        fail(f"[WARN] fuse: failed to open /dev/fuse: Permission denied\n[ERROR] Failed to mount: {root}")
    uid, gid = os.geteuid(), os.getegid()
    home = "/root" if asked.root or not uid else str(Path.home())
    separate(uid, gid, asked.root)
    root = unpack(root) if packed else root
    mount(str(root), root, "", BIND | RECURSIVE)
    system = [f"{p}:{p}:none:x-create=auto,rbind" for p in ("/proc", "/sys", "/dev", "/etc/hosts", "/etc/resolv.conf")]
    system += [f"tmpfs:{path}:tmpfs:x-create=dir" for path in ("/tmp", "/var/run", "/var/lock")]
    if os.environ.get("ENROOT_MOUNT_HOME", "n")[:1].lower() in "y1t":
        system.append(f"{home}:{home}:none:x-create=dir,rbind")
    if asked.rc:
        system.append(f"{asked.rc}:/etc/rc:none:x-create=file,bind")
    with (root / ".lock").open("w") as lock:  # others may start from the same root
        fcntl.flock(lock, fcntl.LOCK_EX)
        for fstab in [*system, *asked.mount]:
            mount_fstab(root, fstab)
    environment = variables(root, asked.env) | {"HOME": home}
    give_gpus(root, environment)
    if not asked.rw:
        mount("", root, "", REMOUNT | BIND | READ_ONLY | held(root))
    os.chroot(root)
    os.chdir("/")
    os.execve("/bin/sh", ["sh", "-c", SHELL, "/etc/rc", *asked.words], environment)


def exec_(words: list[str]) -> NoReturn:
    """In the namespaces, the root and the environment of a process of a container."""
    parser = argparse.ArgumentParser(prog="enroot exec", allow_abbrev=False)
    parser.add_argument("-e", "--env", action="append", default=[])
    parser.add_argument("pid", type=int)
    parser.add_argument("words", nargs=argparse.REMAINDER)
    asked = parser.parse_args(words)
    pid, command = asked.pid, asked.words
    told = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    environment = dict(os.fsdecode(item).split("=", 1) for item in told if b"=" in item)
    environment |= dict(word.split("=", 1) for word in asked.env)
    spaces = ["--mount", "--root", *(["--user", "--preserve-credentials"] if os.geteuid() else [])]
    os.execve("/usr/bin/nsenter", ["nsenter", f"--target={pid}", *spaces, "--", *command], environment)


def separate(uid: int, gid: int, as_root: bool) -> None:
    """A mount namespace of our own and, for those who are not root, a user namespace that lets them mount."""
    call("unshare", NEW_SPACE | (NEW_USER if uid else 0))
    if uid:
        Path("/proc/self/setgroups").write_text("deny")
        for name, number in (("uid", uid), ("gid", gid)):
            Path(f"/proc/self/{name}_map").write_text(f"{0 if as_root else number} {number} 1")
    mount("", Path("/"), "", RECURSIVE | PRIVATE)


def unpack(file: Path) -> Path:
    """The root of a .sqsh that is mounted, under a layer of our own."""
    place = Path("/run")  # hidden by what is mounted on it, in our namespace alone
    file = file.resolve()
    held_open = os.open(file, os.O_RDONLY)
    mount("tmpfs", place, "tmpfs", 0)
    for name in ("image", "upper", "work", "root"):
        (place / name).mkdir()
    command = ["mount", "-t", "squashfs", "-o", "loop,ro", f"/proc/{os.getpid()}/fd/{held_open}", str(place / "image")]
    if subprocess.run(command).returncode:
        fail(f"Failed to mount: {file}")
    os.close(held_open)
    options = f"lowerdir={place}/image,upperdir={place}/upper,workdir={place}/work"
    mount("overlay", place / "root", "overlay", 0, options)
    return place / "root"


def mount_fstab(root: Path, text: str) -> None:
    """SRC:DST[:TYPE[:FLAGS[:DUMP:PASS]]], as in fstab(5)."""
    given = text.split(":")
    given += ["none", "x-create=auto,bind"] if len(given) == 2 else [""]
    source, target, kind, options = given[:4]
    words = options.split(",")
    flags = sum(FLAGS.get(word, 0) for word in words)
    place = inside(root, target)
    if any(word.startswith("x-create=") for word in words) and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        folder = "x-create=dir" in words or ("x-create=auto" in words and Path(source).is_dir())
        place.mkdir() if folder else place.touch()
    try:
        mount(source, place, "" if flags & BIND else kind, flags & ~READ_ONLY if flags & BIND else flags)
    except OSError as e:
        if "nofail" not in words:
            fail(f"enroot-mount: failed to mount: {source} at {place}: {e.strerror}")
        return
    if flags & BIND and flags & 15:
        mount("", place, "", REMOUNT | BIND | flags & 15 | held(place))


def inside(root: Path, target: str) -> Path:
    """The path below `root` that `target` means in there: links are the container's."""
    place = root
    for part in Path(target).parts[1:]:
        place /= part
        if place.is_symlink():
            link = str(place.readlink())
            place = inside(root, link) if link.startswith("/") else place.parent / link
    return place


def variables(root: Path, asked: list[str]) -> dict[str, str]:
    """Nothing of the host's but what was asked for: the image's, and -e NAME[=VALUE]."""
    found = {"PATH": PATH} | {n: v for n, v in os.environ.items() if n in ("ENROOT_LOGIN_SHELL", "TERM", "USER")}
    file = root / "etc" / "environment"
    lines = file.read_text().splitlines() if file.is_file() else []
    for line in [*lines, *asked]:
        name, is_set, value = line.partition("=")
        if is_set or name in os.environ:
            found[name] = value if is_set else os.environ[name]
    return found


def give_gpus(root: Path, environment: dict[str, str]) -> None:
    """As 98-nvidia.sh does: by NVIDIA's program, if any device is asked for."""
    devices = os.environ.get("NVIDIA_VISIBLE_DEVICES") or environment.get("NVIDIA_VISIBLE_DEVICES")
    if devices in (None, "", "void"):
        return
    if not shutil.which("nvidia-container-cli"):
        fail("Command not found: nvidia-container-cli, see https://github.com/NVIDIA/libnvidia-container")
    capabilities = [f"--{name}" for name in environment.get("NVIDIA_DRIVER_CAPABILITIES", "utility").split(",")]
    command = ["nvidia-container-cli", "--user", "configure", f"--device={devices}", *capabilities, str(root)]
    if subprocess.run(command).returncode:
        sys.exit(1)


def mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    call("mount", source.encode() or None, str(target).encode(), kind.encode() or None, flags, options.encode() or None)


def held(place: Path) -> int:
    """The flags that a remount has to keep, or it is refused to those who are not root."""
    return os.statvfs(place).f_flag & (FLAGS["ro"] | FLAGS["nosuid"] | FLAGS["nodev"] | FLAGS["noexec"])


def call(name: str, *arguments: bytes | int | None) -> None:
    if getattr(libc, name)(*(ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main() -> None:
    folder, words = Path(sys.argv[1]), sys.argv[2:]
    told = {name: value for name, value in os.environ.items() if name.startswith(("ENROOT_", "NVIDIA_", "DOCKER_"))}
    there = {name: Path(value).is_dir() for name, value in told.items() if name.endswith("_PATH")}
    with (folder / "calls").open("a") as f:
        f.write(json.dumps({"words": words, "variables": told, "there": there}) + "\n")
    verb, rest = words[0], words[1:]
    if verb == "version":
        print("4.1.2")
    elif verb == "import":
        import_(folder, words)
    elif verb == "create":
        create(rest)
    elif verb == "list":
        print("".join(f"{p.name}\n" for p in sorted(data().glob("*"))), end="")
    elif verb == "remove":
        remove(rest)
    elif verb == "start":
        if (folder / "code").is_file():
            sys.exit(int((folder / "code").read_text()))
        start(rest)
    elif verb == "exec":
        exec_(rest)
    else:
        fail(f"Unknown command: {verb}")


if __name__ == "__main__":
    main()

"""`images squash` of an official image where no Docker engine is: the same file tree as through one, by commands."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import write_chat_model, write_chats

from images.building import identity
from images.locking import lock as locks
from slipway.errors import Exit
from slipway.project import Root

from .official import BUILT, RELEASES, Shelf, another
from .support import PROJECT, Tree, by_umask, until
from .test_any_user import BECOME, GID, ROOT, UID
from .test_official import MEGATRON, unrepaired
from .test_official_runs import AUTOMODEL

pytestmark = pytest.mark.real
AS_ROOT = pytest.mark.skipif(not ROOT, reason="only root can become another user")
STANDIN = PROJECT / "tests" / "standins" / "enroot.py"
# In a user namespace where all are who they are, and none may make another.
WITHOUT_NAMESPACES = """
import ctypes, os, pathlib, sys
me, (there, go) = os.getpid(), os.pipe()
if not (helper := os.fork()):
    os.read(there, 1)
    for kind in ("uid", "gid"):
        pathlib.Path(f"/proc/{me}/{kind}_map").write_text("0 0 4294967295")
    os._exit(0)
assert ctypes.CDLL(None).unshare(0x10000000) == 0
os.write(go, b"1")
assert os.waitpid(helper, 0)[1] == 0
pathlib.Path("/proc/sys/user/max_user_namespaces").write_text("0")
os.execvp(sys.argv[1], sys.argv[1:])
"""


def name_of(library: str) -> str:
    return f"{library}/{RELEASES[library]}-cuda"


@pytest.fixture
def login(locked: Tree, no_docker: Path, place: Path) -> Tree:
    """The project on a machine that has no engine and no docker command, before anything of it is built."""
    return without_docker(locked, no_docker, place)


@pytest.fixture(scope="module")
def made(locked: Tree, no_docker: Path, ground: Path) -> Callable[[str], Path]:
    """The file of a library that root has made on such a machine; made once."""
    place = ground / "made"
    place.mkdir()
    tree = without_docker(locked, no_docker, place)
    return functools.cache(lambda library: squash(tree, name_of(library)))


def without_docker(locked: Tree, no_docker: Path, place: Path) -> Tree:
    path = place / "project"
    shutil.copytree(locked.path, path, ignore=shutil.ignore_patterns(".slipway"))
    for folder in ("tmp", "home"):
        (place / folder).mkdir()
    env = locked.env | {"PATH": str(no_docker), "DOCKER_HOST": f"unix://{place}/none", "HOME": str(place / "home")}
    return dataclasses.replace(locked, path=path, env=env | {"TMPDIR": str(place / "tmp")})


def user(tree: Tree) -> Tree:
    """The same, of a user who is not root and has nothing but the project and a place for unpacking."""
    for folder in (tree.path, tree.path.parent / "tmp", tree.path.parent / "home"):
        subprocess.run(["chown", "-R", f"{UID}:{GID}", str(folder)], check=True)
    return dataclasses.replace(tree, prefix=BECOME)


def with_ids(tree: Tree, place: Path) -> Tree:
    """The same user on a machine that knows him and has given him subordinate ids, for this command alone."""
    texts = {"passwd": Path("/etc/passwd").read_text() + f"sailor:x:{UID}:{GID}::/nonexistent:/bin/sh\n"}
    texts |= dict.fromkeys(("subuid", "subgid"), f"{UID}:200000:65536\n")
    for name, text in texts.items():
        (place / name).write_text(text)
    binds = " && ".join(f"mount --bind {place}/{name} /etc/{name}" for name in texts)
    return dataclasses.replace(tree, prefix=["unshare", "--mount", "sh", "-c", f'{binds} && exec "$@"', "sh", *BECOME])


def squash(tree: Tree, name: str, *more: str) -> Path:
    done = tree.images("squash", name, *more)
    assert done.code == 0, done.err[-4000:]
    return Path(done.out.strip())


def contents(file: Path, folder: Path) -> dict[str, tuple[str, str]]:
    """What is in a .sqsh: path -> mode and owner, and what it is or leads to."""
    subprocess.run(["unsquashfs", "-quiet", "-no-progress", "-d", str(folder), str(file)], check=True)
    found = {}
    for path in sorted(folder.rglob("*")):
        seen = path.lstat()
        if stat.S_ISREG(seen.st_mode):
            what = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            what = str(path.readlink()) if path.is_symlink() else ""
        facts = f"{stat.filemode(seen.st_mode)} {seen.st_uid}:{seen.st_gid}"
        found[str(path.relative_to(folder))] = (facts, what)
    shutil.rmtree(folder)
    return found


def differences(one: dict[str, tuple[str, str]], other: dict[str, tuple[str, str]]) -> set[str]:
    return {path for path in one.keys() | other.keys() if one.get(path) != other.get(path)}


def cat(file: Path, name: str) -> str:
    return subprocess.run(["unsquashfs", "-cat", file, name], stdout=subprocess.PIPE, text=True, check=True).stdout


def enroot(folder: Path, state: Path) -> None:
    """The stand-in of enroot as a program in `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "enroot").write_text(f'#!/bin/sh\nexec {sys.executable} -IS {STANDIN} {state} "$@"\n')
    (folder / "enroot").chmod(0o755)


@pytest.mark.parametrize(
    "library", [pytest.param(name, marks=pytest.mark.long if name != "nemo-rl" else ()) for name in BUILT]
)
def test_the_file_is_the_one_that_docker_gives(
    gpu_project: Tree, made: Callable[[str], Path], login: Tree, place: Path, library: str
) -> None:
    """But for the line that says where it comes from; the image's own verify has run in both."""
    file = made(library)
    built = squash(gpu_project, name_of(library), "--dir", str(place / "built"))
    assert differences(contents(built, place / "a"), contents(file, place / "b")) == {"etc/rc"}
    said, first, second = (cat(f, "etc/rc").splitlines() for f in (built, file, file))
    assert said[1:] == first[1:] and f"# slipway.library {library}" in first
    entry = locks.load_lock(Root(login.path)).entries[name_of(library)]
    assert second[0] == f"# enroot-provenance: docker://{entry.base.image}@{entry.base.digest}"
    assert login.images("verify", str(file)).code == 0
    known = [identity.records(Root(p), entry)[0].configurations for p in (gpu_project.path, file.parents[2])]
    assert known[0] == known[1] and all(f.values for f in known[0].values())


@AS_ROOT
def test_any_user_makes_the_same_file(made: Callable[[str], Path], login: Tree, place: Path) -> None:
    """Alone in his namespace, or with the subordinate ids that the machine has given him."""
    mine = contents(made("nemo-rl"), place / "a")
    tree = user(login)
    closed = by_umask(with_ids(tree, place), 0o077)
    for one, folder in ((tree, place / "alone"), (closed, place / "others")):
        folder.mkdir()
        os.chown(folder, UID, GID)
        file = squash(one, name_of("nemo-rl"), "--dir", str(folder))
        assert contents(file, place / "b") == mine
        assert file.stat().st_uid == UID and list((place / "tmp").iterdir()) == []


@AS_ROOT
def test_with_subordinate_ids_verify_is_somebody_else(login: Tree, place: Path) -> None:
    """Without the repairs of the matrix /root is closed to all but the owner: seen by others alone."""
    tree = user(another(login, place / "other", "nemo-rl", unrepaired))
    done = with_ids(tree, place).images("squash", name_of("nemo-rl"))
    assert done.code == Exit.DATA and "/opt/nemo_rl_venv/bin/python" in done.err, done
    assert "Permission denied" in done.err


def test_it_is_recorded_and_made_once(login: Tree) -> None:
    name = name_of("automodel")
    file = squash(login, name)
    lock = locks.load_lock(Root(login.path))
    (record,) = identity.records(Root(login.path), lock.entries[name])
    said = json.loads(Path(f"{file}.json").read_text())
    assert (said["ids"], said["entry"], said["platform"]) == (record.ids, record.entry, record.platform)
    assert file.name == f"automodel-26.06-cuda-{record.ids[0][7:19]}.sqsh" and record.drift == {} and record.seconds > 0
    before = file.stat()
    shutil.rmtree(login.path / ".slipway" / "images")  # as after a kill between the file and its record
    again = login.images("squash", name)
    assert (again.code, again.out.strip()) == (0, str(file)) and "importing" not in again.err
    assert file.stat() == before
    assert [r.ids for r in identity.records(Root(login.path), lock.entries[name])] == [record.ids]


@AS_ROOT
def test_a_launch_takes_it_as_it_takes_a_built_one(login: Tree, place: Path) -> None:
    """The stand-in of enroot mounts as root."""
    name = name_of("automodel")
    write_chat_model(place / "model")
    write_chats(place / "chats.jsonl")
    enroot(place / "enroot", place / "enroot")
    env = {"PATH": f"{place}/enroot:{login.env['PATH']}", "SLIPWAY_RUNS": str(place / "runs")}
    words = ("--profile", "enroot", "sft/automodel", f"train={place}/chats.jsonl", f"model={place}/model",
             "--flavour", "cuda", "--gpus", "0", f"output={place}/out", *AUTOMODEL)  # fmt: skip
    missing = login.launch(*words, **env)
    assert missing.code == Exit.NO_INPUT and f"images squash {name}" in missing.err, missing
    squash(login, name)
    done = login.launch(*words, **env)
    assert done.code == 0, done
    assert (place / "out" / "epoch_0_step_1" / "model" / "consolidated" / "config.json").is_file()


def test_by_enroot_where_there_is_nothing_else(
    made: Callable[[str], Path], login: Tree, no_docker: Path, place: Path
) -> None:
    """But for the files in /etc that enroot words in its own way."""
    file = made("nemo-rl")
    (place / "bin").mkdir()
    for program in no_docker.iterdir():
        if program.name not in ("skopeo", "umoci"):
            (place / "bin" / program.name).symlink_to(program)
    enroot(place / "bin", place / "enroot")
    (place / "enroot").mkdir()
    tree = dataclasses.replace(login, env=login.env | {"PATH": str(place / "bin")})
    other = squash(tree, name_of("nemo-rl"), "--dir", str(place / "other"))
    found = differences(contents(file, place / "a"), contents(other, place / "b"))
    assert found == {"etc/rc", "etc/rc.local"}
    assert json.loads(Path(f"{other}.json").read_text())["tool"] == "enroot 4.1.2" and other.name == file.name
    start = cat(other, "etc/rc").splitlines()
    assert "# slipway.library nemo-rl" in start and 'cd "/opt/nemo-rl" && unset OLDPWD || exit 1' in start
    assert list((place / "tmp").iterdir()) == []


def test_a_repository_of_the_build_is_in_it(login: Tree, gpu_project: Tree, place: Path) -> None:
    source = place / "modelopt"
    (source / "examples").mkdir(parents=True)
    (source / "examples" / "run.sh").write_text("")
    (source / "examples" / "run.sh").chmod(0o755)
    for git in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "1"]):
        subprocess.run(["git", "-C", str(source), *git], check=True)
    given = ("--source", f"modelopt={source}")
    done = gpu_project.images("build", "modelopt", *given)
    assert done.code == 0, done
    built = squash(gpu_project, name_of("modelopt"), "--dir", str(place / "built"))
    file = squash(by_umask(login, 0o077), name_of("modelopt"), *given)
    assert differences(contents(built, place / "a"), contents(file, place / "b")) == {"etc/rc"}
    entry = locks.load_lock(Root(login.path)).entries[name_of("modelopt")]
    assert set(identity.records(Root(login.path), entry)[0].drift) == {"source modelopt"}
    refused = gpu_project.images("squash", name_of("modelopt"), *given)
    assert refused.code == Exit.WORDS and "it belongs to: images build" in refused.err


def test_a_base_that_is_not_what_the_lock_says_leaves_nothing(login: Tree, official: Shelf, place: Path) -> None:
    def broken(spec: dict[str, Any]) -> None:
        spec["base"]["tag"] = "broken"

    official.put("nemo-rl", RELEASES["nemo-rl"], "broken", f"rm -r {MEGATRON}")
    tree = another(login, place / "other", "nemo-rl", broken)
    done = tree.images("squash", name_of("nemo-rl"))
    lost = f"environment megatron: there is no interpreter {MEGATRON}/bin/python that uid 65534 gid 65534 can reach"
    assert done.code == Exit.DATA and "its base is not what the lock says" in done.err, done
    assert lost in done.err or os.geteuid()
    kept = [p.name for p in (tree.path / ".slipway").rglob("*") if p.is_file() and not p.name.endswith(".lock")]
    assert kept == [] == list((place / "tmp").iterdir())


def test_killed_while_the_base_is_changed_it_leaves_nothing(login: Tree, place: Path) -> None:
    """Nor a program of the base, which would go on writing: here one that never ends."""
    programs = place / "programs"
    programs.mkdir()
    (programs / "chroot").write_text(f"#!/bin/sh\n: >{place}/reached\nwhile :; do sleep 0.02; done\n")
    (programs / "chroot").chmod(0o755)
    running = login.start("images", "squash", name_of("automodel"), PATH=f"{programs}:{login.env['PATH']}")
    until("the base's first program", (place / "reached").exists)
    running.kill()
    until("the end of that program", lambda: not processes(str(programs)))
    kept = [p.name for p in (login.path / ".slipway").rglob("*") if p.is_file() and not p.name.endswith(".lock")]
    assert kept == []
    squash(login, name_of("automodel"))
    assert list((place / "tmp").iterdir()) == []


def processes(word: str) -> list[str]:
    """The command lines in which a word stands."""
    words = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words.append(file.read_bytes().decode(errors="replace"))
    return [line for line in words if word in line]


@AS_ROOT
def test_a_folder_in_which_no_program_runs_is_named(login: Tree, place: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", str(place / "tmp")], check=True)
    try:
        done = login.images("squash", name_of("automodel"))
    finally:
        subprocess.run(["umount", str(place / "tmp")], check=True)
    assert done.code == Exit.UNAVAILABLE and f"{place}/tmp: programs of " in done.err and "noexec" in done.err, done
    assert "importing" not in done.err and "TMPDIR" in done.err


@AS_ROOT
def test_where_user_namespaces_are_off_nothing_is_fetched(login: Tree, place: Path) -> None:
    """The limit is the kernel's, of a namespace around the command."""
    tree = dataclasses.replace(user(login), prefix=[sys.executable, "-c", WITHOUT_NAMESPACES, *BECOME])
    done = tree.images("squash", name_of("automodel"))
    assert done.code == Exit.UNAVAILABLE and "user namespaces are off (user.max_user_namespaces" in done.err, done
    assert "importing" not in done.err and list((place / "tmp").iterdir()) == []


def test_a_cpu_image_wants_an_engine(login: Tree) -> None:
    done = login.images("squash", "automodel/0.7.0-cpu")
    assert done.code == Exit.UNAVAILABLE and "no Docker engine answers" in done.err, done

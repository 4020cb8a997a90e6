"""Inputs that the launcher can read and the container cannot: refused when planning, with every engine."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import IMAGE, SHARDS, Done, Engine, Inputs, Project, record_image, script, squash

from images.locking import lock as locks
from images.squashing import sidecar
from launcher.artifacts import detection
from launcher.artifacts.detection import Reader

USER, GROUP = 12345, 54321
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a launcher as another user")
# It may read what is root's, as a user of a group, of root's own tools, or of a backup's capability may.
BECOME = [str(shutil.which("setpriv")), f"--reuid={USER}", f"--regid={USER}", f"--groups={GROUP}",
          "--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search", "--"]  # fmt: skip
PROFILES = ("docker", "enroot", "slurm-pyxis")

Launch = Callable[..., Done]


@pytest.fixture
def launch(project: Project, engine: Engine, inputs: Inputs, tmp_path: Path) -> Launch:
    """A dry run of sft/automodel by a user who may read more than a container does."""
    lock = locks.load_lock(project.root)
    record_image(project.root, locks.select(lock, "automodel", "cpu"))
    squash(sidecar.folder(project.root), record_image(project.root, locks.select(lock, "automodel", "cuda")))
    engine.holds(images={IMAGE: IMAGE})
    project.program("enroot", "echo 4.1.2")
    (engine.folder / "socket").chmod(0o777)
    (tmp_path / "out").mkdir()
    os.chown(tmp_path / "out", USER, USER)
    project.env["SLIPWAY_TRUST"] = "root"

    def run(profile: str, *words: str, become: tuple[str, ...] = tuple(BECOME)) -> Done:
        given = ("sft/automodel", *inputs.words, f"output={tmp_path}/out", f"--runs-dir={tmp_path}/out", "--dry-run")
        flavour = "cpu" if profile == "docker" else "cuda"
        command = [*become, script("launch"), "--profile", profile, "--flavour", flavour, *given, *words]
        done = subprocess.run(command, cwd=project.path, env=project.env, capture_output=True, text=True, check=False)
        return Done(done.returncode, done.stdout, done.stderr)

    return run


def told(done: Done) -> list[str]:
    return [line for line in done.stderr.splitlines() if "in the container, which runs as uid" in line]


@AS_ROOT
@pytest.mark.parametrize("profile", PROFILES)
def test_the_first_file_that_the_container_cannot_read_is_named(launch: Launch, inputs: Inputs, profile: str) -> None:
    (inputs.model / SHARDS[1]).chmod(0o600)
    done = launch(profile)
    assert told(done) == [
        f"error: model: {inputs.model / SHARDS[1]}: cannot be read in the container, which runs as uid {USER}: "
        "it is root's, with mode 0600"
    ], done.stderr
    assert done.code == 77 and f"as its owner: chmod -R a+rX {inputs.model}\n" in done.stderr


@AS_ROOT
@pytest.mark.parametrize("profile", PROFILES)
def test_a_folder_that_cannot_be_entered_and_a_file_by_itself(launch: Launch, inputs: Inputs, profile: str) -> None:
    inputs.model.chmod(0o744)
    inputs.train.chmod(0o640)
    done = launch(profile)
    assert done.code == 77 and len(told(done)) == 2, done.stderr
    assert f"model: {inputs.model}: cannot be listed and entered in the container" in done.stderr
    assert f"train: {inputs.train}: cannot be read in the container" in done.stderr
    assert f"as its owner: chmod a+r {inputs.train}\n" in done.stderr


@AS_ROOT
@pytest.mark.parametrize("profile", PROFILES)
def test_what_it_can_read_is_not_mentioned(launch: Launch, inputs: Inputs, profile: str) -> None:
    assert told(launch(profile)) == []
    for path, owner, mode in ((inputs.model, 0, 0o711 | 0o044), (inputs.model / SHARDS[0], USER, 0o400)):
        os.chown(path, owner, owner)
        path.chmod(mode)
    assert told(launch(profile)) == []
    (inputs.model / SHARDS[0]).chmod(0o600)
    (inputs.model / SHARDS[1]).chmod(0o600)
    assert told(launch(profile, become=())) == [], "root reads everything in its container, too"


@AS_ROOT
def test_of_the_users_groups_a_container_of_docker_has_the_first_alone(launch: Launch, inputs: Inputs) -> None:
    os.chown(inputs.train, 0, GROUP)
    inputs.train.chmod(0o640)
    assert [len(told(launch(profile))) for profile in PROFILES] == [1, 0, 0]
    os.chown(inputs.train, 0, USER)
    assert [len(told(launch(profile))) for profile in PROFILES] == [0, 0, 0]


@AS_ROOT
def test_a_blob_of_a_shared_cache_is_looked_at_where_its_link_leads(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--org--m"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    blob = repository / "blobs" / ("b" * 64)
    blob.parent.mkdir()
    blob.write_bytes(b"{}")
    (snapshot / "config.json").symlink_to(f"../../blobs/{blob.name}")
    reader = Reader(USER, frozenset({USER}))
    found = detection.inspect("model", snapshot)
    assert detection.unreadable(found, reader) is None
    blob.chmod(0o600)
    assert detection.unreadable(found, reader) == snapshot / "config.json"
    blob.chmod(0o644)
    blob.parent.chmod(0o700)
    assert detection.unreadable(found, reader) == blob.parent


@AS_ROOT
def test_a_list_of_a_files_own_is_believed(tmp_path: Path) -> None:
    """acl(5) as setfacl writes it: user, user USER, group, mask, other; the group's bits of the mode are the mask."""
    file = tmp_path / "chats.jsonl"
    file.write_text("{}\n")
    file.chmod(0o600)
    reader = Reader(USER, frozenset({USER}))
    assert not reader.may(file)
    entries = [(1, 6, -1), (2, 4, USER), (4, 0, -1), (16, 4, -1), (32, 0, -1)]
    listed = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    os.setxattr(file, "system.posix_acl_access", listed)
    assert file.stat().st_mode & 0o007 == 0 and reader.may(file)

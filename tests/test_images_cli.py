"""The `images` command: what it writes, prints and answers. Its build is in test_build.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import MATRIX_FILE, Project, tree

from images.locking import lock as locks

DOCKERFILE = "images/boats/1.0-cpu/Dockerfile"


def test_check_says_nothing_where_everything_is_up_to_date(boats: Project, tmp_path: Path) -> None:
    before = tree(tmp_path)
    done = boats.images("render", "--check")
    assert (done.code, done.stdout, done.stderr) == (0, "", "")
    assert tree(tmp_path) == before


def test_check_shows_the_difference_and_writes_nothing(boats: Project, tmp_path: Path) -> None:
    rendered = next(line for line in (boats.path / DOCKERFILE).read_text().splitlines() if line.startswith("ENV PATH="))
    boats.edit(DOCKERFILE, rendered, "ENV PATH=/bin")
    before = tree(tmp_path)
    done = boats.images("render", "--check")
    assert (done.code, done.stderr) == (1, "1 rendered file(s) are stale; run: images render\n")
    assert [line for line in done.stdout.splitlines() if line[0] in "+-"] == [
        f"--- {DOCKERFILE} (committed)", f"+++ {DOCKERFILE} (now)", "-ENV PATH=/bin", f"+{rendered}"
    ]  # fmt: skip
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", [DOCKERFILE, "entrypoints/boats.sh"])
def test_render_writes_what_is_stale_or_missing_as_it_was(boats: Project, name: str) -> None:
    before = tree(boats.path)
    (boats.path / name).unlink()
    done = boats.images("render", "--check")
    assert done.code == 1 and f"+++ {name} (now)" in done.stdout
    done = boats.images("render")
    assert (done.code, done.stderr) == (0, f"wrote {name}\n")
    assert tree(boats.path) == before
    assert boats.images("render").stderr == ""


def test_a_changed_template_makes_every_committed_dockerfile_stale(boats: Project) -> None:
    boats.edit("templates/Dockerfile.j2", "do not edit.", "leave it.")
    done = boats.images("render", "--check")
    assert (done.code, done.stdout.count("\n+# Made by `images render` from templates/Dockerfile.j2")) == (1, 3)


def test_lock_writes_what_it_wrote_before_and_names_what_is_open(boats: Project, docker_stand_in: Path) -> None:
    before = tree(boats.path)
    done = boats.images("lock")
    assert (done.code, done.stdout) == (69, "")
    assert done.stderr.splitlines() == [
        "asking for registry.example/org/boats:26.06",
        "versions.lock: 3 entries",
        "still unresolved: registry.example/org/boats:26.06: there is no host registry.example for this machine: "
        "failed to do request: no such host",
        "  check the name, the network and its DNS",
    ]
    assert tree(boats.path) == before
    assert (docker_stand_in / "calls").exists()


def test_lock_writes_the_digest_that_a_registry_gives(boats: Project, docker_stand_in: Path) -> None:
    digest = f"sha256:{'d' * 64}"
    (docker_stand_in / "manifest.json").write_text(json.dumps({"manifest": {"digest": digest, "manifests": []}}))
    assert boats.images("lock", "boats").code == 0
    assert locks.load_lock(boats.root).entries["boats/26.06-cuda"].base.digest == digest
    assert "FROM registry.example/org/boats:26.06@" in boats.images("render", "--check").stdout


@pytest.mark.usefixtures("docker_stand_in")
def test_a_changed_matrix_makes_the_lock_stale_until_it_is_locked_again(boats: Project) -> None:
    boats.edit(MATRIX_FILE, "torch: 2.12.0", "torch: 2.12.1")
    for words in (["render", "--check"], ["build", "boats"], ["run", "boats", "python"]):
        done = boats.images(*words)
        assert (done.code, done.stdout) == (65, "")
        assert done.stderr == f"error: {boats.root.lock}: the lock was made from another matrix\n  run: images lock\n"
    boats.images("lock")
    assert boats.images("render", "--check").code == 1, "the entry's checksum is in the Dockerfile"
    assert boats.images("render").stderr == "wrote images/boats/26.06-cuda/Dockerfile\n"


def test_a_library_that_is_not_in_the_matrix_is_a_wrong_word(boats: Project) -> None:
    done = boats.images("lock", "botas")
    assert (done.code, done.stderr) == (64, "error: unknown library 'botas'\n  did you mean 'boats'?\n")


def test_status_says_which_engine_and_from_where(boats: Project, tmp_path: Path) -> None:
    done = boats.images("engine", "status")
    assert (done.code, done.stdout) == (69, f"unix://{tmp_path}/dead (from DOCKER_HOST) does not answer\n")

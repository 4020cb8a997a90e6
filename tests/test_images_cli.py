"""The `images` command: what it writes, prints and answers. Its build is in test_build.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import MATRIX_FILE, Project, tree

from images import lock as locks

DOCKERFILE = "images/automodel/0.7.0-cpu/Dockerfile"
STALE = """\
--- images/automodel/0.7.0-cpu/Dockerfile (committed)
+++ images/automodel/0.7.0-cpu/Dockerfile (now)
@@ -13,7 +13,7 @@
 
 FROM base
 ARG SOURCE_DATE_EPOCH
-RUN /usr/bin/python3.11 -m venv /opt/venv
+RUN /usr/bin/python3.11 -m venv --without-pip /opt/venv
 
 # torch==2.13.0+cpu
 COPY --chmod=0644 requirements-torch.txt /etc/slipway/
"""


def test_check_says_nothing_where_everything_is_up_to_date(project: Project, tmp_path: Path) -> None:
    before = tree(tmp_path)
    done = project.images("render", "--check")
    assert (done.code, done.stdout, done.stderr) == (0, "", "")
    assert tree(tmp_path) == before


def test_check_shows_the_difference_and_writes_nothing(project: Project, tmp_path: Path) -> None:
    project.edit(DOCKERFILE, "venv --without-pip", "venv")
    before = tree(tmp_path)
    done = project.images("render", "--check")
    assert (done.code, done.stdout) == (1, STALE)
    assert done.stderr == "1 rendered file(s) are stale; run: images render\n"
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", [DOCKERFILE, "entrypoints/automodel.sh"])
def test_render_writes_what_is_stale_or_missing_as_it_was(project: Project, name: str) -> None:
    before = tree(project.path)
    (project.path / name).unlink()
    done = project.images("render", "--check")
    assert done.code == 1 and f"+++ {name} (now)" in done.stdout
    done = project.images("render")
    assert (done.code, done.stderr) == (0, f"wrote {name}\n")
    assert tree(project.path) == before
    assert project.images("render").stderr == ""


def test_a_changed_template_makes_every_committed_dockerfile_stale(project: Project) -> None:
    project.edit("templates/Dockerfile.j2", "do not edit.", "leave it.")
    done = project.images("render", "--check")
    assert done.code == 1
    assert (
        done.stdout.count("+# Made by `images render` from templates/Dockerfile.j2 and versions.lock; leave it.") == 3
    )


def test_lock_writes_what_it_wrote_before_and_names_what_is_open(project: Project, docker_stand_in: Path) -> None:
    before = tree(project.path)
    done = project.images("lock")
    assert (done.code, done.stdout) == (69, "")
    assert done.stderr.splitlines() == [
        "asking nvcr.io for nvcr.io/nvidia/nemo-automodel:26.06",
        "versions.lock: 3 entries",
        "still unresolved: nvcr.io/nvidia/nemo-automodel:26.06: ERROR: failed to do request: no such host",
    ]
    assert tree(project.path) == before
    assert (docker_stand_in / "calls").exists()


def test_lock_writes_the_digest_that_a_registry_gives(project: Project, docker_stand_in: Path) -> None:
    digest = f"sha256:{'d' * 64}"
    (docker_stand_in / "manifest.json").write_text(json.dumps({"digest": digest, "manifests": []}))
    assert project.images("lock", "automodel").code == 0
    assert locks.load_lock(project.root).entries["automodel/26.06-cuda"].base.digest == digest
    assert "FROM nvcr.io/nvidia/nemo-automodel:26.06@" in project.images("render", "--check").stdout


@pytest.mark.usefixtures("docker_stand_in")
def test_a_changed_matrix_makes_the_lock_stale_until_it_is_locked_again(project: Project) -> None:
    project.edit(MATRIX_FILE, "transformers: 5.8.1", "transformers: 5.8.2")
    for words in (["render", "--check"], ["build", "automodel"], ["run", "automodel", "python"]):
        done = project.images(*words)
        assert (done.code, done.stdout) == (65, "")
        assert done.stderr == f"error: {project.root.lock}: the lock was made from another matrix\n  run: images lock\n"
    project.images("lock")
    assert project.images("render", "--check").code == 1, "the entry's checksum is in the Dockerfile"
    assert project.images("render").stderr == "wrote images/automodel/26.06-cuda/Dockerfile\n"


def test_a_library_that_is_not_in_the_matrix_is_a_wrong_word(project: Project) -> None:
    done = project.images("lock", "automodle")
    assert (done.code, done.stderr) == (64, "error: unknown library 'automodle'\n  did you mean 'automodel'?\n")


def test_status_says_which_engine_and_from_where(project: Project, tmp_path: Path) -> None:
    done = project.images("engine", "status")
    assert (done.code, done.stdout) == (69, f"unix://{tmp_path}/dead (from DOCKER_HOST) does not answer\n")

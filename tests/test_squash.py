"""images/squashing/squash.py without an image: names, space, sidecars, and who may import."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import IMAGE, Refused, entry_of, record_image

from images.building import identity
from images.squashing import sidecar, squash
from slipway import canonical
from slipway.errors import Exit, SlipwayError
from slipway.project import Root

GB = 10**9
SIDECAR = sidecar.Sidecar(
    name="automodel/1.0-cpu", entry="e" * 64, ids=[IMAGE], source=f"dockerd://{IMAGE}", platform="linux/amd64",
    sha256="0" * 64, size=5, tool="mksquashfs 4.5.1", made="2026-01-01T00:00:00+00:00",
)  # fmt: skip


@pytest.fixture
def record(tmp_path: Path) -> identity.ImageRecord:
    return record_image(Root(tmp_path), entry_of())


def test_the_name_tells_library_release_flavour_and_digest(record: identity.ImageRecord) -> None:
    assert sidecar.file_name(record) == "automodel-1.0-cpu-111111111111.sqsh"


def test_space_by_the_record_or_by_what_is_usual(record: identity.ImageRecord, tmp_path: Path) -> None:
    layers = [identity.Layer(bytes=7 * GB, made_by="RUN a"), identity.Layer(bytes=3 * GB, made_by="RUN b")]
    known = record_image(Root(tmp_path), entry_of(), layers=layers)
    assert squash.space_needed(known, 2 * GB, enroot=False) == (2 * GB, 12 * GB)
    assert squash.space_needed(known, 8 * GB, enroot=False) == (8 * GB, 24 * GB)
    assert squash.space_needed(known, 2 * GB, enroot=True) == (2 * GB, 10 * GB)
    assert squash.space_needed(record, 2 * GB, enroot=True) == (2 * GB, 8 * GB)


def test_too_little_space_for_both_on_one_file_system(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path)
    have = free.f_bavail * free.f_frsize
    squash.check_space(tmp_path, tmp_path, 1, 1)
    with pytest.raises(SlipwayError, match=r"not enough space: [\d.]+ GB needed, [\d.]+ GB free") as e:
        squash.check_space(tmp_path, tmp_path, have * 2 // 3, have * 2 // 3)
    assert (e.value.code, e.value.where) == (Exit.CANNOT_WRITE, str(tmp_path))
    assert "TMPDIR" in e.value.remedy and "--dir" in e.value.remedy


def test_a_temporary_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SlipwayError) as e:
        squash.check_space(tmp_path, tmp_path / "none", 1, 1)
    assert (e.value.code, e.value.where) == (Exit.CANNOT_WRITE, str(tmp_path / "none"))


def test_a_sidecar_reads_back(tmp_path: Path) -> None:
    file = tmp_path / "a.sqsh"
    sidecar.path_of(file).write_text(canonical.pretty(SIDECAR))
    assert sidecar.read(file) == SIDECAR


@pytest.mark.parametrize("text", [None, "", "[]", "{", '{"schema": 1, "strange": 2}'])
def test_what_is_no_sidecar(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "a.sqsh"
    if text is not None:
        sidecar.path_of(file).write_text(text)
    with pytest.raises(SlipwayError) as e:
        sidecar.read(file)
    assert (e.value.code, e.value.where) == (Exit.DATA, f"{file}.json")


@pytest.mark.parametrize(
    ("image", "code", "words"),
    [
        (f"docker://registry.example/boats@{IMAGE}", 65, "no image record names this digest"),
        ("docker://registry.example/boats:1.0", 64, "not an image of a registry by its digest"),
        (f"docker://registry.example/boats@{IMAGE[:-1]}", 64, "not an image of a registry by its digest"),
        ("automodel/0.7.0-cpu", 69, "no Docker engine answers"),
    ],
)
def test_what_cannot_be_squashed(refused: Refused, image: str, code: int, words: str) -> None:
    assert words in refused(code, "squash", image, program="images")


def test_what_a_killed_importer_has_left_goes(tmp_path: Path) -> None:
    """Other files, and those of other images' importers, stay."""
    target = tmp_path / "a.sqsh"
    names = [".a.sqsh.part", ".a.sqsh.json.x1y2", ".b.sqsh.part", "a.sqsh.json", "b.sqsh"]
    for name in names:
        (tmp_path / name).touch()
    with squash._importer(target, print):
        assert {p.name for p in tmp_path.iterdir()} == {".a.sqsh.lock", *names[2:]}

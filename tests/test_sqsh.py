"""launcher/engines/sqsh.py: a .sqsh counts that is of a recorded image, whole, and in the folder that was named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import IMAGE, entry_of, record_image, squash
from helpers import SQSH_BYTES as SIZE

from images.squashing import sidecar
from launcher.core.plan import ImageInfo
from launcher.engines import sqsh
from slipway.project import Root

ENTRY = entry_of()
OTHER = f"sha256:{'2' * 64}"


def find(root: Root, named: str | None = None, platform: str = "linux/amd64") -> ImageInfo:
    return sqsh.find(root, ENTRY, named, platform)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path / "project")


def test_nothing_was_built(root: Root) -> None:
    found = find(root)
    assert (found.id, found.source, found.recorded) == ("", "", 0)
    assert found.missing == f"there is no automodel-1.0-cpu-*.sqsh of it in {sidecar.folder(root)}"
    assert found.remedy == f"run: {ENTRY.build_command}, then images squash {ENTRY.name}"


def test_an_official_image_needs_no_build_where_no_engine_is(root: Root) -> None:
    cuda = entry_of("cuda")
    remedy = sqsh.find(root, cuda, None, "linux/amd64").remedy
    assert remedy == f"run: images squash {cuda.name}; where a Docker engine is, first: {cuda.build_command}"


def test_it_was_built_but_not_squashed_there(root: Root, tmp_path: Path) -> None:
    squash(sidecar.folder(root), record_image(root, ENTRY))
    found = find(root, str(tmp_path / "shared"))
    assert (found.id, found.recorded) == ("", 1)
    assert found.missing == f"there is no automodel-1.0-cpu-*.sqsh of it in {tmp_path}/shared"
    assert found.remedy == f"run: images squash {ENTRY.name} --dir {tmp_path}/shared"


@pytest.mark.parametrize("named", [False, True])
def test_the_file_is_what_is_started_and_the_images_id_what_it_is(root: Root, tmp_path: Path, named: bool) -> None:
    folder = tmp_path / "shared" if named else sidecar.folder(root)
    file = squash(folder, record_image(root, ENTRY, substitutions={"base": "other"}))
    found = find(root, str(folder) if named else None)
    assert (found.id, found.source, found.missing, found.remedy) == (IMAGE, str(file), "", "")
    assert (found.recorded, found.drift) == (1, {"base": "other"})


def test_the_newest_recorded_image_that_is_there_counts(root: Root) -> None:
    old = record_image(root, ENTRY, built="2026-01-01T00:00:00+00:00")
    new = record_image(root, ENTRY, built="2026-01-02T00:00:00+00:00", ids=[OTHER])
    folder = sidecar.folder(root)
    first = squash(folder, old)
    assert find(root).source == str(first)
    second = squash(folder, new)
    found = find(root)
    assert (found.source, found.id, found.recorded) == (str(second), OTHER, 2)


def test_a_file_that_no_record_names_is_not_taken(root: Root) -> None:
    record = record_image(root, ENTRY)
    file = squash(sidecar.folder(root), record)
    for path in (file, sidecar.path_of(file)):
        path.rename(path.with_name(path.name.replace("1" * 12, "3" * 12)))
    assert find(root).missing


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (
            {"size": SIZE + 1},
            f"is not what its sidecar says: {SIZE + 1} bytes of entry {ENTRY.checksum[:12]}",
        ),
        ({"entry": "f" * 64}, f"is not what its sidecar says: {SIZE} bytes of entry ffffffffffff"),
    ],
)
def test_a_file_that_is_not_what_its_sidecar_says(root: Root, changes: dict[str, Any], what: str) -> None:
    file = squash(sidecar.folder(root), record_image(root, ENTRY), **changes)
    found = find(root)
    assert (found.id, found.missing, found.remedy) == ("", f"{file} {what}", f"run: images squash {ENTRY.name}")


@pytest.mark.parametrize("text", [None, "{"])
def test_a_file_without_a_sidecar(root: Root, text: str | None) -> None:
    """A squash that was killed leaves none; it is never guessed what the file is."""
    file = squash(sidecar.folder(root), record_image(root, ENTRY))
    sidecar.path_of(file).unlink() if text is None else sidecar.path_of(file).write_text(text)
    found = find(root)
    assert not found.id and found.missing.startswith(f"{file}: ") and "images squash" in found.remedy


@pytest.mark.parametrize("newest", ["linux/amd64", "linux/arm64"])
def test_the_file_for_the_nodes_own_processor_is_taken(root: Root, newest: str) -> None:
    """A folder may hold those of both; where none runs there, it is told what the one is that is there."""
    folder, older = sidecar.folder(root), {"linux/amd64": "linux/arm64", "linux/arm64": "linux/amd64"}[newest]
    old = record_image(root, ENTRY, built="2026-01-01T00:00:00+00:00")
    new = record_image(root, ENTRY, built="2026-01-02T00:00:00+00:00", ids=[OTHER])
    first = squash(folder, old, platform=older)
    assert (find(root, platform=newest).source, find(root, platform=newest).platform) == (str(first), older)
    second = squash(folder, new, platform=newest)
    assert find(root, platform=newest).source == str(second)
    assert find(root, platform=older).source == str(first)

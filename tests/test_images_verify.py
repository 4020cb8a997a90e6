"""images/inspection/verify.py: which files it looks into. What it finds in images is in tests/real/test_verify.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import IMAGE, Refused, entry_of
from msgspec.structs import replace

from images.inspection import verify
from images.locking.model import Lock
from images.squashing import sidecar
from slipway import canonical
from slipway.errors import Exit, SlipwayError

ENTRY = entry_of()
LOCK = Lock(schema=1, matrix="", libraries={}, entries={ENTRY.name: ENTRY})
CONTENT = b"hsqs and so on"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """What looks like a .sqsh of ENTRY, with its sidecar."""
    path = tmp_path / "boats.sqsh"
    path.write_bytes(CONTENT)
    write(path)
    return path


def write(file: Path, **changes: object) -> None:
    made = sidecar.Sidecar(
        name=ENTRY.name, entry=ENTRY.checksum, ids=[IMAGE], source=f"dockerd://{IMAGE}", platform="linux/amd64",
        sha256=canonical.sha256(CONTENT), size=len(CONTENT), tool="mksquashfs 4.5.1", made="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    sidecar.path_of(file).write_text(canonical.pretty(replace(made, **changes)))


def refusal(file: Path) -> SlipwayError:
    with pytest.raises(SlipwayError) as e:
        verify.check_file(LOCK, file)
    return e.value


def test_a_file_that_is_its_sidecars(file: Path) -> None:
    assert verify.check_file(LOCK, file) is ENTRY


def test_a_truncated_file(file: Path) -> None:
    file.write_bytes(CONTENT[:-1])
    error = refusal(file)
    assert (error.code, error.where) == (Exit.DATA, str(file))
    assert error.what == f"{len(CONTENT) - 1} bytes, its sidecar says {len(CONTENT)}"


def test_other_bytes(file: Path) -> None:
    file.write_bytes(CONTENT[::-1])
    found, expected = canonical.sha256(CONTENT[::-1]), canonical.sha256(CONTENT)
    error = refusal(file)
    assert (error.code, error.what) == (Exit.DATA, f"its sha256 is {found}, its sidecar says {expected}")


def test_a_changed_sidecar(file: Path) -> None:
    write(file, sha256="0" * 64)
    assert refusal(file).what.endswith(f"its sidecar says {'0' * 64}")


def test_an_entry_that_is_no_more(file: Path) -> None:
    write(file, entry="0" * 64)
    error = refusal(file)
    assert error.code == Exit.DATA and "entry 000000000000, which is not in the lock" in error.what
    assert f"its entry is {ENTRY.checksum[:12]}" in error.remedy
    write(file, name="automodel/1.1-cpu")
    assert "automodel/1.0-cpu" in refusal(file).remedy


def test_no_sidecar_and_no_file(file: Path) -> None:
    sidecar.path_of(file).unlink()
    assert refusal(file).code == Exit.DATA
    file.unlink()
    assert (refusal(file).code, refusal(file).what) == (Exit.NO_INPUT, "there is no such file")


def test_a_missing_file_is_refused_without_an_engine(refused: Refused) -> None:
    assert refused(66, "verify", "none.sqsh", program="images") == "error: none.sqsh: there is no such file\n"


def test_an_image_needs_an_engine(refused: Refused) -> None:
    assert "no Docker engine answers" in refused(69, "verify", "automodel/0.7.0-cpu", program="images")

"""launcher/artifacts/compressed.py: packed files are known by their magic, and give their bytes or an error."""

from __future__ import annotations

import gzip
import random
import subprocess
from pathlib import Path

import pytest

from launcher.artifacts import compressed

LINES = b"Out to sea.\n" * 5


@pytest.mark.parametrize("pack", ["plain", "gzip", "gzip in two parts", "zstd", "zstd in two parts"])
def test_packed_files_are_known_by_their_magic(tmp_path: Path, pack: str) -> None:
    path, (one, two) = tmp_path / "data", (LINES[:50], LINES[50:])
    packers = {"gzip": gzip.compress, "zstd": zstd}
    packer = packers.get(pack.partition(" ")[0], bytes)
    path.write_bytes(packer(one) + packer(two) if "two" in pack else packer(LINES))
    with compressed.opened(path) as f:
        assert f.read() == LINES
    assert compressed.packed(path) == (pack != "plain")


@pytest.mark.parametrize(("name", "what"), [("gzip", "the gzip data is broken: "), ("zstd", "the zstd data is broken")])
@pytest.mark.parametrize("cut", [-5, 40])
def test_packed_data_that_is_cut_off_is_an_error(tmp_path: Path, name: str, what: str, cut: int) -> None:
    data = random.Random(1).randbytes(5000)
    (tmp_path / "data").write_bytes((gzip.compress if name == "gzip" else zstd)(data)[:cut])
    with pytest.raises(OSError, match=what), compressed.opened(tmp_path / "data") as f:
        f.read()


def test_a_reader_may_leave_a_zstd_file_early(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(zstd(bytes(10**8)))
    with compressed.opened(tmp_path / "data") as f:
        assert f.read(10) == bytes(10)


def test_without_a_zstd_program_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").write_bytes(zstd(LINES))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="there is no zstd program to unpack it"), compressed.opened(tmp_path / "data"):
        pass


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-cq"], input=data, capture_output=True, check=True).stdout

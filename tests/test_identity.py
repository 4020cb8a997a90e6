"""images/building/identity.py: image records, and which image of an engine is ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import IMAGE, Engine, entry_of, record_image

from images.building import identity
from images.locking.model import Identity
from images.machine.dockerhost import Address, engine_client
from slipway.errors import Exit, SlipwayError
from slipway.project import Root

OTHER = f"sha256:{'f' * 64}"


def test_a_record_is_kept_under_entry_and_config_digest_and_read_back(tmp_path: Path) -> None:
    root, entry = Root(tmp_path), entry_of()
    record = record_image(root, entry, ids=[IMAGE, OTHER], substitutions={"a": "b"})
    assert [p.relative_to(tmp_path) for p in tmp_path.rglob("*.json")] == [
        Path(".slipway", "images", entry.checksum, f"{'1' * 64}.json")
    ]
    assert identity.records(root, entry) == [record]
    assert identity.records(root, entry_of(release="2.0")) == []


def test_the_newest_comes_first_and_the_locks_own_last(tmp_path: Path) -> None:
    root, entry = Root(tmp_path), entry_of(image=[Identity(ids=[OTHER])])
    for day in (1, 3, 2):
        record_image(root, entry, ids=[f"sha256:{day}"], built=f"2026-01-0{day}")
    assert [r.ids for r in identity.records(root, entry)] == [["sha256:3"], ["sha256:2"], ["sha256:1"], [OTHER]]


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 1}', '{"unknown": 1}'])
def test_a_broken_record_is_named(tmp_path: Path, text: str) -> None:
    root, entry = Root(tmp_path), entry_of()
    path = identity.save(root, record_image(root, entry))
    path.write_text(text)
    with pytest.raises(SlipwayError, match="not an image record") as e:
        identity.records(root, entry)
    assert (e.value.code, e.value.where) == (Exit.DATA, str(path))
    assert e.value.remedy == "delete it and build the image again"


@pytest.mark.parametrize("words", ["No such image: x", "failed to find image x: x: image not known"])
def test_the_first_record_of_which_the_engine_has_any_id(engine: Engine, tmp_path: Path, words: str) -> None:
    """Engines say in words of their own that they have no such image."""
    records = [record_image(Root(tmp_path), entry_of(), ids=ids) for ids in (["sha256:0"], [OTHER, IMAGE])]
    with engine_client(Address(engine.address, "test")) as client:
        engine.holds(missing=words)
        assert identity.present(records, client) is None
        assert identity.tagged("slipway/automodel:1.0-cpu", client) == ""
        engine.holds(missing=words, images={IMAGE: IMAGE, "slipway/automodel:1.0-cpu": IMAGE})
        assert identity.present(records, client) == (records[1], IMAGE)
        assert identity.tagged("slipway/automodel:1.0-cpu", client) == IMAGE


def test_a_record_reads_as_json_with_sorted_keys(tmp_path: Path) -> None:
    path = identity.save(Root(tmp_path), record_image(Root(tmp_path), entry_of()))
    value = json.loads(path.read_text())
    assert list(value) == sorted(value) and value["name"] == "automodel/1.0-cpu"

"""images/inspection/compare.py: which pin moved."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from helpers import REGISTRY, TESTED, entry_of

from images.building import render
from images.inspection import compare
from images.inspection.compare import Difference, Image
from images.locking.model import Base, Entry, Environment, Group, Identity, Lock, LockedLibrary, Repository
from slipway.errors import Exit, SlipwayError

OLD, NEW = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
COMMIT = "c" * 40


def packages(**versions: str) -> dict[str, Environment]:
    return {"main": Environment(python="/opt/venv/bin/python", packages=versions)}


def lock_of(*entries: Entry, **default: str) -> Lock:
    library = LockedLibrary(title="t", homepage="h", default=default)  # type: ignore[arg-type]
    libraries = {e.library: library for e in entries}
    return Lock(schema=1, matrix="m", libraries=libraries, entries={e.name: e for e in entries})


def words(a: compare.Side, b: compare.Side) -> list[str]:
    return [str(d) for d in compare.diff(a, b)]


CPU = entry_of(environments=packages(torch="2.12.0+cpu", numpy="2.0"))
BASE = Base(image="r.example/boats", tag="26.06", digest=OLD)
CUDA = entry_of("cuda", base=BASE)


@pytest.mark.parametrize(
    ("entry", "changes", "said"),
    [
        (CPU, {"environments": packages(torch="2.13.0+cpu", numpy="2.0")},
         ["environment main: torch: 2.12.0+cpu -> 2.13.0+cpu"]),
        (CPU, {"environments": packages(torch="2.12.0+cpu", image="1.0")},
         ["environment main: image: added 1.0", "environment main: numpy: removed 2.0"]),
        (CUDA, {"base": msgspec.structs.replace(BASE, digest=NEW)},
         ["base digest (tag 26.06): 111111111111 -> 222222222222"]),
        (CUDA, {"base": Base(image="r.example/boats", tag="26.08", digest=NEW)},
         ["base digest: 111111111111 -> 222222222222", "base tag: 26.06 -> 26.08"]),
        (CUDA, {"base": Base(image="q.example/boats", tag="26.06", digest=OLD, reported="somebody")},
         ["base image: r.example/boats -> q.example/boats"]),
        (CUDA, {"env": {"image": "1"}, "user": "10:10"}, ["env image: added 1", "user: root -> 10:10"]),
        (CUDA, {"repositories": {"boats": Repository(url="u", tag="v1", path="/opt/b", commit=COMMIT)}},
         ["repository boats: commit: added cccccccccccc", "repository boats: importable: added False",
          "repository boats: path: added /opt/b", "repository boats: tag: added v1", "repository boats: url: added u"]),
        (CUDA, {"notes": ["n"], "sources": ["s"], "tested": [TESTED], "image": [Identity(ids=[NEW])]}, []),
    ],
)  # fmt: skip
def test_an_entry_says_what_moved_in_it(entry: Entry, changes: dict[str, Any], said: list[str]) -> None:
    after = msgspec.structs.replace(entry, **changes)
    assert words(lock_of(entry), lock_of(after)) == [f"{entry.name}: {line}" for line in said]
    assert words(entry, after) == words(lock_of(entry), lock_of(after))


def test_a_groups_wishes_and_its_hashes_count_and_its_file_does_not() -> None:
    group = Group(
        packages=["torch==1", "b"], python="3.11", platform="linux", file="x/requirements.txt", sha256="1" * 64
    )
    after = msgspec.structs.replace(group, no_deps=True, packages=["torch==2", "b"], sha256="2" * 64, file="y")
    assert words(entry_of(groups={"torch": group}), entry_of(groups={"torch": after})) == [
        "automodel/1.0-cpu: group torch: no_deps: False -> True",
        "automodel/1.0-cpu: group torch: packages: torch==1, b -> torch==2, b",
        "automodel/1.0-cpu: group torch: sha256: 111111111111 -> 222222222222",
    ]


def test_locks_have_entries_and_defaults() -> None:
    other = msgspec.structs.replace(CPU, release="2.0")
    assert compare.diff(lock_of(CPU, cpu="1.0"), lock_of(other, cpu="2.0")) == [
        Difference("automodel/1.0-cpu", "", CPU.checksum, None),
        Difference("automodel/2.0-cpu", "", None, other.checksum),
        Difference("automodel", "default cpu", "1.0", "2.0"),
    ]
    added = compare.diff(lock_of(CPU), lock_of(CPU, other))[0]
    assert str(added) == f"automodel/2.0-cpu: added {other.checksum[:12]}"


def test_two_releases_show_what_an_upgrade_changes() -> None:
    after = msgspec.structs.replace(CPU, release="2.0", environments=packages(torch="2.13.0+cpu", numpy="2.0"))
    expected = ["automodel/1.0-cpu -> automodel/2.0-cpu: environment main: torch: 2.12.0+cpu -> 2.13.0+cpu"]
    assert words(CPU, after) == expected


def test_json_has_whole_values() -> None:
    (found,) = compare.diff(CUDA, msgspec.structs.replace(CUDA, base=msgspec.structs.replace(BASE, digest=NEW)))
    assert found.json() == {"entry": CUDA.name, "what": "base digest", "from": OLD, "to": NEW}


def image_of(entry: Entry, **labels: str) -> Image:
    base = {f"{compare.BASE_LABEL}.name": "r.example/boats:26.06", f"{compare.BASE_LABEL}.digest": OLD}
    return compare.image(render.entry_json(entry), (base if entry.base.image else {}) | labels)


@pytest.mark.parametrize("entry", [CPU, CUDA])
def test_an_image_of_an_entry_differs_in_nothing(entry: Entry) -> None:
    assert compare.diff(image_of(entry), entry) == compare.diff(lock_of(entry), image_of(entry)) == []
    assert compare.diff(image_of(entry), image_of(entry)) == []


def test_an_image_is_of_other_pins() -> None:
    after = msgspec.structs.replace(
        CUDA, base=msgspec.structs.replace(BASE, digest=NEW), environments=packages(torch="3.0")
    )
    assert words(image_of(CUDA), lock_of(after)) == [
        "automodel/1.0-cuda: base digest (tag 26.06): 111111111111 -> 222222222222",
        f"automodel/1.0-cuda: entry checksum: {CUDA.checksum[:12]} -> {after.checksum[:12]}",
        "automodel/1.0-cuda: environment main: nemo-automodel: removed 0.7.0",
        "automodel/1.0-cuda: environment main: torch: added 3.0",
    ]


def test_what_stood_in_and_what_was_left_out_is_a_difference() -> None:
    image = image_of(CUDA, **{"slipway.substituted": f"x={NEW}", "slipway.left-out": "boats"})
    assert words(CUDA, image) == [
        "automodel/1.0-cuda: built over: added x=222222222222", "automodel/1.0-cuda: left out: added boats"
    ]  # fmt: skip


def test_an_older_image_is_compared_in_what_it_speaks_of() -> None:
    image = image_of(CUDA)
    del image.said["environments"]
    assert compare.diff(image, CUDA) == []


def test_a_lock_without_that_entry() -> None:
    other = entry_of("cuda", base=REGISTRY, release="9.0")
    with pytest.raises(SlipwayError, match=r"the lock has no entry automodel/9\.0-cuda") as e:
        compare.diff(other, lock_of(CUDA))
    assert (e.value.code, e.value.remedy) == (Exit.WORDS, "did you mean 'automodel/1.0-cuda'?")

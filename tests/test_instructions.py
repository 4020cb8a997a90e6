"""images/building/instructions.py: every official Dockerfile that is rendered can be read, and nothing else."""

from __future__ import annotations

import json

import pytest
from helpers import REPO

from images.building import instructions, render
from images.building.instructions import NOBODY, Copy, Run, Set
from images.locking import lock as locks
from images.locking.model import Entry
from slipway.errors import Exit, SlipwayError
from slipway.project import Root

ROOT = Root(REPO)
LOCK = locks.load_lock(ROOT)
OFFICIAL = [e for e in LOCK.entries.values() if e.base.image]


@pytest.mark.parametrize("entry", OFFICIAL, ids=lambda e: e.name)
def test_what_every_official_image_gets(entry: Entry) -> None:
    found = instructions.read(render.dockerfile(ROOT, LOCK, entry))
    first, last = found[0], found[-1]
    assert first == Set(env={"PATH": render.image_path(entry), "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"})
    assert isinstance(last, Set)
    assert last.labels["slipway.entry"] == entry.checksum
    assert last.labels["org.opencontainers.image.title"] == f"slipway {entry.library}"
    verify = found[-2]
    assert isinstance(verify, Run)
    assert verify.line.split() == [
        *NOBODY.split(), "env", "HOME=/nonexistent", render.main_environment(entry).python, "-B",
        "/run/slipway-verify.py", "image", *(["--any-commit"] if entry.repositories else []),
    ]  # fmt: skip
    assert (verify.network, verify.brought) == (False, {"/run/slipway-verify.py": "verify.py"})
    copies = [c for c in found if isinstance(c, Copy)]
    assert [c.repository for c in copies if c.repository] == sorted(entry.repositories)
    assert {c.file: (c.target, c.mode) for c in copies if c.file} == {
        "path.sh": ("/etc/profile.d/zz-slipway.sh", "0644"),
        "entry.json": ("/etc/slipway/entry.json", "0644"),
    } | ({"repositories.json": ("/etc/slipway/repositories.json", "0644")} if entry.repositories else {})
    programs = [s for r in found if isinstance(r, Run) for s in r.brought.values() if s != "verify.py"]
    assert programs == [f"repair/{r.program}" for r in entry.repair if r.program]


@pytest.mark.parametrize(
    "line",
    [
        "USER nobody",
        "RUN --mount=type=secret,id=pip true",
        "RUN --network=host true",
        "RUN --mount=type=bind,source=a,target=/a --mount=type=bind,source=b,target=/b true",
        "COPY entry.json /etc/",
        "COPY --from=other /tree/ /opt/",
        "COPY --chown=1:1 a /b",
    ],
)
def test_what_no_template_of_ours_writes_is_refused(line: str) -> None:
    with pytest.raises(SlipwayError, match="only a build engine knows this instruction") as e:
        instructions.read(f"FROM a AS base\n\nFROM base\n{line}\n")
    assert e.value.code == Exit.INTERNAL and line in e.value.what


def test_a_line_that_goes_on_is_one_and_earlier_stages_do_not_count() -> None:
    text = 'FROM a\nRUN one\nFROM b\n# why\nRUN a && \\\n    b "c  d"\nENV A=1 \\\n    B=${A}:x\n'
    assert instructions.read(text) == [Run('a &&     b "c  d"'), Set(env={"A": "1", "B": "${A}:x"})]


def test_variables_are_those_that_were_set_before() -> None:
    assert instructions.expanded({"PATH": "/a:${PATH}", "B": json.dumps("${C}")}, {"PATH": "/b"}) == {
        "PATH": "/a:/b",
        "B": '""',
    }

"""images/building/render.py: pure and stable text. What it renders of committed releases is images/<library>/…."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import msgspec
import pytest
from helpers import REGISTRY, REPO, entry_of

from images.building import render
from images.locking import lock as locks
from images.locking.model import Base, Entry, Environment, FromSource, Group, Lock, LockedLibrary, Repair, Repository
from slipway.errors import Exit, SlipwayError
from slipway.project import Root

ROOT = Root(REPO)
CUDA = f"""\
# Made by `images render` from templates/Dockerfile.j2 and versions.lock; do not edit.
# automodel/1.0-cuda, entry @ENTRY@
FROM registry.example/automodel:1.0@sha256:{"2" * 64} AS base

FROM base
ENV PATH=/opt/venv/bin:${{PATH}} \\
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# enroot drops ENV PATH on Debian bases, and login shells set their own: this one comes last in both.
COPY --chmod=0644 path.sh /etc/profile.d/zz-slipway.sh

# What this image is, for the launcher, the entrypoint and whoever asks it; last, since it changes most.
COPY --chmod=0644 entry.json /etc/slipway/entry.json
# As somebody whom the base does not know, without a network: root would see more than those who run steps.
RUN --network=none --mount=type=bind,source=verify.py,target=/run/slipway-verify.py \\
    setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/nonexistent \\
        /opt/venv/bin/python -B /run/slipway-verify.py image
LABEL org.opencontainers.image.title="slipway automodel" \\
      org.opencontainers.image.version="1.0" \\
      org.opencontainers.image.base.name="registry.example/automodel:1.0" \\
      org.opencontainers.image.base.digest="sha256:{"2" * 64}" \\
      org.opencontainers.image.source="https://example.org" \\
      slipway.library="automodel" \\
      slipway.release="1.0" \\
      slipway.flavour="cuda" \\
      slipway.entry="@ENTRY@"
"""


REPAIRED = """\
# Closed to others.
RUN chmod a+x /root
RUN find /opt/boats \\
    \\( -type d ! -perm -555 -exec chmod a+rx {} + \\) -o \\( -type f ! -perm -444 -exec chmod a+r {} + \\)

# Made late.
RUN made() { ls /opt/boats/keel*.so 2>/dev/null; } && \\
    { made || make -C /opt/boats; } && [ -n "$(made)" ] && \\
    for file in $(made); do [ "$file" -nt /opt/boats/keel.cpp ] || touch "$file"; done

# Written late.
RUN --mount=type=bind,source=repair/boats.py,target=/run/slipway-repair.py \\
    /opt/worker/bin/python -B /run/slipway-repair.py

"""


def lock_of(*entries: Entry) -> Lock:
    libraries = {e.library: LockedLibrary(title=e.library, homepage="https://example.org", default={}) for e in entries}
    return Lock(schema=1, matrix="", libraries=libraries, entries={e.name: e for e in entries})


def grouped() -> Entry:
    """A cpu entry with two layers."""
    group = Group(packages=["torch==1+cpu", "b==2"], python="3.12", platform="linux", file="", sha256="")
    main = Environment(python="/opt/env/bin/python", packages={}, groups=["torch", "the-library"])
    return entry_of(environments={"main": main}, groups={"the-library": group, "torch": group})


def test_the_dockerfile_of_an_official_base() -> None:
    entry = entry_of("cuda")
    assert render.dockerfile(ROOT, lock_of(entry), entry) == CUDA.replace("@ENTRY@", entry.checksum)


def test_a_base_is_repaired_before_anything_of_ours_comes_in() -> None:
    worker = Environment(python="/opt/worker/bin/python", packages={}, required=False, imports=["keel"])
    repairs = [
        Repair(why="Closed to others.", passable=["/root"], readable=["/opt/boats"]),
        Repair(why="Made late.", made={"/opt/boats/keel*.so": "keel.cpp"}),
        Repair(why="Written late.", program="boats.py", environment="worker"),
    ]
    environments = entry_of("cuda").environments | {"worker": worker}
    entry = entry_of("cuda", repair=repairs, environments=environments)
    text = render.dockerfile(ROOT, lock_of(entry), entry)
    repaired = text[text.index("# Closed to others.") : text.index("# enroot drops")]
    assert repaired == REPAIRED
    assert json.loads(render.entry_json(entry))["environments"]["worker"] == {
        "python": "/opt/worker/bin/python", "version": "3.12", "packages": {}, "required": False, "imports": ["keel"]
    }  # fmt: skip


def test_an_unresolved_base_says_so_in_its_from_line_and_claims_no_digest() -> None:
    entry = entry_of("cuda", base=Base(image="registry.example/automodel", tag="1.0"))
    text = render.dockerfile(ROOT, lock_of(entry), entry)
    assert "FROM registry.example/automodel:1.0 AS unresolved\n" in text
    assert "FROM unresolved\n" in text
    assert "image.base.digest" not in text


def test_a_bootstrapped_base_installs_its_groups_in_layers_in_order() -> None:
    text = render.dockerfile(ROOT, lock_of(grouped()), grouped())
    layers = [line for line in text.splitlines() if line.startswith("COPY --chmod=0644 requirements-")]
    assert layers == [f"COPY --chmod=0644 requirements-{n}.txt /etc/slipway/" for n in ("torch", "the-library")]
    assert "${INDEX_THE_LIBRARY:+--extra-index-url ${INDEX_THE_LIBRARY}}" in text
    assert "COPY --chmod=0644 cpu/ /opt/env/lib/python3.12/site-packages/\n" in text
    assert "FROM scratch AS base\nADD base.tar /\n" in text
    assert not [line for line in text.splitlines() if line.startswith("# syntax")], "that would ask a registry"


def test_a_group_without_wheels_is_built_in_a_stage_that_the_image_does_not_keep() -> None:
    source = FromSource(tools="tools", debian=["g++"], env={"CXXFLAGS": "-g0"}, expects=["keel/keel"])
    facts = {"python": "3.12", "platform": "linux", "file": "", "sha256": ""}
    keel = Group(packages=["keel==1"], no_deps=True, flags=["--ignore-requires-python"], from_source=source, **facts)
    main = Environment(python="/opt/env/bin/python", packages={}, groups=["keel"])
    groups = {"keel": keel, "tools": Group(packages=["saw==1"], **facts)}
    entry = entry_of(environments={"main": main}, groups=groups)
    text = render.dockerfile(ROOT, lock_of(entry), entry)
    stage, _, image = text.partition("\nFROM base\nARG")
    assert "FROM base AS build-keel\n" in stage and "install --yes --no-install-recommends g++ >/dev/null\n" in stage
    assert "RUN env CXXFLAGS=-g0 \\\n" in stage and "    grep -F keel/keel /build/contents\n" in stage
    assert stage.count("--require-hashes") == 2 and "requirements-tools.txt" in stage
    assert "--mount=type=bind,from=build-keel,source=/build/wheels,target=/mnt/built" in image
    assert "--no-index --find-links /mnt/built" in image and "--ignore-requires-python \\\n        keel==1\n" in image
    assert "requirements-tools" not in image and "g++" not in image


def test_repositories_come_from_contexts_of_their_own_after_what_changes_less() -> None:
    charts = Repository(
        url="https://example.org/charts", tag="v1", path="/opt/charts", importable=True, commit="c" * 40
    )
    entry = entry_of(repositories={"charts": charts}, env={"A": "1", "B": "x y$z"})
    text = render.dockerfile(ROOT, lock_of(entry), entry)
    assert "\nFROM scratch AS source-charts\n" in text
    assert "COPY --from=source-charts /tree/ /opt/charts/\n" in text
    assert "RUN echo /opt/charts >/opt/venv/lib/python3.12/site-packages/slipway-charts.pth\n" in text
    assert (
        text.index("COPY --from=source-charts") < text.index("COPY --chmod=0644 cpu/") < text.index("entry.json /etc")
    )
    assert 'ENV A=1 \\\n    B="x y\\$z"\n' in text
    assert "verify.py image --any-commit\n" in text
    told = json.loads(render.entry_json(entry))
    assert told["repositories"] == {"charts": {"path": "/opt/charts", "commit": "c" * 40}}
    assert told["env"] == {"LANG": "C.UTF-8", "A": "1", "B": "x y$z"}


def test_no_file_of_an_entry_names_this_machine() -> None:
    lock = locks.load_lock(ROOT)
    for entry in lock.entries.values():
        for text in render.files_of(ROOT, lock, entry).values():
            assert str(REPO) not in text and "/home/" not in text


def test_rendering_twice_gives_the_same_and_needs_no_order_in_the_lock() -> None:
    lock = locks.load_lock(ROOT)
    turned = msgspec.structs.replace(lock, entries=dict(reversed(lock.entries.items())))
    for entry in lock.entries.values():
        assert render.files_of(ROOT, lock, entry) == render.files_of(ROOT, turned, entry)
    assert render.committed(ROOT, lock) == render.committed(ROOT, turned)


def test_every_rendered_file_that_is_committed_is_up_to_date() -> None:
    for name, text in render.committed(ROOT, locks.load_lock(ROOT)).items():
        assert (REPO / name).read_text() == text, f"{name}: run images render"


def test_the_two_newest_releases_of_each_flavour_are_committed() -> None:
    entries = [entry_of(f, release=r) for f in ("cpu", "cuda") for r in ("0.9", "0.10", "0.10.1rc1", "0.2")]
    assert [e.name for e in render.newest(lock_of(*entries))] == [
        "automodel/0.10-cpu", "automodel/0.10.1rc1-cpu", "automodel/0.10-cuda", "automodel/0.10.1rc1-cuda",
    ]  # fmt: skip


def test_generated_files_start_with_the_command_that_made_them() -> None:
    for name, text in render.committed(ROOT, locks.load_lock(ROOT)).items():
        assert any("Made by `images render`" in line for line in text.splitlines()[:2]), name


def test_the_entry_file_in_the_image_names_entry_and_packages() -> None:
    entry = entry_of()
    assert json.loads(render.entry_json(entry)) == {
        "library": "automodel", "release": "1.0", "flavour": "cpu", "entry": entry.checksum,
        "environments": {
            "main": {"python": "/opt/venv/bin/python", "version": "3.12", "packages": {"nemo-automodel": "0.7.0"}}
        },
        "repositories": {}, "env": {"LANG": "C.UTF-8"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "after"),
    [
        ("/usr/bin:/bin", "/opt/venv/bin:/usr/bin:/bin"),
        ("/opt/venv/bin:/usr/bin:/bin", "/opt/venv/bin:/usr/bin:/bin"),
        ("/usr/bin:/opt/venv/bin:/bin", "/opt/venv/bin:/usr/bin:/opt/venv/bin:/bin"),
    ],
)
def test_path_sh_puts_the_environment_first_once(tmp_path: Path, path: str, after: str) -> None:
    (tmp_path / "path.sh").write_text(render.path_sh(entry_of()))
    command = ["/bin/sh", "-c", '. "$1"; . "$1"; /usr/bin/env', "sh", str(tmp_path / "path.sh")]
    done = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=True)
    assert f"PATH={after}" in done.stdout.splitlines()


def test_one_entrypoint_needs_one_interpreter() -> None:
    other = entry_of("cuda", environments={"main": Environment(python="/usr/bin/python", packages={})})
    with pytest.raises(SlipwayError, match="several interpreters") as e:
        render.entrypoint(ROOT, lock_of(entry_of(), other), "automodel")
    assert e.value.code == Exit.CONFIG
    assert "PYTHON=/opt/venv/bin/python\n" in render.entrypoint(ROOT, lock_of(entry_of()), "automodel")


def test_what_the_official_image_has_on_path_stays_behind_the_environment() -> None:
    assert render.image_path(entry_of("cuda", base=REGISTRY)) == "/opt/venv/bin:${PATH}"
    assert render.image_path(entry_of()).startswith("/opt/venv/bin:/usr/local/sbin:")

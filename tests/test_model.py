"""images/locking/model.py: what an entry is called, and what its checksum covers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from helpers import BOOTSTRAP, REGISTRY, TESTED, entry_of

from images.locking.model import (
    Base,
    Configurations,
    Entry,
    Environment,
    FromSource,
    Group,
    Identity,
    Repair,
    Repository,
)

REPOSITORY = Repository(url="https://example.org/a", tag="v1", path="/opt/a")
GROUP = Group(packages=["a==1"], python="3.12", platform="linux", file="images/a.txt", sha256="0" * 64)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("image", [Identity(ids=["sha256:1"])]),
        ("tested", [TESTED]),
        ("sources", ["somebody's table"]),
        ("notes", ["a note"]),
        ("known_as", {"boats": "2.0"}),
        ("holds", ["/root/.cache"]),
        ("configurations", Configurations(paths=["/opt/base.yaml"])),
        ("base", msgspec.structs.replace(REGISTRY, reported="somebody says so")),
    ],
)
def test_what_was_seen_and_who_says_so_is_not_in_the_checksum(change: str, value: Any) -> None:
    entry = entry_of("cuda")
    assert msgspec.structs.replace(entry, **{change: value}).checksum == entry.checksum


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("library", "other"),
        ("release", "1.1"),
        ("flavour", "cpu"),
        ("platform", "linux/arm64"),
        ("base", BOOTSTRAP),
        ("base", msgspec.structs.replace(REGISTRY, digest=f"sha256:{'3' * 64}")),
        ("base", msgspec.structs.replace(REGISTRY, platforms={"linux/amd64": "sha256:4"})),
        ("python", "3.13"),
        ("environments", {"main": Environment(python="/opt/venv/bin/python", packages={"nemo-automodel": "0.7.1"})}),
        ("environments", {"main": Environment(python="/usr/bin/python", packages={"nemo-automodel": "0.7.0"})}),
        ("groups", {"a": GROUP}),
        ("groups", {"a": msgspec.structs.replace(GROUP, flags=["--ignore-requires-python"])}),
        ("groups", {"a": msgspec.structs.replace(GROUP, from_source=FromSource(tools="b"))}),
        ("repositories", {"a": REPOSITORY}),
        ("repositories", {"a": msgspec.structs.replace(REPOSITORY, commit="1" * 40)}),
        ("env", {"A": "1"}),
        ("repair", [Repair(why="", passable=["/root"])]),
        ("user", "nobody"),
        ("workdir", "/work"),
        ("driver", "570"),
    ],
)
def test_what_the_image_is_made_from_is_in_the_checksum(change: str, value: Any) -> None:
    entry = entry_of("cuda")
    assert msgspec.structs.replace(entry, **{change: value}).checksum != entry.checksum


def test_every_field_of_an_entry_is_decided_on() -> None:
    """A new field has to be put into one of the two tables above."""
    assert set(Entry.__struct_fields__) == {
        "library", "release", "flavour", "base", "python", "environments", "groups", "repositories", "env", "user",
        "workdir", "driver", "repair", "platform",
        "image", "tested", "sources", "notes", "known_as", "holds", "configurations", "extends",
    }  # fmt: skip


def test_the_reason_of_a_repair_is_not_in_the_checksum() -> None:
    one, other = (entry_of("cuda", repair=[Repair(why=w, passable=["/root"])]) for w in ("a", "b"))
    assert one.checksum == other.checksum


def test_who_says_so_is_not_in_the_checksum_of_a_repository() -> None:
    one, other = (
        entry_of(repositories={"a": msgspec.structs.replace(REPOSITORY, reported=r)}) for r in ("a list", None)
    )
    assert one.checksum == other.checksum


def test_components_are_packages_the_main_environments_first_and_repositories_by_their_tag() -> None:
    environments = {
        "worker": Environment(python="/b", packages={"torch": "1", "ray": "2"}),
        "main": Environment(python="/a", packages={"torch": "3"}),
    }
    entry = entry_of(environments=environments, repositories={"a": REPOSITORY})
    assert entry.components == {"torch": "3", "ray": "2", "a": "1"}


def test_what_a_release_is_known_as_comes_before_what_is_installed() -> None:
    """A container may hold the commit before its own tag, whose package says the version before."""
    main = {"main": Environment(python="/a", packages={"boats": "0.6.0", "torch": "3"})}
    entry = entry_of("cuda", environments=main, known_as={"boats": "0.7.0"})
    assert entry.components == {"boats": "0.7.0", "torch": "3"}


def test_a_pinned_hash_is_in_the_checksum() -> None:
    one, other = (entry_of(groups={"a": msgspec.structs.replace(GROUP, sha256=h * 64)}) for h in "01")
    assert one.checksum != other.checksum


def test_the_checksum_of_a_known_entry_stays_the_same() -> None:
    """It is in labels of images that exist: a change of this value makes every built image another entry's."""
    assert entry_of().checksum == "8fa70031dc1a9e775916f01859073614214a1e01b6857451fe80a785293d74fe"
    assert entry_of("cuda").checksum == "436b4e67e3dbb48427bccde5271ece0d8514547dff3a0e359f35e3e74f8c99ce"


def test_names() -> None:
    assert entry_of(release="0.7.0").name == "automodel/0.7.0-cpu"
    assert REGISTRY.reference == f"registry.example/automodel:1.0@sha256:{'2' * 64}"
    assert Base(image="registry.example/a/b", tag="1").reference == "registry.example/a/b:1"
    assert REGISTRY.registry == "registry.example"
    assert (BOOTSTRAP.reference, BOOTSTRAP.registry) == ("", "")


def test_layers_are_the_groups_as_environments_name_them_each_once() -> None:
    environments = {
        "main": Environment(python="/a", packages={}, groups=["torch", "library"]),
        "worker": Environment(python="/b", packages={}, groups=["torch", "worker"]),
    }
    groups = dict.fromkeys(("worker", "library", "torch"), GROUP)
    assert entry_of(environments=environments, groups=groups).layers == ["torch", "library", "worker"]

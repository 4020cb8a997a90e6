"""images/machine/mirrors.py: the user's config.yaml, and the places that it gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from images.machine import mirrors
from slipway.errors import Exit, SlipwayError
from slipway.project import Root

OWN, HOME = "slipway.d/config.yaml", "home/.config/slipway/config.yaml"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path


def load(here: Path, **files: str) -> mirrors.Mirrors:
    for name, text in files.items():
        path = here / {"own": OWN, "home": HOME}[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return mirrors.load(Root(here))


def test_without_a_file_everything_is_where_it_is(here: Path) -> None:
    assert load(here).of("nvcr.io/nvidia/nemo:1") == "nvcr.io/nvidia/nemo:1"


def test_the_host_is_replaced_and_the_nearest_file_counts(here: Path) -> None:
    home = "schema: 1\nregistries: {nvcr.io: far.example.org, docker.io: hub.example.org:5000/a/b}\n"
    found = load(here, home=home, own="schema: 1\nregistries:\n  nvcr.io: harbor.example.org/nvcr\n")
    digest = f"sha256:{'1' * 64}"
    assert found.of(f"nvcr.io/nvidia/nemo:1@{digest}") == f"harbor.example.org/nvcr/nvidia/nemo:1@{digest}"
    assert found.of("docker.io/library/a") == "hub.example.org:5000/a/b/library/a"
    assert found.of("nvcr.io.example.org/a") == "nvcr.io.example.org/a" and found.of("") == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("schema: 1\nregistry: {}\n", ":2:1: unknown key 'registry'\n  did you mean 'registries'?"),
        ("schema: 1\nregistries:\n  https://nvcr.io: a.org\n", ":3:3: registries: 'https://nvcr.io' is no registry"),
        ("schema: 1\nregistries:\n  nvcr.io/nvidia: a.org\n", ":3:3: registries: 'nvcr.io/nvidia' is no registry"),
        ("schema: 1\nregistries: {nvcr.io: https://a.org}\n", ":2:14: registries: 'https://a.org' is no place"),
        ("schema: 1\nregistries: {nvcr.io: a.org/b:1}\n", "registries: 'a.org/b:1' is no place of images"),
        ("schema: 1\nregistries: {nvcr.io: a.org/}\n", "registries: 'a.org/' is no place of images"),
        ("schema: 1\nregistries: {nvcr.io: 1}\n", "registries.nvcr.io: Expected `str`, got `int`"),
        ("registries: {}\n", "missing required field `schema`"),
    ],
)
def test_what_is_wrong_is_named(here: Path, text: str, said: str) -> None:
    with pytest.raises(SlipwayError) as e:
        load(here, own=text)
    assert e.value.code == Exit.CONFIG and said in str(e.value) and OWN in str(e.value)


def test_a_file_that_others_may_write_is_refused(here: Path) -> None:
    load(here, home="schema: 1\n")
    (here / HOME).chmod(0o666)
    with pytest.raises(SlipwayError, match="everybody may write") as e:
        load(here)
    assert e.value.code == Exit.NOT_PERMITTED

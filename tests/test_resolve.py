"""images/locking/resolve.py with the real uv, without a network: every package is a wheel in a folder here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import REGISTRY, Project, wheel

from images.locking.groups import pins_of, without
from images.locking.model import Base, MatrixGroup
from images.locking.resolve import HEADER, Outside
from slipway.errors import Exit, SlipwayError
from slipway.files import sha256_file

INDEX = f"sha256:{'a' * 64}"


def group(*packages: str, no_deps: bool = False, excludes: tuple[str, ...] = (), python: str = "3.11") -> MatrixGroup:
    return MatrixGroup(
        packages=list(packages), python=python, platform="linux", no_deps=no_deps, excludes=list(excludes)
    )


def quiet(_: str) -> None:
    """A `say` for which nobody listens."""


def test_groups_are_resolved_as_one_set_then_split_in_their_order(wheels: Path) -> None:
    core1 = wheel(wheels, "core", "1.0")
    wheel(wheels, "core", "2.0")
    app = wheel(wheels, "app", "1.0", "core<2", "extra")
    extra = wheel(wheels, "extra", "3.0")
    texts = Outside(quiet).pins({"first": group("core"), "second": group("app")}, "")
    assert texts == {
        "first": f"{HEADER}core==1.0 \\\n    --hash=sha256:{sha256_file(core1)}\n",
        "second": f"{HEADER}app==1.0 \\\n    --hash=sha256:{sha256_file(app)}\n"
        f"extra==3.0 \\\n    --hash=sha256:{sha256_file(extra)}\n",
    }


def test_no_configuration_of_uv_above_the_temporary_folder_counts(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may write in /tmp: what stands there is no word on where packages come from."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "uv.toml").write_text("[pip]\nconstraint-dependencies = [")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    wheel(wheels, "core", "1.0")
    assert "core==1.0" in Outside(quiet).pins({"all": group("core")}, "")["all"]


def test_resolving_again_gives_the_same_text(wheels: Path) -> None:
    wheel(wheels, "core", "1.0")
    wheel(wheels, "app", "1.0", "core")
    groups = {"all": group("app")}
    assert Outside(quiet).pins(groups, "") == Outside(quiet).pins(groups, "")


def test_a_group_without_dependencies_takes_only_what_it_names(wheels: Path) -> None:
    wheel(wheels, "app", "1.0", "missing")
    assert pins_of(Outside(quiet).pins({"all": group("app", no_deps=True)}, "")["all"]) == {"app": "1.0"}


def test_what_is_excluded_need_not_exist(wheels: Path) -> None:
    wheel(wheels, "app", "1.0", "missing")
    assert pins_of(Outside(quiet).pins({"all": group("app", excludes=("missing",))}, "")["all"]) == {"app": "1.0"}


def test_a_local_version_is_taken_from_the_folder_without_another_index(wheels: Path) -> None:
    torch = wheel(wheels, "torch", "2.13.0+cpu")
    text = Outside(quiet).pins({"torch": group("torch==2.13.0+cpu")}, "")["torch"]
    assert text == f"{HEADER}torch==2.13.0+cpu \\\n    --hash=sha256:{sha256_file(torch)}\n"


def test_what_does_not_fit_is_said_in_uvs_words(wheels: Path) -> None:
    wheel(wheels, "core", "1.0")
    wheel(wheels, "app", "1.0", "core>=2")
    with pytest.raises(SlipwayError, match=r"(?s)^cannot resolve app:\n.*No solution.*core>=2") as e:
        Outside(quiet).pins({"all": group("app")}, "")
    assert e.value.code == Exit.DATA


@pytest.mark.usefixtures("wheels")
def test_groups_of_one_environment_have_one_python() -> None:
    with pytest.raises(SlipwayError, match="one python and one platform") as e:
        Outside(quiet).pins({"a": group("x"), "b": group("y", python="3.12")}, "")
    assert e.value.code == Exit.CONFIG


def test_a_requirement_leaves_with_its_hashes() -> None:
    text = "a==1 \\\n    --hash=sha256:0 \\\n    --hash=sha256:1\nB_c==2 \\\n    --hash=sha256:2\nd==3\n"
    assert without(text, {"b-c"}) == "a==1 \\\n    --hash=sha256:0 \\\n    --hash=sha256:1\nd==3\n"
    assert without(text, {"a", "d"}) == "B_c==2 \\\n    --hash=sha256:2\n"
    assert without(text, set()) == text


@pytest.fixture
def docker(project: Project, docker_stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in of the docker command is the only program on PATH; its folder."""
    monkeypatch.setenv("PATH", project.env["PATH"])
    return docker_stand_in


@pytest.mark.usefixtures("wheels")
def test_a_registry_that_answers_gives_the_digests(docker: Path) -> None:
    manifests = [
        {"digest": "sha256:1", "platform": {"os": "linux", "architecture": "amd64"}},
        {"digest": "sha256:2", "platform": {"os": "linux", "architecture": "arm64"}},
        {"digest": "sha256:3", "platform": {"os": "unknown", "architecture": "unknown"}},
    ]
    (docker / "manifest.json").write_text(json.dumps({"manifest": {"digest": INDEX, "manifests": manifests}}))
    outside = Outside(quiet)
    found = outside.base(Base(image=REGISTRY.image, tag="1.0"))
    assert (found.digest, found.platforms) == (INDEX, {"linux/amd64": "sha256:1", "linux/arm64": "sha256:2"})
    assert outside.unresolved == []
    asked = json.loads((docker / "calls").read_text().splitlines()[-1])
    assert asked[:4] == ["buildx", "imagetools", "inspect", "registry.example/automodel:1.0"]


@pytest.mark.usefixtures("wheels", "docker")
def test_a_registry_that_does_not_answer_leaves_the_base_unresolved() -> None:
    outside, base = Outside(quiet), Base(image=REGISTRY.image, tag="1.0")
    assert outside.base(base) == base
    (line,) = outside.unresolved
    assert line.startswith("registry.example/automodel:1.0: there is no host registry.example for this machine")


@pytest.mark.usefixtures("wheels")
def test_no_docker_command_leaves_the_base_unresolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    outside, base = Outside(quiet), Base(image=REGISTRY.image, tag="1.0")
    assert outside.base(base) == base
    assert len(outside.unresolved) == 1

"""launcher/profiles.py: finding a profile and reading it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from helpers import PROFILE_FILE, Project

from launcher import profiles
from slipway.errors import Exit, SlipwayError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8g", 8 * 1024**3),
        ("512m", 512 * 1024**2),
        ("64K", 65536),
        ("1tb", 1024**4),
        ("100", 100),
        ("100b", 100),
        ("80GiB", 80 * 1024**3),
    ],
)
def test_sizes_are_written_as_docker_writes_them(text: str, size: int) -> None:
    assert profiles.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "lots", "8 g", "-1g", "1.5g", "g", "8gg"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size; expected such as 8g or 512m"):
        profiles.parse_size(text)


def test_the_docker_profile_is_whole_and_knows_its_name(project: Project) -> None:
    found = profiles.find_profile(project.root, "docker")
    assert (found.name, found.kind, found.file) == ("docker", "docker", str(project.path / PROFILE_FILE))
    assert found.shm_bytes == profiles.parse_size(found.shm_size)


def test_a_users_own_profile_wins(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    places = [project.path / "launcher", tmp_path / "config" / "slipway", tmp_path / "slipway.d"]
    for place in places:
        (place / "profiles").mkdir(parents=True, exist_ok=True)
        (place / "profiles" / "docker.yaml").write_text("schema: 1\nkind: docker\n")
        assert profiles.find_profile(project.root, "docker").file == str(place / "profiles" / "docker.yaml")
    (tmp_path / "slipway.d" / "profiles" / "mine.yaml").write_text("schema: 1\nkind: docker\nflavour: cpu\n")
    assert profiles.find_profile(project.root, "mine").flavour == "cpu"


def test_an_unknown_profile_is_a_wrong_word(project: Project) -> None:
    with pytest.raises(SlipwayError, match="unknown profile 'dokcer'") as e:
        profiles.find_profile(project.root, "dokcer")
    assert (e.value.code, e.value.remedy) == (Exit.WORDS, "did you mean 'docker'?")


@pytest.mark.parametrize(
    ("line", "where", "what", "remedy"),
    [
        ("flavor: cpu", "3:1", "unknown key 'flavor'", "did you mean 'flavour'?"),
        ("flavour: gpu", "3:1", "flavour: 'gpu' is not allowed", "did you mean 'cpu'?"),
        ("shm_size: lots", "3:1", "shm_size: 'lots' is no size; expected such as 8g or 512m", ""),
        ("shm_size: 8", "3:1", "shm_size: Expected `str`, got `int`", "write it in quotes"),
        ("gpu: {model: H100, memory: much}", "3:20", "gpu.memory: 'much' is no size; expected such as 8g or 512m", ""),
        ("gpu: {model: H10}", "3:7", "gpu.model: 'H10' is not allowed", "did you mean 'H100'?"),
        ("ulimits: {memlok: -1}", "3:11", "ulimits.memlok: 'memlok' is not allowed", "did you mean 'memlock'?"),
        ("ulimits: {memlock: unlimited}", "3:11", "ulimits.memlock: Expected `int`, got `str`", ""),
        ("mounts: [{source: /a, readonyl: true}]", "3:23", "unknown key 'readonyl'", "did you mean 'readonly'?"),
        ("mounts: [{source: data, target: /data}]", "3:1", "mounts: source 'data' is no absolute path", ""),
        ("mounts: [{source: /data, target: data}]", "3:1", "mounts: target 'data' is no absolute path", ""),
        (
            "mounts: [{source: /data, target: /inputs/mine}]",
            "3:1", "mounts: target '/inputs/mine': /inputs is the launcher's own", "",
        ),
        ("env: {A: 1}", "3:7", "env.A: Expected `str`, got `int`", "write it in quotes"),
        ("name: mine", "3:1", "unknown key 'name'", ""),
        ("file: mine", "3:1", "unknown key 'file'", ""),
        ("kind: docker", "3:1", "not valid YAML: the key 'kind' stands twice", ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(project: Project, line: str, where: str, what: str, remedy: str) -> None:
    path = project.write(PROFILE_FILE, f"schema: 1\nkind: docker\n{line}\n")
    with pytest.raises(SlipwayError) as e:
        profiles.find_profile(project.root, "docker")
    assert (e.value.code, e.value.where) == (Exit.CONFIG, f"{path}:{where}")
    assert (e.value.what, e.value.remedy) == (what, remedy)


def test_a_profile_is_written_to_a_plan_and_read_from_it(project: Project) -> None:
    found = profiles.find_profile(project.root, "docker")
    assert msgspec.json.decode(msgspec.json.encode(found), type=profiles.Profile) == found

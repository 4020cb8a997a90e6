"""images/locking/extras.py and own.py through `images build --with`, with the real uv and no network; and a launch.

The engine and the docker command are stand-ins.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from helpers import IMAGE, MATRIX_FILE, Engine, Inputs, Known, Project, record_image, tree, wheel

from images.building import identity
from images.locking import extras
from images.locking import lock as locks
from images.locking.model import Entry

BUILD = ("build", "boats", "--flavour", "cpu")
NAME = "boats/1.0+nets-cpu"
OWN = ".slipway/versions.lock"


@pytest.fixture
def quay(harbour: Project, docker_stand_in: Path, engine: Engine, bootstrapped: Path, wheels: Path) -> Project:
    """A project that can be built: `nets` asks for `rope`, which the entry has, and for `knots`; `sails` for its oars'
    elder."""
    assert bootstrapped.is_file()
    facts = {"containerimage.config.digest": IMAGE}
    (docker_stand_in / "metadata.json").write_text(json.dumps(facts))
    engine.holds(images={IMAGE: IMAGE} | {f"slipway/boats:1.0-with-{name}-cpu": IMAGE for name in ("nets", "gear")})
    for name, *requires in (("nets", "rope", "knots"), ("knots",), ("sails", "oars<13")):
        wheel(wheels, name, "1.0", *requires)
    return harbour


def entry(project: Project, name: str = NAME) -> Entry:
    return locks.load_lock(project.root).entries[name]


def project_files(project: Project) -> dict[str, tuple[int, bytes]]:
    return {name: what for name, what in tree(project.path).items() if not name.startswith(".slipway")}


def test_packages_are_one_more_layer_of_an_entry_of_ones_own(quay: Project, docker_stand_in: Path) -> None:
    before = project_files(quay)
    done = quay.images(*BUILD, "--with", "nets==1.0")
    assert (done.code, done.stdout) == (0, f"{IMAGE}\n"), done
    assert project_files(quay) == before
    dockerfile = (docker_stand_in / "context" / "Dockerfile").read_text()
    installed = [line.strip() for line in dockerfile.splitlines() if "--requirement" in line]
    assert installed == [f"--requirement /etc/slipway/requirements-{g}.txt" for g in ("torch", "boats", "added")]
    added = (docker_stand_in / "context" / "requirements-added.txt").read_text()
    assert [line.split()[0] for line in added.splitlines() if "==" in line] == ["knots==1.0", "nets==1.0"]
    assert added.count("--hash=sha256:") == 2

    said = json.loads((docker_stand_in / "context" / "entry.json").read_text())
    packages = {"torch": "2.13.0+cpu", "boats": "1.0", "oars": "13.0", "rope": "1.0", "knots": "1.0", "nets": "1.0"}
    assert (said["release"], said["environments"]["main"]["packages"]) == ("1.0+nets", packages)
    base, own = entry(quay, "boats/1.0-cpu"), entry(quay)
    assert said["entry"] == own.checksum != base.checksum
    (record,) = identity.records(quay.root, own)
    assert (record.name, record.entry, record.tag) == (NAME, own.checksum, "slipway/boats:1.0-with-nets-cpu")
    assert identity.records(quay.root, base) == []
    assert quay.images("render", "--check").code == 0, "only the project's own entries are committed"


def test_what_was_added_is_neither_asked_nor_built_again(quay: Project, wheels: Path) -> None:
    assert quay.images(*BUILD, "--with", "nets==1.0").code == 0
    shutil.rmtree(wheels)
    for words in (("--with", "nets==1.0"), ("--release", "1.0+nets")):
        done = quay.images(*BUILD, *words)
        assert (done.code, done.stderr) == (0, f"slipway/boats:1.0-with-nets-cpu: unchanged ({IMAGE})\n")


@pytest.mark.parametrize(
    ("package", "both"),
    [("sails==1.0", ["sails==1.0 depends on oars<13", "oars==13.0"]), ("oars==12.0", ["oars==12.0", "oars==13.0"])],
)
def test_a_package_that_would_change_a_pin_is_refused(
    quay: Project, wheels: Path, package: str, both: list[str]
) -> None:
    wheel(wheels, "oars", "12.0")
    before = tree(quay.path)
    done = quay.images(*BUILD, "--with", package)
    assert done.code == 65
    assert f"error: --with {package}: cannot be added to boats/1.0-cpu, of which no pin may change:\n" in done.stderr
    said = done.stderr.replace("all versions of sails depend", "sails==1.0 depends")
    assert all(pin in said for pin in both), done.stderr
    assert tree(quay.path) == before


def test_what_derives_from_an_entry_that_has_moved_is_refused_until_it_is_made_again(
    quay: Project, docker_stand_in: Path, wheels: Path
) -> None:
    assert quay.images(*BUILD, "--with", "nets==1.0").code == 0
    before = entry(quay)
    wheel(wheels, "oars", "14.0")
    wheel(wheels, "knots", "2.0")
    quay.edit(MATRIX_FILE, "oars==13.0", "oars==14.0")
    assert quay.images("lock").code == 0
    assert entry(quay) == before, "the project's lock does not move it"
    now = entry(quay, "boats/1.0-cpu").checksum
    assert before.extends
    done = quay.images(*BUILD, "--release", "1.0+nets")
    assert (done.code, done.stderr) == (
        65,
        f"error: {NAME}: derives from boats/1.0-cpu as it was (entry {before.extends.entry[:12]}): its entry is "
        f"{now[:12]} now\n  add the packages again: images build boats --release 1.0 --flavour cpu --with nets==1.0\n",
    )
    shutil.rmtree(docker_stand_in / "context")
    assert quay.images(*BUILD, "--release", "1.0", "--with", "nets==1.0").code == 0
    packages = entry(quay).environments["main"].packages
    assert (packages["oars"], packages["knots"]) == ("14.0", "1.0"), "what was added before stays where it fits"


GEAR = "schema: 1\nextras:\n  boats:\n    gear: [nets==1.0, knots<2]\n"


@pytest.mark.parametrize("file", ["slipway.d/matrix.yaml", "../home/.config/slipway/matrix.yaml"])
def test_a_matrix_of_ones_own_gives_names_to_packages(quay: Project, file: str) -> None:
    quay.write(file, GEAR)
    done = quay.images(*BUILD, "--with", "gear")
    assert done.code == 0, done
    own = entry(quay, "boats/1.0+gear-cpu")
    assert own.groups["added"].packages == ["knots==1.0", "nets==1.0"]
    assert own.extends and (own.extends.words, own.extends.packages) == (["gear"], ["knots<2", "nets==1.0"])
    assert own.build_command == "images build boats --release 1.0 --flavour cpu --with gear"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("extras:", "extra:", ":2:1: unknown key 'extra'\n  did you mean 'extras'?"),
        ("boats:", "botas:", ":3:3: extras.botas: unknown library 'botas'\n  did you mean 'boats'?"),
        ("gear:", "Gear!:", ":4:5: extras.boats.Gear!: expected small letters"),
        ("knots<2", "knots", ":4:23: extras.boats.gear.1: 'knots' says no version"),
        ("[nets==1.0, knots<2]", "[]", ":4:5: extras.boats.gear: has no package"),
    ],
)
def test_a_wrong_matrix_of_ones_own_is_refused(quay: Project, before: str, after: str, said: str) -> None:
    file = quay.write("slipway.d/matrix.yaml", GEAR.replace(before, after))
    done = quay.images(*BUILD, "--with", "gear")
    assert done.code == 78 and f"error: {file}{said}" in done.stderr, done
    assert not (quay.path / OWN).exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--with", "nets"), "--with nets: 'nets' says no version, and is no name of `extras:` of boats"),
        (("--with", "geer"), "of yours\n  did you mean 'gear'?"),
        (("--with", "nets=1.0"), "--with nets=1.0: 'nets=1.0' is no package, and is no name"),
        (("--with", "nets@https://example.org/nets.whl"), "nets is named by a URL"),
        (("--with", "rope==1.0"), "--with rope==1.0: boats/1.0-cpu has it already"),
        (("--with", f"{'n' * 65}==1.0"), "give these packages one name: `extras:` of boats in slipway.d/matrix.yaml"),
        (("--flavour", "cuda", "--with", "nets==1.0"), "boats/26.08-cuda is an official container, of which nobody"),
        (("--release", "1.0+nets",  "--with", "nets==1.0"), "boats has no release '1.0+nets' for flavour cpu"),
    ],
)  # fmt: skip
def test_what_cannot_be_added_is_a_wrong_word(quay: Project, words: tuple[str, ...], said: str) -> None:
    quay.write("slipway.d/matrix.yaml", GEAR)
    before = tree(quay.path)
    done = quay.images(*BUILD, *words)
    assert done.code == 64 and said in done.stderr, done
    assert tree(quay.path) == before


def test_a_lock_of_ones_own_that_was_edited_is_refused(quay: Project) -> None:
    assert quay.images(*BUILD, "--with", "nets==1.0").code == 0
    path = quay.edit(OWN, "knots: '1.0'", "knots: '2.0'")
    done = quay.images("verify", NAME)
    assert done.code == 65 and f"error: {path}: its contents are not those that it was written with" in done.stderr
    path.unlink()
    assert quay.images(*BUILD, "--with", "nets==1.0").code == 0


def test_a_changed_file_of_requirements_is_named_with_what_makes_it_anew(quay: Project) -> None:
    assert quay.images(*BUILD, "--with", "nets==1.0").code == 0
    file = entry(quay).groups["added"].file
    quay.edit(file, "knots==1.0", "knots==2.0")
    done = quay.images(*BUILD, "--release", "1.0+nets")
    again = entry(quay).build_command
    assert (done.code, done.stderr) == (
        65, f"error: {quay.path / file}: not the file that the lock names\n  run: {again}\n"
    )  # fmt: skip
    assert quay.images(*again.split()[1:]).code == 0


@pytest.mark.parametrize("file", [OWN, "slipway.d/matrix.yaml", f".slipway/own/{NAME}/requirements-added.txt"])
def test_what_others_may_write_adds_nothing(quay: Project, file: str) -> None:
    quay.write("slipway.d/matrix.yaml", GEAR)
    assert quay.images(*BUILD, "--with", "nets==1.0").code == 0
    (quay.path / file).chmod(0o666)
    done = quay.images(*BUILD, "--with", "nets==1.0")
    assert done.code == 77 and f"error: {quay.path / file}: " in done.stderr, done


def test_what_has_no_wheel_is_built_in_a_stage_of_its_own(quay: Project, docker_stand_in: Path, wheels: Path) -> None:
    for name in ("setuptools", "wheel"):
        wheel(wheels, name, "1.0")
    (wheels / "nets-1.0-py3-none-any.whl").unlink()
    metadata = b"Metadata-Version: 2.2\nName: nets\nVersion: 1.0\n"
    with tarfile.open(wheels / "nets-1.0.tar.gz", "w:gz") as archive:
        for file, text in (
            ("PKG-INFO", metadata),
            ("pyproject.toml", b"[project]\nname = 'nets'\nversion = '1.0'\ndependencies = ['knots']\n"),
        ):
            member = tarfile.TarInfo(f"nets-1.0/{file}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    done = quay.images(*BUILD, "--with", "nets==1.0")
    assert done.code == 0 and "there is no wheel of nets: built from source" in done.stderr, done
    dockerfile = (docker_stand_in / "context" / "Dockerfile").read_text()
    assert "FROM base AS build-added-source\n" in dockerfile
    assert "        nets==1.0\n" in dockerfile and "requirements-added-tools.txt" in dockerfile
    packages = entry(quay).environments["main"].packages
    assert (packages["nets"], packages["knots"], "setuptools" in packages) == ("1.0", "1.0", False)


def test_images_diff_tells_what_was_added(quay: Project) -> None:
    assert quay.images(*BUILD, "--with", "nets==1.0").code == 0
    done = quay.images("diff", "boats/1.0-cpu", NAME)
    assert done.code == 1 and "environment main: nets: added 1.0" in done.stdout, done


def test_it_is_launched_as_any_other_release(project: Project, inputs: Inputs, engine: Engine) -> None:
    lock = locks.tracked(project.root)
    base = locks.select(lock, "automodel", "cpu")
    wish = extras.wished(project.root, lock, "automodel", ("rouge-score==1.0",))
    lock, release = extras.derive(project.root, lock, base, wish, Known())
    own = locks.select(lock, "automodel", "cpu", release)
    words = ("sft/automodel", "--flavour", "cpu", "--release", release, *inputs.words)
    done = project.launch(*words, "--dry-run")
    assert done.code != 0 and f"run: {own.build_command}\n" in done.stderr, done
    record_image(project.root, own)
    engine.holds(images={IMAGE: IMAGE})
    done = project.launch(*words, "--dry-run", "--json")
    assert done.code == 0 and json.loads(done.stdout)["Image"] == IMAGE, done
    assert release == f"{base.release}+rouge-score"
    assert release in project.launch("steps", "sft/automodel").stdout
    without = project.launch("sft/automodel", "--flavour", "cpu", *inputs.words, "--dry-run")
    assert without.code != 0, "the default stays the project's own"


def test_one_of_another_processor_is_added_to_that_ones_packages(quay: Project) -> None:
    other = "platforms: {linux/arm64: {boats: [boats==1.0]}}\n        environments"
    quay.edit(MATRIX_FILE, "environments", other)
    for _ in range(2):
        quay.edit(MATRIX_FILE, "platform: linux}", "platform: x86_64-manylinux_2_36}")
    assert quay.images("lock").code == 0
    quay.images(*BUILD, "--with", "nets==1.0", "--platform", "linux/arm64")
    usual, own = entry(quay), entry(quay, f"{NAME}-arm64")
    assert ("oars" in usual.components, "oars" in own.components) == (True, False)
    assert own.groups["added"].file == ".slipway/own/boats/1.0+nets-cpu-arm64/requirements-added.txt"
    assert locks.load_lock(quay.root).on("linux/arm64", usual) == own

"""An image that is not what the lock says is refused twice: by the launch, and by the entrypoint inside it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from images.locking.model import Entry

from .conftest import Variant, Work, toy
from .support import Planned, Tree

pytestmark = pytest.mark.real
PACKAGE = "xxhash"


@pytest.fixture(scope="module")
def recorded(project: Tree, ground: Path) -> str:
    """The id by which a launch names the cpu image."""
    planned = project.launch(*toy(ground / "mismatch"), "-o", str(ground / "mismatch-plan"))
    assert planned.code == 0, planned
    return str(Planned(ground / "mismatch-plan").request["Image"])


@pytest.fixture(scope="module")
def other_entry(variant: Variant, recorded: str) -> str:
    """The cpu image as if it were built from another lock entry."""
    return variant(recorded, 'sed -i -E \'s/"entry": "[0-9a-f]{12}/"entry": "0123456789ab/\' /etc/slipway/entry.json')


@pytest.fixture(scope="module")
def other_package(variant: Variant, recorded: str) -> str:
    """The cpu image in which somebody has installed another version of a package."""
    return variant(
        recorded, f"cd /opt/venv/lib/python3*/site-packages && mv {PACKAGE}-*.dist-info {PACKAGE}-0.0.1.dist-info"
    )


@pytest.fixture
def moved_tag(docker: Any, entry: Entry, recorded: str, other_package: str) -> Iterator[str]:
    """The cpu image's tag, moved to another image for this test."""
    tag, (keep, name) = entry.tag, ("slipway-test/keep", "1")
    docker.images.get(recorded).tag(keep, name)  # an image with no tag at all may be pruned
    docker.images.get(other_package).tag(*tag.split(":"))
    yield tag
    docker.images.get(recorded).tag(*tag.split(":"))
    docker.images.remove(f"{keep}:{name}")


def nothing_is_made(tree: Tree, output: Path, runs: list[Any]) -> None:
    assert tree.all_runs() == runs and not output.exists()


def test_a_moved_tag_changes_nothing(tree: Tree, place: Path, recorded: str, moved_tag: str) -> None:
    """Images run by id."""
    assert tree.docker.images.get(moved_tag).id != recorded
    done = tree.launch(*toy(place / "output"))
    assert done.code == 0, done
    assert tree.run_of(done).record["request"]["Image"] == recorded


@pytest.mark.usefixtures("moved_tag")
def test_an_image_without_a_record(copy: Tree, place: Path, other_package: str) -> None:
    shutil.rmtree(copy.path / ".slipway" / "images")
    output, runs = place / "output", copy.all_runs()
    done = copy.launch(*toy(output))
    assert done.code == 65
    assert f"is {copy.docker.images.get(other_package).id}, which no record of this lock entry names" in done.err
    assert "images build automodel --release 0.7.0 --flavour cpu" in done.err
    nothing_is_made(copy, output, runs)


@pytest.fixture
def never_built(docker: Any) -> Iterator[None]:
    """No image of AutoModel's cuda entry for this test, whatever another one has built."""
    tag, (keep, name) = "slipway/automodel:26.06-cuda", ("slipway-test/keep", "2")
    there = docker.images.list(name=tag)
    for image in there:
        image.tag(keep, name)
        docker.images.remove(tag)
    yield
    for image in there:
        image.tag(*tag.split(":"))
        docker.images.remove(f"{keep}:{name}")


@pytest.mark.usefixtures("never_built")
def test_an_image_that_was_never_built(tree: Tree, work: Work, place: Path) -> None:
    output, runs = place / "output", tree.all_runs()
    words = [word for word in work.words(output, "--gpus", "0", "--release", "26.06") if word != "cpu"]
    words.insert(words.index("--flavour") + 1, "cuda")
    done = tree.launch(*words)
    assert done.code == 66, done
    assert "images build automodel --release 26.06 --flavour cuda" in done.err
    nothing_is_made(tree, output, runs)


@pytest.mark.parametrize("accept", [False, True], ids=["refused", "allow-drift"])
@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("other_entry", "this image was built from the entry 0123456789ab (automodel 0.7.0 cpu), expected "),
        ("other_package", f"environment main: {PACKAGE}: found 0.0.1, expected "),
    ],
)
def test_the_planned_request_with_another_image(
    tree: Tree, place: Path, request: pytest.FixtureRequest, image: str, says: str, accept: bool
) -> None:
    folder, output = place / "run", place / "output"
    drift = ["--allow-drift"] if accept else []
    assert tree.launch(*toy(output), *drift, "-o", str(folder)).code == 0
    planned = Planned(folder)
    done = planned.run(tree.docker, Image=request.getfixturevalue(image))
    if accept:
        assert done.code == 0 and "line 3\n" in done.out, done.out
        assert "slipway: drift: " in done.out and says in done.out
    else:
        assert done.code == 78, done.out
        assert "slipway: refused: " in done.out and says in done.out
        assert list(output.iterdir()) == [], "the step has not started"
        assert planned.status["cause"] == "entrypoint" and says in planned.status["reason"]


def test_the_planned_request_with_its_own_image(tree: Tree, place: Path) -> None:
    assert tree.launch(*toy(place / "output"), "-o", str(place / "run")).code == 0
    done = Planned(place / "run").run(tree.docker)
    assert done.code == 0 and "refused" not in done.out and "drift" not in done.out

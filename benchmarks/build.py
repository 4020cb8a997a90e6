"""How long the builds of cpu images take: from nothing, with nothing changed, with one pin changed; and their sizes.

    python benchmarks/build.py automodel=pillow==13.0.0:pillow==12.3.0

Each word is LIBRARY=BEFORE:AFTER, the requirement in images/matrix.yaml that the third build has in another version.
All of it happens in a copy of the project in a temporary folder, with the base that the project has already made; the
images are removed at the end, and the library's tag is put back. The second build is repeated: the best counts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from images.building import identity
from images.building.identity import ImageRecord
from images.inspection import compare
from images.locking import lock as locks
from images.locking import resolve
from images.locking.model import Entry, Lock
from images.machine import dockerhost
from slipway import yamldoc
from slipway.console import say
from slipway.files import write_atomic
from slipway.project import Root

REPO = Root(Path(__file__).parents[1])
NEEDED = ("versions.lock", "images", "templates", "entrypoints")
NOBODY = ("",)  # whose open digests are asked for


def copy_to(folder: Path) -> Root:
    for name in NEEDED:
        if (REPO.path / name).is_dir():
            shutil.copytree(REPO.path / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPO.path / name, folder)
    shutil.copytree(REPO.state / "base", folder / ".slipway" / "base")
    return Root(folder)


def build(root: Root, library: str, *words: str) -> float:
    """Seconds of one `images build`."""
    images = str(Path(sysconfig.get_path("scripts"), "images"))
    started = time.perf_counter()
    subprocess.run(
        [images, "build", library, "--flavour", "cpu", *words], cwd=root.path, stdout=subprocess.DEVNULL, check=True
    )
    return time.perf_counter() - started


def entry_of(root: Root, library: str) -> Entry:
    return locks.select(locks.load_lock(root), library, "cpu")


def newest(root: Root, library: str) -> ImageRecord:
    return identity.records(root, entry_of(root, library))[0]


def change(root: Root, before: str, after: str) -> None:
    """Another version of one requirement, locked; says what moved."""
    text = root.matrix.read_text()
    if before not in text:
        sys.exit(f"{root.matrix} has no {before}")
    old = yamldoc.load(root.lock, Lock)
    root.matrix.write_text(text.replace(before, after))
    new, files = locks.build_lock(root, locks.load_matrix(root), old, resolve.Outside(say), ask=NOBODY)
    for path, requirements in files.items():
        write_atomic(path, requirements)
    write_atomic(root.lock, locks.lock_text(new))
    for difference in compare.diff(old, new):
        say(f"  {difference}")


def measure(root: Root, library: str, pins: tuple[str, str]) -> str:
    """One row of the table."""
    cold = build(root, library, "--no-cache")
    warm = min(build(root, library) for _ in range(3))
    size = sum(layer.bytes for layer in newest(root, library).layers)
    change(root, *pins)
    changed = build(root, library)
    moved = f"{pins[0]} -> {pins[1]}"
    return f"| {library} | {cold:.0f} s | {warm:.2f} s | {changed:.0f} s ({moved}) | {size / 1e9:.2f} GB |"


@contextmanager
def names_kept(root: Root, tag: str, client: Any) -> Iterator[None]:
    """Takes away the names of what `root` has built, and gives `tag` back to the image that had it."""
    had, names = identity.tagged(tag, client), {name for image in client.images.list() for name in image.tags}
    try:
        yield
    finally:
        for path in (root.state / "images").glob("*/*.json"):
            if (name := f"{tag}-{path.stem[:12]}") not in names and identity.tagged(name, client):
                client.images.remove(name)
        if had:
            client.images.get(had).tag(tag)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="+", metavar="LIBRARY=BEFORE:AFTER")
    address = dockerhost.find(REPO)
    os.environ["DOCKER_HOST"] = address.url
    rows = []
    with dockerhost.engine_client(address) as client:
        for word in parser.parse_args().words:
            library, _, pins = word.partition("=")
            before, _, after = pins.partition(":")
            with tempfile.TemporaryDirectory(prefix="slipway-bench-") as folder:
                root = copy_to(Path(folder))
                with names_kept(root, entry_of(root, library).tag, client):
                    rows.append(measure(root, library, (before, after)))
    print(
        "| library | from nothing | nothing changed | one pin changed | size |\n|---|---|---|---|---|", *rows, sep="\n"
    )


if __name__ == "__main__":
    main()

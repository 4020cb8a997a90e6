"""What `images diff` compares: a word of the command line is a lock, one of its entries, or a built image."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from images.inspection import compare
from images.inspection.compare import SAID, Image, Side
from images.locking import own
from images.locking.model import Lock
from images.machine import dockerhost
from slipway import yamldoc
from slipway.errors import Exit, SlipwayError, nearest
from slipway.project import Root


def find(root: Root, word: str) -> Side:
    """A lock file, an entry of the project's lock, the lock at a git revision or an image on the engine, in that order.

    Raises SlipwayError 64 where `word` is none of them, 65 for an image that says nothing of itself.
    """
    if Path(word).is_file():
        return yamldoc.load(Path(word), Lock)
    lock = yamldoc.load(root.lock, Lock)
    entries = lock.entries | own.load(root)
    if word in entries:
        return entries[word]
    text = _at_revision(root, word)
    if text is not None:
        return yamldoc.convert(text, Lock, f"{word}:{root.lock.name}")
    image, engine = _image(root, word)
    if image:
        return image
    what = f"{word!r} is no lock file, no entry of the lock, no git revision with a lock and no image on {engine}"
    raise SlipwayError(Exit.WORDS, what, remedy=f"entries: {nearest(word, entries)}")


def _at_revision(root: Root, word: str) -> str | None:
    """The text of the lock at a git revision; None where there is none."""
    show = ["git", "show", "--end-of-options", f"{word}:./{root.lock.name}"]
    try:
        done = subprocess.run(show, cwd=root.path, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def _image(root: Root, word: str) -> tuple[Image | None, str]:
    """What an image says of itself, and the engine that was asked, in words. Nothing in the image is run."""
    import docker.errors

    address = dockerhost.find(root)
    if not dockerhost.answers(address.url):
        return None, f"the engine ({address.url} does not answer)"
    with dockerhost.engine_client(address) as client:
        try:
            found = client.images.get(word)
        except (docker.errors.NotFound, docker.errors.APIError):  # the latter: no reference at all, such as `a b`
            return None, address.url
        return compare.image(_read(client, found.id, word), found.labels), address.url


def _read(client: Any, image: str, word: str) -> str:
    """SAID of an image, through a container that is made and never started."""
    import docker.errors

    container = client.api.create_container(image, ["never-started"], network_disabled=True)["Id"]
    try:
        pieces, _ = client.api.get_archive(container, SAID)
        with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
            file = tar.extractfile(tar.getmembers()[0])
            return file.read().decode() if file else ""
    except docker.errors.NotFound as e:
        what = f"does not say what it is made from: it has no {SAID}"
        raise SlipwayError(Exit.DATA, what, where=word, remedy="name an image that `images build` made") from e
    finally:
        client.api.remove_container(container, v=True, force=True)

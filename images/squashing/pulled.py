"""An official image on a machine without an engine: its container, from its registry by the lock's digest, and what a
build adds to it. What is added is read from the rendered Dockerfile: there is no second account of it."""

from __future__ import annotations

import datetime
import functools
import os
from collections.abc import Callable
from pathlib import Path

from images.building import build as builder
from images.building import configurations, identity
from images.locking import platforms, sources
from images.locking.model import Entry, Lock
from images.machine import mirrors
from images.squashing import apply
from images.squashing.importer import Source
from slipway import canonical
from slipway.project import Root

Say = Callable[[str], None]


def source(root: Root, lock: Lock, entry: Entry, words: tuple[str, ...], say: Say) -> Source:
    """Where the container of `entry` is, with what is added to it; `words`: NAME=DIR for its repositories.

    The record names the image by what it is made of, since neither an engine nor a registry has it: one id, known
    before anything is fetched. Raises SlipwayError as `build.build` does of its request, and 65 where the lock has
    nothing for this machine's processor.
    """
    builder.check(builder.Request(entry, sources=words))
    chosen, platform = sources.choose(entry, words), platforms.named(os.uname().machine)
    platforms.check_locked(entry, platform)
    context = builder.gather(root, lock, entry, chosen, platform, say)
    inputs, made = context.checksum({}), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = identity.ImageRecord(
        name=entry.name,
        entry=entry.checksum,
        ids=[f"sha256:{canonical.sha256({'inputs': inputs, 'platform': platform})}"],
        tag="",
        platform=platform,
        inputs=inputs,
        reproducible=False,
        sources={name: source.brought for name, source in chosen.items()},
        seconds=0,
        built=made,
    )

    def tree(name: str, folder: Path) -> None:
        sources.export(root, chosen[name], folder, say)

    write = functools.partial(builder.write_context, context=context)
    read = functools.partial(configurations.look, root, entry, say=say)
    addition = apply.Addition(entry.name, context.texts["Dockerfile"], made, write, tree, read)
    uri = f"docker://{mirrors.load(root).of(str(entry.base.image))}@{entry.base.digest}"
    return Source(record, uri, str(entry.base.digest), addition=addition)

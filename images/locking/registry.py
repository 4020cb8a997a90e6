"""Asks registries and git servers what a tag names now, and compares that with the lock.

The client of registries is `docker buildx imagetools`: it needs no engine, and logs in as `docker login` has set it up.
Where that is not there, as on a login node, it is skopeo.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterable
from typing import Any, NamedTuple

from images.bootstrap import debian
from images.locking.model import Entry, Lock
from images.machine import skopeo
from images.machine.clients import DOCKER, GIT, SKOPEO, Client, git_host, no_tag, trouble
from images.machine.mirrors import NONE, Mirrors
from slipway import canonical
from slipway.errors import Exit, SlipwayError

_SECONDS = 60  # of patience with one server; buildx itself waits without end
_AT_ONCE = 8


class Found(NamedTuple):
    """What a tag names: the index's digest, or the manifest's where there is no index; platform -> manifest digest."""

    digest: str
    platforms: dict[str, str]


class Checked(NamedTuple):
    """A pin of the lock beside what its server says: `what` is `base` or a repository's name.

    `old` is empty while the lock has it unresolved, `new` where there is a `problem`.
    """

    entry: str
    what: str
    old: str
    new: str
    problem: SlipwayError | None = None

    def __str__(self) -> str:
        row = f"{self.entry}: {self.what}: "
        if self.problem:
            return f"{row}{self.problem}"
        return f"{row}{self.old or 'unresolved'} -> {self.new}" if self.old != self.new else f"{row}same"


class _Pin(NamedTuple):
    entry: str
    what: str
    old: str
    place: tuple[str, ...]  # ("image:tag",) or (url, tag): what is asked, once


def resolve(reference: str) -> Found:
    """What `image:tag` or `image:tag@digest` is. Waits a minute at most.

    Raises SlipwayError 69 (not reachable, TLS, too many requests, the registry's own fault),
    77 (a login is wanted) or 66 (not there); each says which. Also 69 where neither docker nor skopeo is here.
    """
    return asyncio.run(_resolve(reference))


def git_tag(url: str, tag: str) -> str:
    """The commit (40 hex digits) that `tag` names in the repository at `url`. Raises SlipwayError as `resolve` does."""
    return asyncio.run(_git_tag(url, tag))


def check(lock: Lock, libraries: Iterable[str] = (), mirrored: Mirrors = NONE) -> list[Checked]:
    """Every pin of `libraries` (all where none is named) beside what its server, or its mirror, says now.

    Each is asked once.

    Raises nothing: a server's trouble is in the row.
    """
    wanted = set(libraries)
    entries = [e for e in lock.entries.values() if not wanted or e.library in wanted]
    pins = [pin for entry in entries for pin in _pins(entry, mirrored)]
    answers = asyncio.run(_answers({pin.place for pin in pins}))
    return [_compare(pin, answers[pin.place]) for pin in pins]


def exit_code(rows: Iterable[Checked]) -> Exit:
    """1 where a pin has moved or was unresolved, else the first problem's code, else 0."""
    codes = [r.problem.code if r.problem else Exit.DIFFERS for r in rows if r.problem or r.old != r.new]
    return Exit.DIFFERS if Exit.DIFFERS in codes else next(iter(codes), Exit.OK)


def _pins(entry: Entry, mirrored: Mirrors) -> list[_Pin]:
    base = entry.base
    place = mirrored.of(f"{base.image}:{base.tag}")
    found = [_Pin(entry.name, "base", base.digest or "", (place,))] if base.image else []
    return found + [_Pin(entry.name, name, r.commit or "", (r.url, r.tag)) for name, r in entry.repositories.items()]


async def _answers(places: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], list[str] | SlipwayError]:
    """Per place: what the tag names, then whatever else a pin to it may say (the manifest of one platform)."""
    turn = asyncio.Semaphore(_AT_ONCE)

    async def answer(place: tuple[str, ...]) -> list[str] | SlipwayError:
        try:
            async with turn:
                if len(place) == 1:
                    found = await _resolve(*place)
                    return [found.digest, *found.platforms.values()]
                return [await _git_tag(*place)]
        except SlipwayError as e:
            return e

    asked = list(places)
    return dict(zip(asked, await asyncio.gather(*map(answer, asked)), strict=True))


def _compare(pin: _Pin, answer: list[str] | SlipwayError) -> Checked:
    if isinstance(answer, SlipwayError):
        return Checked(pin.entry, pin.what, pin.old, "", answer)
    return Checked(pin.entry, pin.what, pin.old, pin.old if pin.old in answer else answer[0])


async def _resolve(reference: str) -> Found:
    return await (_by_skopeo if debian.missing("buildx") else _by_docker)(reference)


async def _by_docker(reference: str) -> Found:
    inspect = ["buildx", "imagetools", "inspect", reference, "--format", "{{json .}}"]
    facts = json.loads(await _ask(DOCKER, inspect, where=reference, host=reference.partition("/")[0]))
    manifest = facts["manifest"]
    return _found(manifest["digest"], manifest, facts.get("image") or {})


async def _by_skopeo(reference: str) -> Found:
    name = skopeo.name(reference)
    words = ["inspect", *skopeo.tls(name), f"docker://{name}", "--raw"]
    raw = await _ask(SKOPEO, words, where=reference, host=name.partition("/")[0])
    digest, manifest = f"sha256:{canonical.sha256(raw.encode())}", json.loads(raw)
    image = {}
    if "manifests" not in manifest:
        image = json.loads(await _ask(SKOPEO, [*words, "--config"], where=reference, host=name.partition("/")[0]))
    return _found(digest, manifest, image)


def _found(digest: str, manifest: dict[str, Any], image: dict[str, Any]) -> Found:
    """`manifest`: an index, or that of one image, whose configuration is `image`."""
    if "manifests" in manifest:
        rows = [(m.get("platform") or {}, m["digest"]) for m in manifest["manifests"]]
    else:
        rows = [(image, digest)]
    named = [(p, digest) for p, digest in rows if p.get("os", "unknown") != "unknown"]  # unknown: an attestation
    return Found(digest, {f"{p['os']}/{p['architecture']}": digest for p, digest in named})


async def _git_tag(url: str, tag: str) -> str:
    names = [f"refs/tags/{tag}", f"refs/tags/{tag}^{{}}"]
    said = await _ask(GIT, ["ls-remote", "--", url, *names], where=f"{url} {tag}", host=git_host(url))
    commits = {name: commit for commit, name in (line.split("\t") for line in said.splitlines())}
    found = commits.get(names[1]) or commits.get(names[0])  # ^{}: the commit behind an annotated tag
    if not found:
        raise no_tag(url, tag)
    return found


async def _ask(client: Client, words: list[str], where: str, host: str) -> str:
    """What a client prints. Raises SlipwayError for its failure, in our words and its own."""
    env = {**os.environ, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
    none, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    try:
        # A process group of its own, to be ended whole: git leaves its helpers behind, and they wait for the server.
        program = await asyncio.create_subprocess_exec(
            client.program, *words, env=env, process_group=0, stdin=none, stdout=pipe, stderr=pipe
        )
    except FileNotFoundError as e:
        what = f"there is no {client.program} command"
        raise SlipwayError(Exit.UNAVAILABLE, what, where=where, remedy=client.install) from e
    try:
        async with asyncio.timeout(_SECONDS):
            out, errors = await program.communicate()
    except TimeoutError:
        errors = f"timed out after {_SECONDS} s".encode()
    finally:
        if program.returncode is None:
            os.killpg(program.pid, signal.SIGKILL)
            await program.wait()
    if program.returncode:
        raise trouble(client, errors.decode(errors="replace"), where, host)
    return out.decode()

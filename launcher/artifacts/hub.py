"""The Hugging Face hub: which commit a revision is, and fetching what is missing of it into HF_HOME."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from launcher.artifacts import hub_cache
from launcher.artifacts.hub_cache import HubId
from slipway.console import say
from slipway.errors import Exit, SlipwayError, nearest
from slipway.files import cannot_write, sha256_file, write_atomic

TIMEOUT = 10  # seconds that the hub has for an answer
STREAMS = 8  # files at a time


class Listing(NamedTuple):
    """What the hub has of a commit. `large`: the sha256 of the files that stand in its large file storage."""

    commit: str
    sizes: dict[str, int]
    large: dict[str, str]


class Seen(NamedTuple):
    """`id`: at its commit. `missing`: what of it is not in the cache, in words; empty where all of it is.

    `listing`: where the hub was asked.
    """

    id: HubId
    note: str = ""
    missing: str = ""
    listing: Listing | None = None


def is_offline() -> bool:
    """Whether the caller's environment forbids asking the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in ("1", "ON", "YES", "TRUE")


def look(asked: HubId, home: Path, offline: bool) -> Seen:
    """Which commit `asked` is, and whether the cache below `home` has it. The hub is asked only where it has to be.

    Raises SlipwayError 66 (no such repository, revision or file; offline: no commit is known), 69, 75 or 77.
    """
    listing, note = None, ""
    commit = hub_cache.known_commit(asked, home) if offline or asked.is_commit else ""
    if not commit and offline:
        what = f"the hub is not asked offline, and {home} does not know which commit {asked.revision!r} is"
        raise SlipwayError(Exit.NO_INPUT, what, where=str(asked), remedy=f"{remedy(asked, home)}; or name a commit")
    if not commit:
        listing = _ask(asked)
        commit, note = listing.commit, f"{asked} is the commit {listing.commit}"
    elif not asked.is_commit:
        note = f"{asked} is the commit {commit}, as the cache has it: the hub is not asked offline"
    found = asked.at(commit)
    if hub_cache.is_whole(found, home):
        return Seen(found, note)
    if not listing and not offline:
        with contextlib.suppress(SlipwayError):  # without its size it is missing all the same
            listing = _ask(found)
    amount = f": {_amount(*_to_do(found, home, listing))} to fetch" if listing else ""
    return Seen(found, note, f"is not whole in {home}{amount}", listing)


def remedy(asked: HubId, home: Path) -> str:
    """The command that fetches it."""
    return f"where the hub can be reached: launch fetch {asked} --hf-home {home}"


def fetch(asked: HubId, home: Path, listing: Listing | None = None) -> Path:
    """Brings what is missing into the cache below `home`; returns the path of what was asked for.

    `listing`: what the hub has said of it just now; else it is asked.
    Raises SlipwayError 66, 69, 75 and 77 as the hub answers, 73 where there is no space or no writing.
    """
    if asked.is_commit and hub_cache.is_whole(asked, home):
        return asked.snapshot(home) / asked.below
    if is_offline():
        raise SlipwayError(Exit.UNAVAILABLE, "HF_HUB_OFFLINE is set", where=str(asked), remedy="unset it to fetch")
    listing = listing or _ask(asked)
    found = asked.at(listing.commit)
    wanted, size = _to_do(found, home, listing)
    free = shutil.disk_usage(next(p for p in (home, *home.parents) if p.exists())).free
    if size > free:
        what = f"{size / 1e6:,.1f} MB are to be fetched, {free / 1e6:,.1f} MB are free in {home}"
        raise SlipwayError(Exit.CANNOT_WRITE, what, where=str(found), remedy="free space, or name another: --hf-home")
    if wanted:
        say(f"{found}: fetching {_amount(wanted, size)} into {home}")
        _download(found, home, listing, wanted)
    if not asked.is_commit:  # last: a ref names what is whole
        write_atomic(asked.ref(home), listing.commit)
    return found.snapshot(home) / asked.below


def _to_do(found: HubId, home: Path, listing: Listing) -> tuple[list[str], int]:
    """The files that are not there yet, and their bytes."""
    names = hub_cache.needed(list(listing.sizes), found.below)
    if not names:
        what = f"there is no {found.below} in it" if found.below else "the repository is empty"
        raise SlipwayError(Exit.NO_INPUT, what, where=str(found), remedy=nearest(found.below, listing.sizes))
    missing = [n for n in names if not (found.snapshot(home) / n).exists()]
    return missing, sum(listing.sizes[n] for n in missing)


def _amount(names: list[str], size: int) -> str:
    return f"{len(names)} file{'' if len(names) == 1 else 's'}, {size / 1e6:,.1f} MB"


def _ask(asked: HubId) -> Listing:
    """What the hub says of a revision, in one request."""
    with _hub(asked) as library:
        info = library.HfApi(token=_token(library)).repo_info(
            asked.repo, repo_type=asked.kind[:-1], revision=asked.revision, files_metadata=True, timeout=TIMEOUT
        )
        files = info.siblings or []
        large = {f.rfilename: f.lfs.sha256 for f in files if f.lfs}
        return Listing(info.sha, {f.rfilename: f.size or 0 for f in files}, large)


def _download(found: HubId, home: Path, listing: Listing, names: list[str]) -> None:
    """The large files as blobs, then the library: it makes the snapshot, with links to the blobs that are there."""
    with cannot_write(home):
        (found.folder(home) / "blobs").mkdir(parents=True, exist_ok=True)
    with _hub(found) as library, ThreadPoolExecutor(STREAMS) as pool:
        try:
            for _ in pool.map(partial(_blob, library, found, home, listing), sorted(set(names) & set(listing.large))):
                pass
        except KeyboardInterrupt:
            os._exit(130)  # the threads would go on to the ends of their files; what they have is kept
        library.snapshot_download(
            found.repo, repo_type=found.kind[:-1], revision=found.revision, cache_dir=home / "hub",
            allow_patterns=[glob.escape(n) for n in names], token=_token(library),
        )  # fmt: skip


def _blob(library: Any, found: HubId, home: Path, listing: Listing, name: str) -> None:
    """One large file, from where an earlier try was broken off: the library would begin it anew. Checked when whole."""
    from huggingface_hub.file_download import http_get

    blob = found.folder(home) / "blobs" / listing.large[name]
    part = blob.with_name(f"{blob.name}.part")
    url = library.hf_hub_url(found.repo, name, repo_type=found.kind[:-1], revision=found.revision)
    headers = library.utils.build_hf_headers(token=_token(library))
    with part.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another fetch of it is waited for
        if blob.exists():
            part.unlink(missing_ok=True)
            return
        http_get(
            url, file, resume_size=file.tell(), headers=headers, expected_size=listing.sizes[name],
            displayed_filename=name,
        )  # fmt: skip
        file.flush()
        if sha256_file(part) == blob.name:
            part.replace(blob)
            return
    part.unlink()
    what = f"{name}: what came is not what the hub says it is (sha256)"
    raise SlipwayError(Exit.TRY_AGAIN, what, where=str(found), remedy="fetch it again")


def _token(library: Any) -> str | bool:
    """HF_TOKEN, else the file of a login: of this HF_HOME, or of the caller's home. False: none."""
    own = Path("~/.cache/huggingface/token").expanduser()
    return library.get_token() or (own.read_text().strip() if own.is_file() else "") or False


@contextlib.contextmanager
def _hub(asked: HubId) -> Iterator[Any]:
    """huggingface_hub; what goes wrong between here and the hub becomes an error of ours."""
    os.environ["HF_HUB_DISABLE_SHARED_BLOBS"] = "1"  # what lies outside a repository's folder is not in its mount
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if not sys.stderr.isatty():
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    try:
        import httpx2
        import huggingface_hub
        from huggingface_hub import constants
    except ImportError as e:
        how = "pip install 'slipway[hub]'"
        raise SlipwayError(Exit.CONFIG, "huggingface_hub is not installed", where=str(asked), remedy=how) from e
    try:
        yield huggingface_hub
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as e:
        raise _error(asked, constants.ENDPOINT, e) from e


def _error(asked: HubId, hub: str, e: Exception) -> SlipwayError:
    """By the hub's answer; what it was told, a token too, is not repeated."""
    cause = e.__cause__ or e if isinstance(e, FileNotFoundError) else e  # LocalEntryNotFoundError: what led to it
    response: Any = getattr(cause, "response", None)
    status = 0 if response is None else response.status_code
    code, what, remedy = Exit.UNAVAILABLE, f"{hub} answers with {status}", "try again later"
    if status in (401, 403):
        code, what = Exit.NOT_PERMITTED, f"{hub} does not let us read it ({status})"
        remedy = "check its name; where it is private or gated: accept its terms there, set HF_TOKEN or: hf auth login"
    elif status == 404:
        revision = response.headers.get("X-Error-Code") == "RevisionNotFound"
        what = f"it has no revision {asked.revision!r}" if revision else f"{hub} has no such repository"
        code, remedy = Exit.NO_INPUT, "check its name"
    elif status == 429:
        code, what = Exit.TRY_AGAIN, f"{hub} has had too many requests (429)"
    elif not status and isinstance(cause, OSError) and cause.errno:
        code, what, remedy = Exit.CANNOT_WRITE, f"cannot write: {cause.strerror}", "name another: --hf-home"
    elif not status:
        what, remedy = f"{hub} cannot be reached: {cause}", "check the network, or name a mirror: HF_ENDPOINT"
    return SlipwayError(code, what, where=str(asked), remedy=remedy)

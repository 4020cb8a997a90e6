"""A stand-in of the Hugging Face hub: hub.py FOLDER, on a port of loopback that it prints.

FOLDER/<models|datasets>/<org>/<name>/refs.json gives branches and tags, FOLDER/…/<commit>/ the files of a commit. What
ends in .safetensors or .bin is in large file storage: HEAD tells its sha256, and GET leads to /storage/…, which knows
ranges. `FOLDER/asked` gets a line for every request, METHOD PATH STATUS RANGE and the bytes of the body that were sent.
An organization that is a number has that HTTP status for everything; `gated` wants the token `hf_right`.
`FOLDER/cut`: once, a large file ends after so many bytes; `FOLDER/hold`: while it is there, it stops after so many, and
`FOLDER/held` says that it has. `FOLDER/sizes.json`: path of a file -> the size that it is said to have.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import http.server
import json
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(sys.argv[1])
LOCK = threading.Lock()
LARGE = (".safetensors", ".bin")
API = re.compile(r"/api/(models|datasets)/([^/]+)/([^/]+)(?:/(revision|tree)/([^/]+))?")
FILE = re.compile(r"/(?:(datasets)/)?([^/]+)/([^/]+)/resolve/([^/]+)/(.+)")
STORED = re.compile(r"/storage/(.+)")


class Answer(Exception):
    """Status and body instead of the usual one; its name, as the hub's header X-Error-Code says it."""

    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(status, code)
        self.status, self.code = status, code


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, self.sent, self.status = unquote(urlsplit(self.path).path), 0, 0
        try:
            self.answer(path)
        except Answer as e:
            self.reply(e.status, b"{}", **({"X-Error-Code": e.code} if e.code else {}))
        finally:
            line = f"{self.command} {path} {self.status} {self.headers.get('Range', '-')} {self.sent}\n"
            with LOCK, (ROOT / "asked").open("a") as f:
                f.write(line)

    do_HEAD = do_GET

    def answer(self, path: str) -> None:
        raw = urlsplit(self.path).path  # a revision's own slashes are quoted in it
        if found := API.fullmatch(raw):
            kind, org, name, what, revision = (unquote(g) if g else "" for g in found.groups())
            folder, commit = self.commit(kind, org, name, revision or "main")
            files = [self.described(folder / commit, p) for p in sorted((folder / commit).rglob("*")) if p.is_file()]
            if what == "tree":
                return self.reply(200, json.dumps(files).encode())
            siblings = [{"rfilename": f["path"], "size": f["size"], "blobId": f["oid"]} for f in files]
            for sibling, file in zip(siblings, files, strict=True):
                if "lfs" in file:
                    sibling["lfs"] = {"sha256": file["lfs"]["oid"], "size": file["size"], "pointerSize": 100}
            about = {"id": f"{org}/{name}", "sha": commit, "siblings": siblings}
            return self.reply(200, json.dumps(about).encode())
        if found := FILE.fullmatch(raw):
            kind, org, name, revision, file = (unquote(g) if g else "" for g in found.groups())
            folder, commit = self.commit(kind or "models", org, name, revision)
            return self.file(folder / commit / file, commit)
        if found := STORED.fullmatch(path):
            if "Authorization" in self.headers:
                raise Answer(400)  # a token that went to somebody else
            return self.stored(ROOT / found[1])
        raise Answer(404)

    def commit(self, kind: str, org: str, name: str, revision: str) -> tuple[Path, str]:
        if org.isdigit():
            raise Answer(int(org))
        if org == "gated" and self.headers.get("Authorization") != "Bearer hf_right":
            raise Answer(403 if "Authorization" in self.headers else 401, "GatedRepo")
        folder = ROOT / kind / org / name
        if not folder.is_dir():
            raise Answer(404, "RepoNotFound")
        commit = json.loads((folder / "refs.json").read_text()).get(revision, revision)
        if not (folder / commit).is_dir():
            raise Answer(404, "RevisionNotFound")
        return folder, commit

    @staticmethod
    def described(root: Path, path: Path) -> dict[str, Any]:
        data = path.read_bytes()
        said = json.loads((ROOT / "sizes.json").read_text()) if (ROOT / "sizes.json").exists() else {}
        name = str(path.relative_to(root))
        made = {"type": "file", "path": name, "size": said.get(name, len(data)), "oid": git_sha1(data)}
        if path.name.endswith(LARGE):
            made["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 100}
        return made

    def file(self, path: Path, commit: str) -> None:
        if not path.is_file():
            raise Answer(404, "EntryNotFound")
        data, told = path.read_bytes(), {"X-Repo-Commit": commit}
        if not path.name.endswith(LARGE):
            return self.reply(200, data, ETag=f'"{git_sha1(data)}"', **told)
        told |= {"X-Linked-ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Linked-Size": str(len(data))}
        storage = f"http://localhost:{self.server.server_address[1]}/storage"  # a host of its own, as the hub's has
        self.reply(302, b"", Location=f"{storage}/{path.relative_to(ROOT)}", **told)

    def stored(self, path: Path) -> None:
        data = path.read_bytes()
        start = int(re.findall(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[0])
        told = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        if start:
            told["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.reply(206 if start else 200, data[start:], **told)

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.status = status
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        stop = self.broken_off(status, body)
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[:stop])
            self.wfile.flush()
            self.sent = len(body[:stop])
            if stop is not None:
                self.close_connection = True
                (ROOT / "held").touch()
                while (ROOT / "hold").exists():
                    threading.Event().wait(0.01)

    def broken_off(self, status: int, body: bytes) -> int | None:
        """After how many bytes this answer ends; None: it does not."""
        if status not in (200, 206) or not self.path.startswith("/storage/"):
            return None
        hold, cut = ROOT / "hold", ROOT / "cut"
        with LOCK:
            if hold.exists():
                return int(hold.read_text())
            if cut.exists():
                after = int(cut.read_text())
                cut.unlink()
                return min(after, len(body))
        return None

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: whoever started this may be killed
with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    print(server.server_port, flush=True)
    server.serve_forever()

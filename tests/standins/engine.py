"""A stand-in of a Docker engine that can be asked, and makes nothing: engine.py FOLDER

Listens on FOLDER/socket, answers from FOLDER/has.json, writes each request's method and path to FOLDER/requests, and
prints "ready" once it listens. has.json: `images` (reference -> id) for `platform`; `info` and `version`, where they
differ from the usual answer; `containers`, those that run. What it does not know it answers with 404 and the words
`missing`; it has no container that could be removed. It takes a tag and an archive (which is then the image LOADED) as
if it kept them. To everything else that would make something it answers 500, and writes what it was sent to
FOLDER/refused.
"""

from __future__ import annotations

import http.server
import json
import re
import socketserver
import sys
import urllib.parse
from pathlib import Path
from typing import Any

FOLDER = Path(sys.argv[1])
VERSION = {"Version": "26.1.5", "ApiVersion": "1.45", "MinAPIVersion": "1.24", "Components": [{"Name": "Engine"}]}
LOADED = f"sha256:{'1' * 64}"
HISTORY = [{"Size": 0, "CreatedBy": "ENV A=1"}, {"Size": 20, "CreatedBy": "RUN something"}]
INFO = {"Runtimes": {"runc": {}}, "DriverStatus": []}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        has = json.loads((FOLDER / "has.json").read_text())
        answer = look(self.asked(), has)
        self.reply(*(404, {"message": has.get("missing", "No such image")}) if answer is None else (200, answer))

    def do_POST(self) -> None:
        path = self.asked()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path.endswith("/tag"):
            self.reply(201, "")
        elif path == "/images/load":
            self.reply(200, {"stream": f"Loaded image ID: {LOADED}"})
        else:
            (FOLDER / "refused").write_bytes(body)
            self.reply(500, {"message": "a stand-in makes nothing"})

    do_HEAD = do_PUT = do_POST

    def do_DELETE(self) -> None:
        self.asked()
        self.reply(404, {"message": "No such container"})

    def asked(self) -> str:
        path = urllib.parse.unquote(re.sub(r"^/v[\d.]+", "", self.path).partition("?")[0])
        with (FOLDER / "requests").open("a") as f:
            f.write(f"{self.command} {path}\n")
        return path

    def reply(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """A unix socket's client has no address to log."""


def look(path: str, has: dict[str, Any]) -> Any:
    """The answer to GET `path`; None where there is no such thing."""
    answers = {"/_ping": "OK", "/version": VERSION | has.get("version", {}), "/info": INFO | has.get("info", {})}
    answers["/containers/json"] = has.get("containers", [])
    for name, image in has.get("images", {}).items():
        of = dict(zip(("Os", "Architecture"), has.get("platform", "").split("/"), strict=False))
        answers |= {f"/images/{name}/json": {"Id": image, **of}, f"/images/{image}/history": HISTORY}
    return answers.get(path)


with socketserver.ThreadingUnixStreamServer(str(FOLDER / "socket"), Handler) as server:
    print("ready", flush=True)
    server.serve_forever()

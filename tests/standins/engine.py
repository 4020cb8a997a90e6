"""A stand-in of a Docker engine that can be asked, and creates nothing: engine.py FOLDER

Listens on FOLDER/socket, answers from FOLDER/has.json (`images`, `info`, `version`), writes each request's method and
path to FOLDER/requests, and prints "ready" once it listens. What it does not know it answers with 404, what it must
not be asked (anything but GET) with 500.
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
INFO = {"Runtimes": {"runc": {}}, "DriverStatus": []}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer(look(self.asked()))

    def do_POST(self) -> None:
        self.asked()
        self.send_error(500)

    do_DELETE = do_PUT = do_HEAD = do_POST

    def asked(self) -> str:
        path = urllib.parse.unquote(re.sub(r"^/v[\d.]+", "", self.path))
        with (FOLDER / "requests").open("a") as f:
            f.write(f"{self.command} {path}\n")
        return path

    def answer(self, value: Any) -> None:
        known = value is not None
        body = json.dumps(value if known else {"message": "no such thing"}).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """A unix socket's client has no address to log."""


def look(path: str) -> Any:
    """The answer to GET `path`; None where there is no such thing."""
    has = json.loads((FOLDER / "has.json").read_text())
    if path == "/_ping":
        return "OK"
    if path == "/version":
        return VERSION | has.get("version", {})
    if path == "/info":
        return INFO | has.get("info", {})
    image = re.fullmatch(r"/images/(.+)/json", path)
    found = has.get("images", {}).get(image[1]) if image else None
    return {"Id": found} if found else None


with socketserver.ThreadingUnixStreamServer(str(FOLDER / "socket"), Handler) as server:
    print("ready", flush=True)
    server.serve_forever()

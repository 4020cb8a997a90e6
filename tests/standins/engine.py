"""A stand-in of a Docker engine that can be asked, and makes nothing: engine.py FOLDER

Listens on FOLDER/socket, answers from FOLDER/has.json, writes each request's method and path to FOLDER/requests, and
prints "ready" once it listens. has.json: `images` (reference -> id) for `platform`; `info` and `version`, where they
differ from the usual answer; `containers`, those that run. What it does not know it answers with 404 and the words
`missing`; it has no container that could be removed. It takes a tag and an archive (which is then the image LOADED) as
if it kept them. Where has.json has `runs`, containers are made: one that is started has ended at once with the code
that `runs` says, or where that is null goes on until it is told to stop; of what runs in it there is only what an
entrypoint leaves in its run directory. `GET /made` lists them. To everything else that would make something it answers
500, and writes what it was sent to FOLDER/refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.server
import json
import re
import signal
import socketserver
import sys
import time
import urllib.parse
from pathlib import Path
from typing import Any

FOLDER = Path(sys.argv[1])
VERSION = {"Version": "26.1.5", "ApiVersion": "1.45", "MinAPIVersion": "1.24", "Components": [{"Name": "Engine"}]}
LOADED = f"sha256:{'1' * 64}"
HISTORY = [{"Size": 0, "CreatedBy": "ENV A=1"}, {"Size": 20, "CreatedBy": "RUN something"}]
NOW = "2026-01-01T00:00:00Z"
FRAME = bytes((1, 0, 0, 0, 0, 0, 0, 7))  # stdout, and how many bytes of it follow
CONTAINERS: dict[str, dict[str, Any]] = {}
INFO = {"Runtimes": {"runc": {}}, "DriverStatus": []}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        has = json.loads((FOLDER / "has.json").read_text())
        answer = look(self.asked(), has)
        self.reply(*(404, {"message": has.get("missing", "No such image")}) if answer is None else (200, answer))

    def do_POST(self) -> None:
        path = self.asked()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        has = json.loads((FOLDER / "has.json").read_text())
        if "runs" in has and path.startswith("/containers/"):
            self.reply(*containers(path.split("/")[2:], self.path, body, has["runs"]))
        elif path.endswith("/tag"):
            self.reply(201, "")
        elif path == "/images/load":
            self.reply(200, {"stream": f"Loaded image ID: {LOADED}"})
        else:
            (FOLDER / "refused").write_bytes(body)
            self.reply(500, {"message": "a stand-in makes nothing"})

    do_HEAD = do_PUT = do_POST

    def do_DELETE(self) -> None:
        name = self.asked().split("/")[2]
        gone = CONTAINERS.pop(named(name), None)
        self.reply(*((204, b"") if gone else (404, {"message": "No such container"})))

    def asked(self) -> str:
        path = urllib.parse.unquote(re.sub(r"^/v[\d.]+", "", self.path).partition("?")[0])
        with (FOLDER / "requests").open("a") as f:
            f.write(f"{self.command} {path}\n")
        return path

    def reply(self, status: int, value: Any) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # whoever asked was killed
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """A unix socket's client has no address to log."""


def named(name: str) -> str:
    """The name of a container, by its id or name."""
    return next((n for n, found in CONTAINERS.items() if name in (n, found["Id"])), "")


def containers(words: list[str], url: str, body: bytes, code: int | None) -> tuple[int, Any]:
    """What is answered to `POST /containers/…`."""
    if words == ["create"]:
        name = urllib.parse.parse_qs(url.partition("?")[2])["name"][0]
        mounts = [m | {"Destination": m["Target"]} for m in json.loads(body)["HostConfig"]["Mounts"]]
        state = {"Status": "created", "ExitCode": 0, "Error": "", "OOMKilled": False}
        CONTAINERS[name] = {"Id": f"{len(CONTAINERS):064x}", "Name": f"/{name}", "State": state, "Mounts": mounts}
        CONTAINERS[name] |= {"Config": {"Tty": False, "Labels": json.loads(body)["Labels"]}}
        return 201, {"Id": CONTAINERS[name]["Id"], "Warnings": []}
    if not (found := CONTAINERS.get(named(words[0]))):
        return 404, {"message": "No such container"}
    verb = words[1]
    if verb == "start":
        found["State"] |= {"Status": "running", "StartedAt": NOW}
        begin(found)
    if verb in ("start", "kill") and (verb == "kill" or code is not None):
        end(found, 143 if verb == "kill" else int(code or 0))
    while verb == "wait" and found["State"]["Status"] == "running":
        time.sleep(0.01)
    return (200, {"StatusCode": found["State"]["ExitCode"]}) if verb == "wait" else (204, b"")


def begin(container: dict[str, Any]) -> None:
    """What an entrypoint leaves first."""
    (place(container) / "0" / "ranks").mkdir(parents=True, exist_ok=True)


def end(container: dict[str, Any], code: int) -> None:
    """And last."""
    told = {
        "exit_code": code,
        "cause": "signal" if code == 143 else "step",
        "reason": "",
        "started": NOW,
        "finished": NOW,
    }
    (place(container) / "0" / "status.json").write_text(json.dumps(told))
    container["State"] |= {"Status": "exited", "ExitCode": code, "FinishedAt": NOW}


def place(container: dict[str, Any]) -> Path:
    return Path(next(m["Source"] for m in container["Mounts"] if m["Destination"] == "/run/slipway"))


def look(path: str, has: dict[str, Any]) -> Any:
    """The answer to GET `path`; None where there is no such thing."""
    answers = {"/_ping": "OK", "/version": VERSION | has.get("version", {}), "/info": INFO | has.get("info", {})}
    answers["/containers/json"] = has.get("containers", [])
    answers["/made"] = sorted(CONTAINERS)
    for name, image in has.get("images", {}).items():
        of = dict(zip(("Os", "Architecture"), has.get("platform", "").split("/"), strict=False))
        answers |= {f"/images/{name}/json": {"Id": image, **of}, f"/images/{image}/history": HISTORY}
    for name, found in list(CONTAINERS.items()):
        answers |= {f"/containers/{by}/json": found for by in (name, found["Id"])}
        answers |= {f"/containers/{by}/logs": FRAME + b"line 1\n" for by in (name, found["Id"])}
    return answers.get(path)


ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: whoever started this may be killed
with socketserver.ThreadingUnixStreamServer(str(FOLDER / "socket"), Handler) as server:
    print("ready", flush=True)
    server.serve_forever()

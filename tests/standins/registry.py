"""A stand-in of a registry or git server that has trouble: registry.py [CERTIFICATE]

Prints the port that it listens on. The first part of a repository's name says what becomes of a request: a number is
the HTTP status that is answered, `closes` ends the connection without an answer, `hangs` never answers. `/asked` gives
the requests so far, a line each. With CERTIFICATE (a PEM file with its key) it speaks TLS.
"""

from __future__ import annotations

import http.server
import json
import ssl
import sys
import threading

ASKED: list[str] = []
WORDS = {  # of the distribution specification, and nvcr.io's for 402
    401: ("UNAUTHORIZED", "authentication required"),
    402: ("DENIED", "Payment Required"),
    403: ("DENIED", "requested access to the resource is denied"),
    404: ("MANIFEST_UNKNOWN", "manifest unknown"),
}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/asked":
            return self.reply(200, "\n".join(ASKED).encode())
        if self.path == "/v2/":  # skopeo asks first whether this is a registry
            return self.reply(200, b"{}")
        ASKED.append(f"{self.command} {self.path}")
        what = self.path.removeprefix("/v2").split("/")[1]
        if what == "hangs":
            threading.Event().wait()
        elif what.isdigit():
            code, message = WORDS.get(int(what), ("TROUBLE", "a stand-in has nothing but trouble"))
            errors = [{"code": code, "message": message}]
            self.reply(int(what), json.dumps({"errors": errors}).encode())

    do_HEAD = do_POST = do_GET

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    if len(sys.argv) > 1:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[1])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    print(server.server_port, flush=True)
    server.serve_forever()

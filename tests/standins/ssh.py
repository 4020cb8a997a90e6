"""A stand-in of ssh that leads to an engine's socket, as `ssh HOST docker system dial-stdio` does: ssh.py SOCKET"""

from __future__ import annotations

import os
import socket
import sys
import threading

far = socket.socket(socket.AF_UNIX)
far.connect(sys.argv[1])


def send() -> None:
    while piece := os.read(0, 65536):
        far.sendall(piece)
    far.shutdown(socket.SHUT_WR)


threading.Thread(target=send, daemon=True).start()
while answer := far.recv(65536):
    os.write(1, answer)

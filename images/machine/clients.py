"""The programs that ask servers for us (docker, skopeo, git), and what their failures mean in one set of words."""

from __future__ import annotations

import re
from typing import NamedTuple

from slipway.errors import Exit, SlipwayError

# What the clients say -> what it means. In this order: what stands first is the surest sign.
_TROUBLES = (
    (r"no such host|could not resolve host|name resolution|server misbehaving", Exit.UNAVAILABLE,
     "there is no host {host} for this machine", "check the name, the network and its DNS"),
    (r"\btls\b|x509|certificate|handshake|https client|\bssl\b", Exit.UNAVAILABLE,
     "no trust in {host}'s TLS", "if a proxy of yours re-signs it, add its certificate authority to this machine's"),
    (r"refused|unreachable|no route|timeout|timed out|deadline|connection reset|\beof\b|empty reply|failed to connect",
     Exit.UNAVAILABLE, "{host} cannot be reached", "check the network, a proxy or firewall on the way, and try again"),
    (r"\b429\b|toomanyrequests|rate limit", Exit.UNAVAILABLE,
     "{host} has had too many requests (429)", "try again later; who is logged in may ask more often"),
    (r"\b5\d\d\b", Exit.UNAVAILABLE, "{host} has a fault of its own (5xx)", "try again later"),
    (r"\b402\b|payment required", Exit.NOT_PERMITTED, "{host} requires a subscription (402)",
     "log in with a key of an organisation that has one (nvcr.io: NVIDIA AI Enterprise), or choose another release"),
    (r"\b403\b", Exit.NOT_PERMITTED, "{host} denies access to this login (403)",
     "log in with an account that has access (nvcr.io: its organisation has the image, and its terms are accepted in "
     "NGC's catalogue); a proxy may also answer 403: no_proxy={host} bypasses it"),
    (r"\b401\b|denied|authoriz|authentication|credentials|could not read", Exit.NOT_PERMITTED,
     "{host} does not let us (401)", ""),  # the client knows the remedy
    (r"\b404\b|not found|(manifest|name) unknown|not appear to be a git", Exit.NO_INPUT,
     "{host} has no such image, tag or repository (404)", "check the name and the tag"),
)  # fmt: skip


class Client(NamedTuple):
    """A program that asks, and the remedies for what only it can lack."""

    program: str
    install: str
    log_in: str


DOCKER = Client(
    "docker",
    install="run: images engine up",
    log_in="run: docker login {host} (nvcr.io: user $oauthtoken, password an NGC API key); or the name is wrong",
)
SKOPEO = Client(
    "skopeo",
    install="install skopeo; or docker with buildx: images engine up",
    log_in=DOCKER.log_in.replace("docker login", "skopeo login"),
)
GIT = Client("git", install="install git", log_in="give git a credential helper for {host}; or the name is wrong")


def trouble(client: Client, errors: str, where: str, host: str) -> SlipwayError:
    """What the failure that `client` has told of means, in our words and its own; `where`: what it was asked for."""
    lines = [line.strip() for line in errors.strip().splitlines()]
    said = next((line for line in lines if line.startswith(("ERROR:", "fatal:"))), " ".join(lines[-1:]))
    said = said.partition(": ")[2] or said
    signs = re.sub(r"https?://\S+", "", said)  # names hold digits too
    for word in (*where.split(), host):
        signs = signs.replace(word, "")
    for pattern, code, what, remedy in _TROUBLES:
        if re.search(pattern, signs, re.I):
            remedy = (remedy or client.log_in).format(host=host)
            return SlipwayError(code, f"{what.format(host=host)}: {said}", where=where, remedy=remedy)
    return SlipwayError(Exit.UNAVAILABLE, f"{host} gives no answer that we know: {said}", where=where)


def git_host(url: str) -> str:
    """The server of a repository's URL; the URL itself where that names none."""
    return url.partition("://")[2].partition("/")[0] or url


def no_tag(url: str, tag: str) -> SlipwayError:
    """What there is to say of a repository that answers, and does not have the tag."""
    return SlipwayError(Exit.NO_INPUT, f"there is no tag {tag!r}", where=url, remedy="check the tag's name")

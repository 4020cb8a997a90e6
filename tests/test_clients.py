"""images/machine/clients.py: what the words of docker and git mean."""

from __future__ import annotations

import pytest

from images.machine import clients
from images.machine.clients import DOCKER, GIT, Client
from slipway.errors import Exit

HOST = "r.example:5000"
WHERE = f"{HOST}/404/x:500"
URL = "https://r.example:5000/v2/404/x/manifests/500"


@pytest.mark.parametrize(
    ("client", "said", "code", "what"),
    [  # as buildx 0.13.1 and git 2.39.5 have said it
        (DOCKER, f'failed to do request: Head "{URL}": dial tcp: lookup r.example on 10.0.0.53:53: no such host',
         Exit.UNAVAILABLE, "there is no host r.example:5000"),
        (GIT, f"unable to access '{URL}': Could not resolve host: r.example", Exit.UNAVAILABLE, "there is no host"),
        (DOCKER, f'failed to do request: Head "{URL}": tls: failed to verify certificate: x509: certificate signed by '
         "unknown authority", Exit.UNAVAILABLE, "no trust in r.example:5000's TLS"),
        (GIT, f"unable to access '{URL}': gnutls_handshake() failed", Exit.UNAVAILABLE, "no trust in"),
        (DOCKER, f'failed to do request: Head "{URL}": dial tcp 1.2.3.4:500: connect: connection refused',
         Exit.UNAVAILABLE, "r.example:5000 cannot be reached"),
        (DOCKER, f'failed to do request: Head "{URL}": EOF', Exit.UNAVAILABLE, "r.example:5000 cannot be reached"),
        (DOCKER, f"unexpected status from HEAD request to {URL}: 401 Unauthorized", Exit.NOT_PERMITTED, "us (401)"),
        (DOCKER, f"unexpected status from HEAD request to {URL}: 403 Forbidden", Exit.NOT_PERMITTED,
         "denies access to this login (403)"),
        (DOCKER, f"unexpected status from HEAD request to {URL}: 402 Payment Required", Exit.NOT_PERMITTED,
         "requires a subscription (402)"),
        (GIT, f"unable to access '{URL}': The requested URL returned error: 403", Exit.NOT_PERMITTED, "login (403)"),
        (DOCKER, "toomanyrequests: You have reached your unauthenticated pull rate limit", Exit.UNAVAILABLE, "(429)"),
        (DOCKER, "pull access denied, repository does not exist or may require authorization: authorization failed: "
         "no basic auth credentials", Exit.NOT_PERMITTED, "us (401)"),
        (GIT, "could not read Username for 'https://r.example:5000': terminal prompts disabled",
         Exit.NOT_PERMITTED, "us (401)"),
        (DOCKER, f"{WHERE}: not found", Exit.NO_INPUT, "has no such image, tag or repository (404)"),
        (DOCKER, f"unexpected status from HEAD request to {URL}: 429 Too Many Requests", Exit.UNAVAILABLE, "(429)"),
        (GIT, f"unable to access '{URL}': The requested URL returned error: 503", Exit.UNAVAILABLE, "(5xx)"),
        (DOCKER, f"unexpected status from HEAD request to {URL}: 418 I'm a Teapot", Exit.UNAVAILABLE, "that we know"),
    ],
)  # fmt: skip
def test_a_failure_says_what_it_is(client: Client, said: str, code: Exit, what: str) -> None:
    """Digits of names, ports and paths are no status: the reference here holds 404 and 500."""
    word = "ERROR" if client is DOCKER else "fatal"
    found = clients.trouble(client, f"warning: 401\n{word}: {said}\nand the rest\n", WHERE, HOST)
    assert found.code == code
    assert what in found.what and found.what.endswith(said) and found.where == WHERE


def test_who_is_not_let_in_is_told_how_to_log_in() -> None:
    found = [clients.trouble(c, "fatal: error: 401", "nvcr.io/x:1", "nvcr.io").remedy for c in (DOCKER, GIT)]
    assert found[0].startswith("run: docker login nvcr.io (nvcr.io: user $oauthtoken")
    assert found[1].startswith("give git a credential helper for nvcr.io")
    refused = clients.trouble(DOCKER, "ERROR: x: 403 Forbidden", "nvcr.io/x:1", "nvcr.io").remedy
    assert refused.endswith("a proxy may also answer 403: no_proxy=nvcr.io bypasses it")


@pytest.mark.parametrize(
    ("url", "host"),
    [("https://r.example:5000/a/b.git", "r.example:5000"), ("file:///a", "file:///a"), ("/a/b", "/a/b")],
)
def test_a_repositorys_host(url: str, host: str) -> None:
    assert clients.git_host(url) == host

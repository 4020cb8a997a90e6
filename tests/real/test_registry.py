"""images/locking/registry.py against Debian's docker-registry, and beside it against servers that have trouble."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from images.locking import registry as asked
from images.locking.model import Base, Entry, Environment, Lock, Repository
from images.locking.registry import Checked
from slipway.errors import Exit, SlipwayError

from .registry import DOCKER, OCI, PASSWORD, USER, push_image, push_index, registry
from .support import PATIENCE, PROJECT, Done, Running, until

pytestmark = pytest.mark.real
TROUBLED = PROJECT / "tests" / "standins" / "registry.py"


@pytest.fixture(autouse=True)
def no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking a registry takes no engine, and here nobody is logged in anywhere."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/dead.sock")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


@pytest.fixture(autouse=True, params=["docker", "skopeo"])
def client(request: pytest.FixtureRequest, no_docker: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who asks registries: docker or, where there is none, skopeo."""
    if request.param == "skopeo":
        monkeypatch.setenv("PATH", str(no_docker))
    return str(request.param)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@contextmanager
def troubled(*words: str) -> Iterator[int]:
    """The stand-in that has trouble; its port."""
    with subprocess.Popen([sys.executable, "-IS", TROUBLED, *words], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        try:
            yield int(program.stdout.readline())
        finally:
            program.kill()


@pytest.fixture(scope="module")
def trouble() -> Iterator[int]:
    with troubled() as found:
        yield found


def requests(port: int) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/asked") as answer:
        return str(answer.read().decode()).splitlines()


def entry(image: str, tag: str, digest: str = "", release: str = "1.0") -> Entry:
    main = Environment(python="/opt/venv/bin/python", packages={})
    base = Base(image=image, tag=tag, digest=digest or None)
    return Entry(
        library="boats", release=release, flavour="cuda", base=base, python="3.12", environments={"main": main}
    )


def lock_of(*entries: Entry) -> Lock:
    return Lock(schema=1, matrix="", libraries={}, entries={e.name: e for e in entries})


@pytest.mark.parametrize("kind", [DOCKER, OCI])
def test_an_index_gives_its_digest_and_those_of_its_platforms(port: int, kind: str) -> None:
    name = f"index/{kind.rpartition('.')[2]}"
    images = {a: push_image(port, name, a, architecture=a, kind=kind) for a in ("amd64", "arm64")}
    digest = push_index(port, name, "1", images, kind=kind)
    platforms = {"linux/amd64": images["amd64"], "linux/arm64": images["arm64"]}
    assert asked.resolve(f"127.0.0.1:{port}/{name}:1") == (digest, platforms)
    assert asked.resolve(f"127.0.0.1:{port}/{name}:1@{digest}") == (digest, platforms)


@pytest.mark.parametrize("kind", [DOCKER, OCI])
def test_a_single_manifest_has_the_platform_of_its_config(port: int, kind: str) -> None:
    digest = push_image(port, "single", "1", architecture="arm64", kind=kind)
    assert asked.resolve(f"127.0.0.1:{port}/single:1") == (digest, {"linux/arm64": digest})


def test_a_tag_that_is_not_there(port: int) -> None:
    push_image(port, "org/boats", "1")
    for name in ("org/boats:2", "org/botas:1", f"org/boats:1@sha256:{'0' * 64}"):
        with pytest.raises(SlipwayError, match="no such image, tag or repository") as e:
            asked.resolve(f"127.0.0.1:{port}/{name}")
        assert (e.value.code, e.value.where) == (Exit.NO_INPUT, f"127.0.0.1:{port}/{name}")


def test_a_moved_tag_is_seen_and_a_pin_to_one_platform_holds(port: int) -> None:
    image, name = f"127.0.0.1:{port}/moving", "moving"
    amd64 = push_image(port, name, "amd64")
    before = push_index(port, name, "26.06", {"amd64": amd64})
    whole, part = entry(image, "26.06", before), entry(image, "26.06", amd64, release="2.0")
    unresolved = entry(image, "26.06", release="3.0")
    lock = lock_of(whole, part, unresolved)
    rows = asked.check(lock)
    assert rows == [
        Checked(whole.name, "base", before, before),
        Checked(part.name, "base", amd64, amd64),
        Checked(unresolved.name, "base", "", before),
    ]
    assert asked.exit_code(rows[:2]) == Exit.OK and asked.exit_code(rows) == Exit.DIFFERS

    after = push_index(port, name, "26.06", {"amd64": push_image(port, name, "amd64", note="rebuilt")})
    assert after != before
    rows = asked.check(lock)
    assert [(r.old, r.new) for r in rows] == [(before, after), (amd64, after), ("", after)]
    assert str(rows[0]) == f"boats/1.0-cuda: base: {before} -> {after}"


def test_a_login_is_wanted_and_used(tmp_path: Path, client: str) -> None:
    with registry(tmp_path, login=True) as port:
        digest, reference = push_image(port, "private", "1"), f"127.0.0.1:{port}/private:1"
        config = tmp_path / "docker" / "config.json"
        config.parent.mkdir()
        for password in (None, "wrong"):
            if password:
                config.write_text(login(port, password))
            with pytest.raises(SlipwayError, match="does not let us") as e:
                asked.resolve(reference)
            assert e.value.code == Exit.NOT_PERMITTED
            assert e.value.remedy.startswith(f"run: {client} login 127.0.0.1:{port} (")
        config.write_text(login(port, PASSWORD))
        assert asked.resolve(reference).digest == digest


def login(port: int, password: str) -> str:
    word = base64.b64encode(f"{USER}:{password}".encode()).decode()
    return json.dumps({"auths": {f"127.0.0.1:{port}": {"auth": word}}})


@pytest.mark.parametrize(
    ("kind", "code", "what"),
    [
        ("401", Exit.NOT_PERMITTED, "does not let us (401)"),
        ("402", Exit.NOT_PERMITTED, "requires a subscription (402)"),
        ("403", Exit.NOT_PERMITTED, "denies access to this login (403)"),
        ("404", Exit.NO_INPUT, "has no such image, tag or repository (404)"),
        ("429", Exit.UNAVAILABLE, "has had too many requests (429)"),
        ("500", Exit.UNAVAILABLE, "has a fault of its own (5xx)"),
        ("503", Exit.UNAVAILABLE, "has a fault of its own (5xx)"),
        ("418", Exit.UNAVAILABLE, "gives no answer that we know"),
        ("closes", Exit.UNAVAILABLE, "cannot be reached"),
    ],
)
def test_trouble_is_named(trouble: int, client: str, kind: str, code: Exit, what: str) -> None:
    if client == "skopeo" and kind in ("403", "429"):
        pytest.skip("skopeo says of 403 that it is denied, as of 401, and tries for minutes after 429")
    asks: list[Callable[[], object]] = [
        lambda: asked.resolve(f"127.0.0.1:{trouble}/{kind}/boats:1"),
        lambda: asked.git_tag(f"http://127.0.0.1:{trouble}/{kind}/boats.git", "v1"),
    ]
    for ask in asks:
        with pytest.raises(SlipwayError) as e:
            ask()
        assert (e.value.code, e.value.what.partition(": ")[0]) == (code, f"127.0.0.1:{trouble} {what}")


def test_nobody_is_there() -> None:
    for ask in (lambda: asked.resolve("127.0.0.1:1/x:1"), lambda: asked.git_tag("http://127.0.0.1:1/x", "v1")):
        with pytest.raises(SlipwayError, match=r"127\.0\.0\.1:1 cannot be reached") as e:
            ask()
        assert e.value.code == Exit.UNAVAILABLE


def test_a_certificate_that_nobody_knows(tmp_path: Path) -> None:
    pem = tmp_path / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    make += ["-subj", "/CN=0.0.0.0", "-addext", "subjectAltName=IP:0.0.0.0", "-keyout", pem, "-out", tmp_path / "cert"]
    subprocess.run(make, check=True, capture_output=True)
    pem.write_text(pem.read_text() + (tmp_path / "cert").read_text())
    with troubled(str(pem)) as port:
        # 0.0.0.0 is this machine too, and no name for which clients try plain HTTP.
        for ask in (
            lambda: asked.resolve(f"0.0.0.0:{port}/401/x:1"),
            lambda: asked.git_tag(f"https://0.0.0.0:{port}/401/x", "v1"),
        ):
            with pytest.raises(SlipwayError, match=f"no trust in 0.0.0.0:{port}'s TLS") as e:
                ask()
            assert e.value.code == Exit.UNAVAILABLE


def test_each_place_is_asked_once_and_trouble_stays_in_its_row(port: int, trouble: int, client: str) -> None:
    digest = push_image(port, "good", "1")
    gone = f"127.0.0.1:{trouble}/404/by-{client}"
    good = entry(f"127.0.0.1:{port}/good", "1", digest)
    lock = lock_of(good, entry(gone, "9", "sha256:1", release="2.0"), entry(gone, "9", "sha256:1", release="3.0"))
    rows = asked.check(lock)
    assert [(r.new, r.problem and r.problem.code) for r in rows] == [(digest, None)] + [("", Exit.NO_INPUT)] * 2
    assert asked.exit_code(rows) == Exit.NO_INPUT
    asked_for = [r.partition(" ")[2] for r in requests(trouble) if f"/404/by-{client}/" in r]
    assert asked_for == [f"/v2/404/by-{client}/manifests/9"]


def clients(port: int) -> list[str]:
    """Programs that talk to the part of the stand-in that never answers."""
    words = [p.read_bytes().decode(errors="replace") for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
    return [w for w in words if f"127.0.0.1:{port}/hangs/" in w]


def test_patience_ends_and_leaves_no_program_behind(trouble: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "_SECONDS", 0.5)
    hanging = entry(f"127.0.0.1:{trouble}/hangs/boats", "1")
    url = f"http://127.0.0.1:{trouble}/hangs/boats.git"
    repository = Repository(url=url, tag="v1", path="/opt/boats")
    lock = lock_of(hanging, Entry(**{**entry_fields(hanging), "release": "2.0", "repositories": {"boats": repository}}))
    rows = asked.check(lock)
    assert [r.problem and r.problem.code for r in rows] == [Exit.UNAVAILABLE] * 3
    assert all("timed out after 0.5 s" in str(r) for r in rows)
    until("the end of every client", lambda: not clients(trouble))


def entry_fields(found: Entry) -> dict[str, object]:
    return {name: getattr(found, name) for name in found.__struct_fields__}


def test_ctrl_c_ends_the_clients_too() -> None:
    code = "import sys; from images.locking import registry; registry.git_tag(sys.argv[1], 'v1')"
    with troubled() as port:
        argv = [sys.executable, "-c", code, f"http://127.0.0.1:{port}/hangs/boats.git"]
        with subprocess.Popen(argv, cwd=PROJECT, env=dict(os.environ), stderr=subprocess.PIPE, text=True) as program:
            until("a request", lambda: requests(port))
            program.send_signal(signal.SIGINT)
            assert "KeyboardInterrupt" in program.communicate(timeout=PATIENCE)[1]
        until("the end of every client", lambda: not clients(port))


MATRIX = """\
schema: 1
bootstrap: {{}}
libraries:
  boats:
    title: Boats
    homepage: https://example.org/boats
    default: {{cuda: "26.06"}}
    cuda:
      "26.06":
        base: {{image: "127.0.0.1:{port}/org/boats", tag: "26.06"}}
        python: "3.12"
        environments:
          main: {{python: /opt/venv/bin/python, packages: {{torch: 2.12.0}}}}
"""


def test_the_commands_over_a_tag_that_moves_and_a_registry_that_goes_away(tmp_path: Path) -> None:
    def lock(*words: str) -> Done:
        command = [str(Path(sys.executable).parent / "images"), "lock", *words]
        return Running(command, tmp_path / "project", dict(os.environ)).finish()

    matrix = tmp_path / "project" / "images" / "matrix.yaml"
    matrix.parent.mkdir(parents=True)
    (tmp_path / "project" / "versions.lock").touch()
    name = "boats/26.06-cuda: base"
    with registry(tmp_path) as port:
        matrix.write_text(MATRIX.format(port=port))
        done = lock()
        assert done.code == Exit.UNAVAILABLE and "has no such image, tag or repository (404)" in done.err, done
        before = push_index(port, "org/boats", "26.06", {"amd64": push_image(port, "org/boats", "a")})
        done = lock("--check")
        assert (done.code, done.out) == (1, f"{name}: unresolved -> {before}\n"), done
        assert lock().code == 0
        done = lock("--check")
        assert (done.code, done.out) == (0, f"{name}: same\n"), done

        after = push_index(port, "org/boats", "26.06", {"amd64": push_image(port, "org/boats", "a", note="moved")})
        done = lock("--check")
        assert (done.code, done.out) == (1, f"{name}: {before} -> {after}\n"), done
        assert lock().code == 0 and lock("--check").code == 1, "what is locked stays until it is upgraded"
        assert lock("--upgrade", "boats").code == 0
        assert lock("--check").code == 0
    done = lock("--check")
    assert done.code == Exit.UNAVAILABLE and f"127.0.0.1:{port} cannot be reached" in done.out, done

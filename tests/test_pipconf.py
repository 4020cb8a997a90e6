"""images/machine/pipconf.py: what this machine's pip says about where packages are."""

from __future__ import annotations

from pathlib import Path

import pytest

from images.machine import pipconf
from images.machine.pipconf import PipConfig


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose pip was never configured."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT", "SSL_CERT_FILE", "PIP_TIMEOUT",
                 "PIP_DEFAULT_TIMEOUT", "PIP_TRUSTED_HOST", "PIP_PROXY"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)


def test_a_machine_without_configuration_needs_nothing() -> None:
    assert pipconf.read() == PipConfig()
    assert PipConfig().file() == "[global]\n"


def test_a_program_called_pip_in_the_folder_one_stands_in_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    assert pipconf.read() == PipConfig()
    assert not (tmp_path / "ran").exists()


def test_a_file_is_read_and_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels, more, bundle = tmp_path / "wheels", tmp_path / "more", tmp_path / "ca.pem"
    wheels.mkdir()
    more.mkdir()
    bundle.touch()
    (tmp_path / "pip.conf").write_text(
        f"[global]\nfind-links = {wheels}\n  file://{more}\n  {tmp_path}/missing\ncert = {bundle}\n"
        "index-url = https://a.example/simple\nextra-index-url = https://b.example/simple file:///opt/simple\n"
        "no-cache-dir = true\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_INDEX_URL", "https://c.example/simple")
    found = pipconf.read()
    assert (found.find_links, found.cert) == ((wheels, more), bundle)
    assert dict(found.index) == {
        "index-url": "https://c.example/simple", "extra-index-url": "https://b.example/simple"
    }  # fmt: skip
    assert found.file() == (
        "[global]\nindex-url = https://c.example/simple\nextra-index-url = https://b.example/simple\n"
    )  # fmt: skip


def test_a_bundle_that_is_not_there_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CERT", "/nowhere/ca.pem")
    assert pipconf.read().cert is None


def test_the_bundle_of_the_environment_is_the_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.pem").touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert pipconf.read().cert == tmp_path / "ca.pem"


def test_a_wheel_is_found_by_name_and_whole_version(tmp_path: Path) -> None:
    for name in ("my_lib-1.0-py3-none-any.whl", "my_lib-1.0.1-py3-none-any.whl", "lib-1.0-py3-none-any.whl"):
        (tmp_path / name).touch()
    links = PipConfig(find_links=(tmp_path / "empty", tmp_path))
    assert links.wheels_for("my-lib==1.0") == (tmp_path, tmp_path / "my_lib-1.0-py3-none-any.whl")
    assert links.wheels_for("my-lib==1") is None
    assert PipConfig().wheels_for("my-lib==1.0") is None


PLAIN, PRIVATE = "http://proxy.example:3128", "http://me:secret@proxy.example:3128"


@pytest.mark.parametrize(
    ("given", "by_name", "own"),
    [
        ({"HTTPS_PROXY": PLAIN, "no_proxy": "10.0.0.0/8"}, ("HTTPS_PROXY", "no_proxy"), None),
        ({"https_proxy": PRIVATE, "http_proxy": PLAIN, "NO_PROXY": "a"}, ("http_proxy", "NO_PROXY"), PRIVATE),
        ({"HTTP_PROXY": PRIVATE}, (), PRIVATE),
        ({"HTTPS_PROXY": "http://token@proxy.example"}, (), "http://token@proxy.example"),
        ({"ALL_PROXY": PRIVATE}, (), PRIVATE),
        ({"HTTPS_PROXY": PRIVATE, "PIP_PROXY": PLAIN}, (), PLAIN),
        ({"PIP_PROXY": PRIVATE}, (), PRIVATE),
        ({"HTTPS_PROXY": ""}, (), None),
    ],
)
def test_a_proxy_is_named_and_one_with_credentials_is_pips_own(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], by_name: tuple[str, ...], own: str | None
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = pipconf.read()
    assert found.proxies == by_name
    assert found.file() == "[global]\n" + (f"proxy = {own}\n" if own else "")

"""entrypoints/verify.py as a program, on packages that are folders of the right names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

VERIFY = Path(__file__).parent.parent / "entrypoints" / "verify.py"
OPEN_DRIVER = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder)\nGCC …\n"
)
CLOSED_DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\n"


class Image:
    """A plan, an entry, and a folder on sys.path that stands for what is installed."""

    def __init__(self, root: Path) -> None:
        self.root, self.site, self.output = root, root / "site", root / "output"
        self.site.mkdir()
        self.output.mkdir()
        self.env = {**os.environ, "PYTHONPATH": str(self.site), "HOME": str(root)}
        self.packages: dict[str, str] = {}
        self.plan: dict[str, Any] = {
            "step": "sft/automodel",
            "library": "automodel",
            "release": "0.7.0",
            "flavour": "cpu",
            "entry": "a" * 64,
            "environments": {"main": {"python": sys.executable, "packages": self.packages}},
            "allow_drift": False,
            "driver": None,
            "shape": {"nodes": 1, "gpus": 0, "procs": 1},
            "mounts": [{"target": str(self.output), "readonly": False}],
        }
        self.entry: dict[str, Any] | None = {
            key: self.plan[key] for key in ("library", "release", "flavour", "entry", "environments")
        }

    def install(self, *names: str) -> None:
        for name in names:
            (self.site / name).mkdir()

    def verify(self, command: str, *options: str) -> tuple[int, str, list[str]]:
        """Exit code, stdout, lines of stderr."""
        (self.root / "plan.json").write_text(json.dumps(self.plan))
        if self.entry is not None:
            (self.root / "entry.json").write_text(json.dumps(self.entry))
        words = [sys.executable, str(VERIFY), command, "--entry", str(self.root / "entry.json"), *options]
        done = subprocess.run(words, env=self.env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr.splitlines()

    def run(self) -> tuple[int, list[str]]:
        options = ["--plan", str(self.root / "plan.json"), "--out", str(self.root / "versions.json")]
        code, _, err = self.verify("run", *options, "--driver-file", str(self.root / "driver"))
        return code, err

    @property
    def found(self) -> dict[str, Any]:
        return json.loads((self.root / "versions.json").read_text())


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path)


def test_what_is_as_planned_passes_and_is_written_down(image: Image) -> None:
    image.install("torch-2.13.0+cpu.dist-info")
    image.packages["torch"] = "2.13.0+cpu"
    assert image.run() == (0, [])
    main = image.found["environments"]["main"]
    assert image.found["entry"] == "a" * 64
    assert (main["python"], main["version"]) == (sys.executable, sys.version.split()[0])
    assert main["packages"]["torch"] == "2.13.0+cpu"
    assert not list(image.output.iterdir())  # the probe of the mount is gone


@pytest.mark.parametrize(
    ("folder", "name", "version"),
    [
        ("Nemo_Automodel-0.7.0.dist-info", "nemo-automodel", "0.7.0"),
        ("ruamel.yaml-0.18.0.dist-info", "ruamel_yaml", "0.18.0"),
        ("PyYAML-6.0.egg-info", "pyyaml", "6.0"),
        ("zope.interface-5.4-py3.11-linux-x86_64.egg-info", "zope-interface", "5.4"),
        ("torch-2.13.0a0+gitabc.nv26.8.dist-info", "torch", "2.13.0a0+gitabc.nv26.8"),
    ],
)
def test_names_and_versions_come_from_folder_names(image: Image, folder: str, name: str, version: str) -> None:
    image.install(folder)
    image.packages[name] = version
    assert image.run() == (0, [])


def test_a_source_checkout_has_its_version_inside(image: Image) -> None:
    image.install("megatron_bridge.egg-info")
    (image.site / "megatron_bridge.egg-info" / "PKG-INFO").write_text(
        "Metadata-Version: 2.1\nVersion: 0.6.2\n\nVersion: 9\n"
    )
    image.packages["megatron-bridge"] = "0.6.2"
    assert image.run() == (0, [])


@pytest.mark.parametrize(
    ("found", "expected", "code"),
    [
        ("2.13.0", "2.13.0", 0),
        ("2.13.0", "2.13", 0),
        ("2.13.0+cpu", "2.13.0", 78),
        ("2.13.0", "2.13.1", 78),
        ("2.13.0a0+git1", ">=2.13.0a0,<2.14", 0),
        ("2.13.0a0+git1", "==2.13.0a0", 0),
        ("2.12.9", ">=2.13.0a0,<2.14", 78),
        ("2.14.0", ">=2.13.0a0,<2.14", 78),
        ("2.14.1", "~=2.14", 0),
    ],
)
def test_exact_versions_and_specifiers(image: Image, found: str, expected: str, code: int) -> None:
    image.install(f"torch-{found}.dist-info")
    image.packages["torch"] = expected
    refused = [f"environment main: torch: found {found}, expected {expected}"] if code else []
    assert image.run() == (code, refused)


def test_one_line_for_each_difference(image: Image) -> None:
    image.install("torch-2.12.0.dist-info")
    image.packages |= {"torch": "2.13.0", "transformers": "5.18.0"}
    assert image.run() == (
        78,
        [
            "environment main: torch: found 2.12.0, expected 2.13.0",
            "environment main: transformers: not installed, expected 5.18.0",
        ],
    )


def test_the_first_on_the_path_counts(image: Image, tmp_path: Path) -> None:
    image.install("torch-2.13.0.dist-info")
    (tmp_path / "later" / "torch-2.12.0.dist-info").mkdir(parents=True)
    image.env["PYTHONPATH"] += f":{tmp_path / 'later'}"
    image.packages["torch"] = "2.13.0"
    assert image.run() == (0, [])


def test_two_versions_side_by_side_are_no_version(image: Image) -> None:
    image.install("torch-2.13.0.dist-info", "torch-2.12.0.dist-info")
    image.packages["torch"] = "2.13.0"
    assert image.run() == (78, ["environment main: torch: found 2.12.0 and 2.13.0, expected 2.13.0"])


def test_another_environment_is_asked_by_its_own_interpreter(image: Image, tmp_path: Path) -> None:
    venv.create(tmp_path / "worker", with_pip=False)
    python = tmp_path / "worker" / "bin" / "python"
    (site,) = (tmp_path / "worker" / "lib").glob("python*/site-packages")
    (site / "vllm-0.27.1.dist-info").mkdir()
    image.plan["environments"]["worker"] = {"python": str(python), "packages": {"vllm": "0.27.1"}}
    assert image.run() == (0, [])
    assert "vllm" not in image.found["environments"]["main"]["packages"]


def test_a_missing_interpreter_is_a_difference(image: Image) -> None:
    worker = image.plan["environments"]["worker"] = {"python": "/no/such/python", "packages": {"vllm": "1"}}
    who = f"uid {os.getuid()} gid {os.getgid()}"
    assert image.run() == (
        78, [f"environment worker: there is no interpreter /no/such/python that {who} can reach"]
    )  # fmt: skip
    worker["required"] = False
    assert image.run() == (0, []), "a base may come without it"


def test_what_has_to_be_importable_is_imported_and_a_missing_driver_is_no_difference(image: Image) -> None:
    modules = {"keel": "", "sail": "import mast", "oars": "raise ImportError('libcuda.so.1: cannot open')"}
    for name, text in modules.items():
        (image.site / f"{name}.py").write_text(text)
    image.plan["environments"]["main"]["imports"] = list(modules)
    assert image.entry is not None
    code, out, err = image.verify("image", "--own", str(image.root / "entry.json"))
    who = f"uid {os.getuid()} gid {os.getgid()}"
    lost = "import sail: ModuleNotFoundError: No module named 'mast'"
    assert (code, f"environment main: {lost}, as {who}" in err) == (1, True), err
    rows = [line.split(maxsplit=2) for line in out.partition("main: imports\n")[2].splitlines()[:3]]
    assert rows[0] == ["keel", "imported", "as expected"] and rows[2] == ["oars", "imported", "needs a GPU's driver"]
    assert not [line for line in err if "keel" in line or "oars" in line]


def test_an_official_image_that_differs_says_where_to_read_on(image: Image) -> None:
    image.packages["torch"] = "2.13.0"
    assert image.entry is not None
    for flavour, says in (("cpu", False), ("cuda", True)):
        image.entry["flavour"] = flavour
        code, _, err = image.verify("image")
        assert (code, "docs/first-real-build.md" in err[-1]) == (1, says)


def test_packages_whose_files_are_hidden_are_no_surprise_for_the_step(image: Image) -> None:
    image.install("torch-2.13.0.dist-info", "ray-2.55.1.dist-info")
    cache = image.root / "cache"
    cache.write_text("")
    link = image.site / "torch-2.13.0.dist-info" / "METADATA"
    link.symlink_to(cache)
    assert image.run() == (0, [])
    cache.unlink()
    code, (line,) = image.run()
    assert code == 78
    assert line.startswith(f"environment main: torch-2.13.0.dist-info is linked to {cache}, which uid ")
    assert line.endswith("something hides it, such as a home on /root or a mount on a cache")


def test_an_image_of_another_entry_is_refused(image: Image) -> None:
    assert image.entry is not None
    image.entry |= {"entry": "b" * 64, "release": "0.6.0"}
    code, (line,) = image.run()
    assert code == 78
    assert "bbbbbbbbbbbb (automodel 0.6.0 cpu)" in line and "aaaaaaaaaaaa (automodel 0.7.0 cpu)" in line


def test_an_image_without_an_entry_is_refused(image: Image) -> None:
    image.entry = None
    code, (line,) = image.run()
    assert code == 78
    assert "entry.json: found nothing, expected the entry aaaaaaaaaaaa" in line


def test_drift_that_is_allowed_is_said_but_lifts_nothing_else(image: Image) -> None:
    image.plan["allow_drift"] = True
    image.packages["torch"] = "2.13.0"
    assert image.run() == (0, ["drift: environment main: torch: not installed, expected 2.13.0"])
    image.plan["mounts"].append({"target": "/no/such/mount", "readonly": True})
    code, (_, mount) = image.run()
    assert code == 78
    assert mount.startswith("/no/such/mount: nothing is mounted there")


@pytest.mark.parametrize("readonly", [True, False])
def test_a_mount_that_only_others_may_write(image: Image, readonly: bool) -> None:
    """/proc/sys is a directory in which nobody, root included, can make a file."""
    image.plan["mounts"] = [{"target": "/proc/sys", "readonly": readonly}]
    code, err = image.run()
    assert code == (0 if readonly else 78)
    if not readonly:
        assert err[0].startswith(f"/proc/sys: uid {os.getuid()} gid {os.getgid()} cannot write there (")


def test_a_mounted_file_is_checked_as_a_file(image: Image, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    image.plan["mounts"] = [{"target": str(tmp_path / "token"), "readonly": readonly} for readonly in (True, False)]
    assert image.run() == (0, [])
    assert (tmp_path / "token").read_text() == "x"


@pytest.mark.parametrize(
    ("text", "minimum", "line"),
    [
        (OPEN_DRIVER, "570.86", None),
        (CLOSED_DRIVER, "535.129.03", None),
        (CLOSED_DRIVER, None, None),
        (CLOSED_DRIVER, "580.65.06", "driver: found 535.129.03, expected at least 580.65.06"),
        ("something else", "580.65.06", "driver: no version in {file}, expected at least 580.65.06"),
        (None, "580.65.06", "driver: {file} is missing: the container has no GPU, expected 4"),
    ],
)
def test_the_driver_of_the_host(image: Image, text: str | None, minimum: str | None, line: str | None) -> None:
    file = image.root / "driver"
    if text is not None:
        file.write_text(text)
    image.plan |= {"flavour": "cuda", "driver": minimum, "shape": {"nodes": 1, "gpus": 4, "procs": 4}}
    assert image.run() == ((78, [line.format(file=file)]) if line else (0, []))


def test_no_gpus_need_no_driver(image: Image) -> None:
    image.plan |= {"flavour": "cuda", "driver": "580.65.06"}
    assert image.run() == (0, [])


def test_without_a_plan_it_says_what_to_mount(image: Image) -> None:
    code, _, (line,) = image.verify("run", "--plan", str(image.root / "none.json"))
    assert code == 78
    assert "mount the run's slipway/ directory at /slipway" in line


def path_of(image: Image, python: str) -> None:
    """PATH of processes and of login shells."""
    folder = Path(python).parent
    image.env["PATH"] = f"{folder}:/usr/bin:/bin"
    (image.root / ".bash_profile").write_text(f'PATH="{folder}:/usr/bin:/bin"\n')


def test_image_prints_what_is_there(image: Image) -> None:
    path_of(image, sys.executable)
    image.install("torch-2.13.0+cpu.dist-info")
    image.packages["torch"] = "2.13.0+cpu"
    code, out, err = image.verify("image")
    assert (code, err) == (0, [])
    assert out.splitlines()[0] == f"main: {sys.executable} (Python {sys.version.split()[0]})"
    assert out.splitlines()[1].split() == ["torch", "2.13.0+cpu", "as", "expected"]


def test_image_names_every_difference(image: Image, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "python").symlink_to(sys.executable)
    path_of(image, str(other / "python"))
    image.packages |= {"torch": "2.13.0", "transformers": "5.18.0"}
    code, _, err = image.verify("image")
    assert code == 1
    assert err == [
        "environment main: torch: not installed, expected 2.13.0",
        "environment main: transformers: not installed, expected 5.18.0",
        f"PATH: the first python is {other}/python, expected {sys.executable}",
        f"PATH of a login shell: the first python is {other}/python, expected {sys.executable}",
    ]


def test_an_image_has_an_entry(image: Image) -> None:
    image.entry = None
    code, _, (line,) = image.verify("image")
    assert code == 1
    assert line == f"{image.root}/entry.json: there is no entry in this image"


COMMITS = ("a" * 40, "b" * 40)


def expect_repository(image: Image, commit: str | None, recorded: dict[str, Any] | None = None) -> Path:
    """Entry and plan expect nemo-rl at `commit`; the image says `recorded` of it. Returns the checkout's folder."""
    checkout = image.root / "nemo-rl"
    for expecting in (image.entry, image.plan):
        assert expecting is not None
        expecting["repositories"] = {"nemo-rl": {"path": str(checkout), "commit": commit}}
    if recorded is not None:
        (image.root / "repositories.json").write_text(json.dumps({"nemo-rl": recorded}))
    return checkout


def verify_both(image: Image) -> tuple[list[str], str]:
    """The differences, which `image` and `run` have to find alike, and the row of the table."""
    path_of(image, sys.executable)
    where = ("--repositories", str(image.root / "repositories.json"))
    code, out, err = image.verify("image", *where)
    plan = ("--plan", str(image.root / "plan.json"), "--out", str(image.root / "versions.json"))
    assert image.verify("run", *plan, *where)[::2] == (78 if err else 0, err)
    assert code == (1 if err else 0)
    return err, out.partition("repositories\n")[2].strip()


@pytest.mark.parametrize(
    ("recorded", "difference", "row"),
    [
        ({"commit": COMMITS[0], "clean": True}, "", "as expected"),
        ({"commit": COMMITS[1], "clean": True}, f"found {COMMITS[1]}", "bbbbbbbbbbbb"),
        ({"commit": COMMITS[0], "clean": False}, f"found {COMMITS[0]} with changes", "aaaaaaaaaaaa with changes"),
        ({"commit": None, "left_out": True}, "", "left out"),
        ({"commit": COMMITS[1], "clean": False, "left_out": True}, "", "left out"),
        (None, "", "unknown"),
    ],
)
def test_the_commit_of_a_repository(image: Image, recorded: dict[str, Any] | None, difference: str, row: str) -> None:
    expect_repository(image, COMMITS[0], recorded)
    expected = [f"repository nemo-rl: {difference}, expected {COMMITS[0]}"] if difference else []
    differences, table = verify_both(image)
    assert differences == expected
    assert table.split(maxsplit=2) == ["nemo-rl", "aaaaaaaaaaaa", row]


@pytest.mark.parametrize("how", ["detached", "loose", "packed"])
def test_a_checkout_of_the_base_says_its_commit(image: Image, how: str) -> None:
    git = expect_repository(image, COMMITS[0]) / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text(f"{COMMITS[1]}\n" if how == "detached" else "ref: refs/heads/main\n")
    if how == "loose":
        (git / "refs" / "heads" / "main").write_text(f"{COMMITS[1]}\n")
    (git / "packed-refs").write_text(f"# pack-refs\n{COMMITS[how != 'packed']} refs/heads/main\n^{COMMITS[0]}\n")
    if how == "packed":
        (git / "packed-refs").write_text(f"{COMMITS[0]} refs/heads/other\n{COMMITS[1]} refs/heads/main\n")
    assert verify_both(image)[0] == [f"repository nemo-rl: found {COMMITS[1]}, expected {COMMITS[0]}"]


def test_an_unresolved_commit_is_shown_and_not_compared(image: Image) -> None:
    expect_repository(image, None, {"commit": COMMITS[1], "clean": True})
    assert verify_both(image) == ([], f"{'nemo-rl':30} {'unresolved':30} bbbbbbbbbbbb")


@pytest.mark.parametrize(("version", "same"), [("", True), (".0", False), ("9", False)])
def test_the_version_of_python_as_a_prefix(image: Image, version: str, same: bool) -> None:
    expected = f"{sys.version_info[0]}.{sys.version_info[1]}{version if version != '.0' else '.99'}"
    image.plan["environments"]["main"]["version"] = expected
    here = sys.version.split()[0]
    assert image.run() == ((0, []) if same else (78, [f"environment main: Python: found {here}, expected {expected}"]))
    path_of(image, sys.executable)
    code, out, _ = image.verify("image")
    assert code == (0 if same else 1)
    assert out.splitlines()[1].split() == ["python", expected, here]


def test_variables_of_the_image(image: Image) -> None:
    path_of(image, sys.executable)
    assert image.entry is not None
    image.entry["env"] = {
        "LANG": "C.UTF-8",
        "NVTE": "",
        "GONE": "1",
        "PATH": f"{Path(sys.executable).parent}:${{PATH}}:/bin",
    }
    image.env |= {"LANG": "C.UTF-8", "NVTE": ""}
    code, out, err = image.verify("image")
    assert (code, err) == (1, ["environment variable GONE: found not set, expected 1"])
    rows = out.partition("environment variables\n")[2].splitlines()
    assert [row.split()[0] for row in rows] == ["GONE", "LANG", "NVTE", "PATH"]
    assert rows[1].endswith("as expected") and rows[3].endswith("in this order")
    image.env |= {"LANG": "C", "GONE": "1"}
    image.entry["env"]["PATH"] = f"/bin:{Path(sys.executable).parent}"
    assert image.verify("image")[2] == [
        "environment variable LANG: found C, expected C.UTF-8",
        f"environment variable PATH: found {image.env['PATH']}, expected {image.entry['env']['PATH']}",
    ]


def test_an_image_of_another_entry_differs_from_the_one_in_the_lock(image: Image, tmp_path: Path) -> None:
    path_of(image, sys.executable)
    own = tmp_path / "own.json"
    own.write_text(json.dumps(image.entry))
    assert image.verify("image", "--own", str(own))[0] == 0
    own.write_text(json.dumps((image.entry or {}) | {"entry": "b" * 64}))
    code, _, (line,) = image.verify("image", "--own", str(own))
    assert code == 1 and "from the entry bbbbbbbbbbbb" in line and "expected aaaaaaaaaaaa" in line


def test_it_runs_on_the_oldest_python_that_an_image_may_have() -> None:
    import ast

    ast.parse(VERIFY.read_text(), feature_version=(3, 9))

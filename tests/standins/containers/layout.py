"""Lays a stand-in container out as the real one is: run by Debian's Python when the stand-in is built.

layout.py FILE.json   what the container holds: see the *.json beside the Dockerfiles

Packages are the folders of site/ and vendored/; what is said to be installed (`dists`) is a dist-info, as pip and uv
leave it, whose version is the real one's, whatever the package does. Debian's Python calls itself what `python` says.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
DEBIAN = Path(os.path.realpath("/usr/bin/python3"))  # /usr/bin/python3.11
UV_PYTHON = Path("/root/.local/share/uv/python")
ARCHIVE = Path("/root/.cache/uv/archive-v0")
SYSTEM = Path("/usr/local/lib")
LINKED = ("METADATA", "WHEEL", "top_level.txt")  # of a dist-info, where uv links a package's files into its cache


def main() -> None:
    os.umask(0o022)
    said = json.loads(Path(sys.argv[1]).read_text())
    short = said["python"].rpartition(".")[0]
    python = uv_python(said["python"], short) if said["managed_by_uv"] else system_python(said, short)
    for name, environment in said["environments"].items():
        make_environment(Path(name), environment, said, python, short)
    for target, source in said.get("copies", {}).items():
        copy(HERE / source, Path(target))
    for command in said.get("commands", []):  # modes and times, which a copy does not carry
        subprocess.run(["sh", "-euc", command], check=True)
    uv = Path("/root/.local/bin/uv")
    uv.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "uv", uv)
    Path("/root").chmod(0o700)


def uv_python(version: str, short: str) -> Path:
    """A Python of uv's own below /root, which takes its library from Debian's."""
    home = UV_PYTHON / f"cpython-{version}-linux-x86_64-gnu"
    (home / "bin").mkdir(parents=True)
    (home / "lib").mkdir()
    python = home / "bin" / f"python{short}"
    shutil.copy(DEBIAN, python)
    (home / "lib" / DEBIAN.name).symlink_to(f"/usr/lib/{DEBIAN.name}")
    return python


def system_python(said: dict, short: str) -> Path:
    """Ubuntu's Python: what the base container installed for all is in its dist-packages."""
    python = Path(f"/usr/bin/python{short}")
    if not python.exists():
        python.symlink_to(DEBIAN.name)
    place = SYSTEM / f"python{short}" / "dist-packages"
    install(place, said["system"], linked="")
    for name in (f"/usr/local/lib/{DEBIAN.name}", f"/usr/lib/{DEBIAN.name}"):
        Path(name, "dist-packages").mkdir(parents=True, exist_ok=True)
    (Path(f"/usr/local/lib/{DEBIAN.name}") / "dist-packages" / "base.pth").write_text(f"{place}\n")
    return python


def make_environment(path: Path, environment: dict, said: dict, python: Path, short: str) -> None:
    """A virtual environment; where uv made it, its folders are real and its files links into uv's cache."""
    site = path / "lib" / f"python{short}" / "site-packages"
    (path / "bin").mkdir(parents=True)
    site.mkdir(parents=True)
    if DEBIAN.name != f"python{short}":
        (path / "lib" / DEBIAN.name).symlink_to(f"python{short}")
    shared = "false" if said["managed_by_uv"] else "true"
    (path / "pyvenv.cfg").write_text(f"home = {python.parent}\ninclude-system-site-packages = {shared}\n")
    (path / "bin" / "python").symlink_to(python)
    for name in ("python3", f"python{short}"):
        (path / "bin" / name).symlink_to("python")
    (site / "version.pth").write_text(f"import sys; sys.version = '{said['python']} (a stand-in)'\n")
    install(site, environment, linked=environment.get("archive", ""))
    for name, module in environment.get("scripts", {}).items():
        script = path / "bin" / name
        script.write_text(f"#!{path}/bin/python\nimport runpy, sys\nsys.argv[0] = {name!r}\n"
                          f"runpy.run_module({module!r}, run_name='__main__')\n")  # fmt: skip
        script.chmod(0o755)


def install(site: Path, environment: dict, linked: str) -> None:
    """Puts packages and dist-infos there; with `linked`, the name of a folder in uv's cache, as links into it."""
    real = ARCHIVE / linked if linked else site
    for package in environment.get("packages", []):
        source = next(p for p in (HERE / "site" / package, HERE / "vendored" / package) if p.exists())
        copy(source, real / package)
    for dist in environment["dists"]:
        write_dist(real / f"{dist}.dist-info")
    for name, folder in environment.get("editable", {}).items():
        real.mkdir(parents=True, exist_ok=True)
        (real / f"__editable__.{name}.pth").write_text(f"{folder}\n")
    if linked:
        wanted = {p.partition("/")[0] for p in environment.get("packages", [])}
        wanted |= {f"{d}.dist-info" for d in environment["dists"]}
        wanted |= {f"__editable__.{n}.pth" for n in environment.get("editable", {})}
        for source in (p for name in sorted(wanted) for p in files(real / name)):
            link(source, site / source.relative_to(real))


def write_dist(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name, _, version = folder.name.removesuffix(".dist-info").partition("-")
    texts = {"METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "WHEEL": "Wheel-Version: 1.0\n"}
    for file, text in (texts | {"INSTALLER": "uv\n", "RECORD": "", "top_level.txt": f"{name}\n"}).items():
        (folder / file).write_text(text)


def files(path: Path) -> Iterator[Path]:
    return (p for p in ([path] if path.is_file() else sorted(path.rglob("*"))) if p.is_file())


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    if source.parent.suffix == ".dist-info" and source.name not in LINKED:
        shutil.copy(source, target)
    else:
        target.symlink_to(source)


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


if __name__ == "__main__":
    main()

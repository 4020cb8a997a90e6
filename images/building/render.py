"""Lock entries into files: Dockerfile, entry.json, path.sh, the entrypoint. Pure but for reading templates."""

from __future__ import annotations

import functools
import json
import posixpath
import re
from pathlib import PurePosixPath
from typing import Any

from images.building.instructions import NOBODY
from images.locking.model import Entry, Environment, Lock
from slipway import canonical
from slipway.errors import Exit, SlipwayError
from slipway.project import Root

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NEWEST = 2  # releases per library and flavour whose files are committed; the rest render on demand


@functools.cache
def _templates(root: Root) -> Any:
    import jinja2

    folder = root.file("templates")
    for path in folder.glob("*"):
        root.file(path)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["dirname"] = posixpath.dirname
    return environment


def main_environment(entry: Entry) -> Environment:
    """The environment that the step program runs in: `main`, which every entry has."""
    return entry.environments["main"]


def dockerfile(root: Root, lock: Lock, entry: Entry) -> str:
    """The Dockerfile of `entry`; buildable without a `# syntax` line, which would ask a registry for its frontend."""
    python = PurePosixPath(main_environment(entry).python)
    prefix = python.parent.parent
    text = _templates(root).get_template("Dockerfile.j2")
    return str(
        text.render(
            entry=entry,
            groups={name: entry.groups[name] for name in entry.layers},
            repositories=entry.repositories,
            env={name: _quoted(value) for name, value in entry.env.items()},
            substitutes=(root.path / "entrypoints" / "cpu" / entry.library).is_dir(),
            homepage=lock.libraries[entry.library].homepage,
            path=image_path(entry),
            nobody=NOBODY,
            prefix=prefix,
            python=python,
            site_packages=prefix / "lib" / f"python{entry.python}" / "site-packages",
        )
    )


def _quoted(value: str) -> str:
    """A value as ENV writes it: in quotes where it needs them, and `$` stands for itself."""
    return value if re.fullmatch(r"[\w.,:/@%+=-]+", value) else json.dumps(value).replace("$", "\\$")


def image_path(entry: Entry) -> str:
    """PATH in the image: the main environment first. What an official image puts on PATH stays behind it."""
    first = PurePosixPath(main_environment(entry).python).parent
    rest = SYSTEM_PATH if entry.base.bootstrap else "${PATH}"
    return f"{first}:{rest}"


def path_sh(entry: Entry) -> str:
    """A profile script that puts the main environment first again, once."""
    first = PurePosixPath(main_environment(entry).python).parent
    return f'case ":$PATH:" in ":{first}:"*) ;; *) PATH="{first}:$PATH" ;; esac\nexport PATH\n'


def entry_json(entry: Entry) -> str:
    """/etc/slipway/entry.json: what the image says it is, for the entrypoint to compare."""
    return canonical.pretty(
        {
            "library": entry.library,
            "release": entry.release,
            "flavour": entry.flavour,
            **({"platform": entry.platform} if entry.platform else {}),
            "entry": entry.checksum,
            "environments": {
                name: {"python": env.python, "version": entry.python, "packages": env.packages}
                | ({"imports": env.imports} if env.imports else {})
                | ({} if env.required else {"required": False})
                for name, env in entry.environments.items()
            },
            "repositories": {name: {"path": r.path, "commit": r.commit} for name, r in entry.repositories.items()},
            "env": image_env(entry),
        }
    )


def image_env(entry: Entry) -> dict[str, str]:
    """The environment variables that are set in the image, but for PATH."""
    always = {"LANG": "C.UTF-8"} if entry.base.bootstrap else {"NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
    return always | entry.env


def entrypoint(root: Root, lock: Lock, library: str) -> str:
    """entrypoints/<library>.sh. Raises SlipwayError 78 where releases disagree on the main interpreter's path."""
    pythons = {main_environment(e).python for e in lock.entries.values() if e.library == library}
    if len(pythons) != 1:
        what = f"{library}'s releases name several interpreters ({', '.join(sorted(pythons))}); one entrypoint fits one"
        raise SlipwayError(Exit.CONFIG, what, where="images/matrix.yaml: environments.main.python")
    template = _templates(root).get_template("entrypoint.sh.j2")
    return str(template.render(library=library, python=pythons.pop()))


def files_of(root: Root, lock: Lock, entry: Entry) -> dict[str, str]:
    """Name -> text of what is rendered for one entry, in its build context."""
    return {
        "Dockerfile": dockerfile(root, lock, entry),
        "entry.json": entry_json(entry),
        "path.sh": path_sh(entry),
    }


def committed(root: Root, lock: Lock) -> dict[str, str]:
    """Path (relative to the project) -> text of every rendered file that is committed."""
    files: dict[str, str] = {}
    for entry in newest(lock):
        files[f"images/{entry.name}/Dockerfile"] = dockerfile(root, lock, entry)
    for library in sorted(lock.libraries):
        files[f"entrypoints/{library}.sh"] = entrypoint(root, lock, library)
    return files


def newest(lock: Lock) -> list[Entry]:
    """The NEWEST releases of every library and flavour, and of each processor's own entries, oldest first."""
    from packaging.version import Version

    rows: dict[tuple[str, ...], list[Entry]] = {}
    for entry in lock.entries.values():
        rows.setdefault((entry.library, entry.flavour, entry.platform), []).append(entry)
    return [e for group in rows.values() for e in sorted(group, key=lambda e: Version(e.release))[-NEWEST:]]

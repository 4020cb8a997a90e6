"""Compares an image with what it should be. Runs in whatever Python the image has: 3.9 or newer, standard library.

verify.py image    at build and by `images verify`: what is installed, the repositories' commits, the environment's
                   variables and which python comes first on PATH, against the entry
verify.py run      at the start of a run: entry checksum, versions, commits, mounts and driver against the plan

Exit codes: 0 as expected, 1 the image differs, 78 the run is refused. Every difference is one line on stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

DIFFERS, REFUSED = 1, 78
DIST_INFO = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*?)-(?P<version>\d[^-]*)(-py[\d.]+.*)?\.(dist|egg)-info")
DRIVER = re.compile(r"Kernel Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)")
GPU = re.compile(r"libcuda|libnvidia|NVIDIA driver|CUDA")
REPORT = "the claims about official containers are untested: docs/first-real-build.md says what to do; please report"
ASK = "import json, sys; print(json.dumps([sys.path, sys.version.split()[0]]))"
SHORT = 12  # digits of a checksum or commit


class Row(NamedTuple):
    """One comparison, as the table shows it; `difference` is empty where nothing is wrong."""

    what: str
    expected: str
    found: str
    difference: str = ""


def main() -> int:
    args = parser().parse_args()
    return args.command(args)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    image = commands.add_parser("image", help="compare the image with its own entry")
    image.set_defaults(command=check_image)
    run = commands.add_parser("run", help="compare image, mounts and driver with a plan")
    run.set_defaults(command=check_run)
    for command in (image, run):
        command.add_argument("--entry", default="/etc/slipway/entry.json", help="the entry that the image carries")
        command.add_argument("--repositories", default="/etc/slipway/repositories.json", help="what the build brought")
    image.add_argument("--any-commit", action="store_true", help="repositories may be at other commits: they are shown")
    image.add_argument("--own", help="the image's own entry file, where --entry is another")
    run.add_argument("--plan", default="/slipway/plan.json")
    run.add_argument("--out", default="/run/slipway/0/versions.json", help="where the versions found are written")
    run.add_argument("--driver-file", default="/proc/driver/nvidia/version")
    return top


def check_image(args: argparse.Namespace) -> int:
    """Prints a table of what was expected and found; 1 when anything differs."""
    entry = read_json(args.entry)
    if entry is None:
        return complain([f"{args.entry}: there is no entry in this image"], DIFFERS)
    environments, repositories = entry["environments"], entry.get("repositories", {})
    found, differences = inspect(environments)
    tables = {f"{n}: {e['python']} (Python {found[n]['version']})": table(e, found[n]) for n, e in environments.items()}
    tables["repositories"] = repository_rows(repositories, read_json(args.repositories) or {})
    tables["environment variables"] = variable_rows(entry.get("env", {}), os.environ)
    tables |= {f"{n}: imports": import_rows(n, e) for n, e in environments.items() if found[n]["version"]}
    for title, rows in tables.items():
        show(title, rows)
        any_commit = title == "repositories" and args.any_commit
        differences += [row.difference for row in rows if row.difference and not any_commit]
    if args.own:
        differences += entry_differences(entry, read_json(args.own), args.own)
    differences += first_python(environments)
    differences += [REPORT] if differences and entry["flavour"] == "cuda" else []
    return complain(differences, DIFFERS)


def show(title: str, rows: list[Row]) -> None:
    if rows:
        print(title)
    for what, expected, found, _ in rows:
        print(f"  {what:30} {expected:30} {found if found != expected else 'as expected'}")


def table(environment: dict, found: dict) -> list[Row]:
    """What `inspect` has compared; a version that satisfies its specifiers is shown as it is."""
    rows = [Row("python", environment["version"], found["version"] or "-")] if "version" in environment else []
    packages = found["packages"]
    return rows + [Row(p, v, packages.get(normal(p), "-")) for p, v in sorted(environment["packages"].items())]


def check_run(args: argparse.Namespace) -> int:
    """Prints what runs, writes the versions found; 78 when the image, a mount or the driver is not what was planned."""
    plan = read_json(args.plan)
    if plan is None:
        return complain([f"{args.plan}: there is no plan; mount the run's slipway/ directory at /slipway"], REFUSED)
    print(heading(plan), flush=True)
    found, drift = inspect(plan["environments"])
    rows = repository_rows(plan.get("repositories", {}), read_json(args.repositories) or {})
    drift += [row.difference for row in rows if row.difference]
    entry = read_json(args.entry)
    write_json(args.out, {"entry": (entry or {}).get("entry"), "environments": found})
    drift = entry_differences(plan, entry, args.entry) + drift + driver_differences(plan, args.driver_file)
    wrong = mount_differences(plan["mounts"])
    if plan["allow_drift"]:
        complain([f"drift: {line}" for line in drift], 0)
        return complain(wrong, REFUSED)
    return complain(drift + wrong, REFUSED)


def heading(plan: dict) -> str:
    what = f"{plan['step']}, {plan['library']} {plan['release']} ({plan['flavour']})"
    who = f"uid {os.getuid()}:{os.getgid()} on {os.uname().nodename}"
    return f"slipway: {what}, run {os.environ.get('SLIPWAY_RUN', '-')}, {who}"


def entry_differences(plan: dict, entry: dict | None, path: str) -> list[str]:
    wanted = f"{plan['entry'][:SHORT]} ({plan['library']} {plan['release']} {plan['flavour']})"
    if entry is None:
        return [f"{path}: found nothing, expected the entry {wanted}; only images of `images build` can be launched"]
    if entry["entry"] == plan["entry"]:
        return []
    here = f"{entry['entry'][:SHORT]} ({entry['library']} {entry['release']} {entry['flavour']})"
    return [f"{path}: this image was built from the entry {here}, expected {wanted}; build the image again"]


def inspect(environments: dict) -> tuple[dict, list[str]]:
    """What is installed in each environment, and one line for each version that is not as expected."""
    found, differences = {}, []
    for name, environment in sorted(environments.items()):
        path, version = search_path(environment["python"])
        packages = installed(path)
        found[name] = {"python": environment["python"], "version": version, "packages": packages}
        missing = "" if version else f"there is no interpreter {environment['python']} that {who()} can reach"
        if why := missing or hidden(path):  # the packages that compare versions may be hidden, too
            differences += [f"environment {name}: {why}"] if version or environment.get("required", True) else []
            continue
        python = environment.get("version")
        if python and version.split(".")[: python.count(".") + 1] != python.split("."):
            differences.append(f"environment {name}: Python: found {version}, expected {python}")
        for package, expected in sorted(environment["packages"].items()):
            here = packages.get(normal(package))
            if here is None or not satisfies(here, expected):
                what = f"found {here}" if here else "not installed"
                differences.append(f"environment {name}: {package}: {what}, expected {expected}")
    return found, differences


def search_path(python: str) -> tuple[list[str], str | None]:
    """That interpreter's sys.path and version, by asking it; ([], None) where it is missing."""
    if Path(python) == Path(sys.executable):
        return sys.path, sys.version.split()[0]
    if not os.access(python, os.X_OK):
        return [], None
    import subprocess

    path, version = json.loads(subprocess.run([python, "-c", ASK], check=True, stdout=subprocess.PIPE).stdout)
    return path, version


def installed(path: list[str]) -> dict[str, str]:
    """Normalised name -> version, from the names of *.dist-info and *.egg-info alone; the first on the path wins."""
    found: dict[str, str] = {}
    for folder in filter(Path.is_dir, map(Path, filter(None, path))):
        here: dict[str, set[str]] = {}
        for item in folder.iterdir():
            if item.suffix in (".dist-info", ".egg-info"):
                name, version = identify(item)
                here.setdefault(normal(name), set()).add(version)
        for name, versions in here.items():
            found.setdefault(name, " and ".join(sorted(versions)))
    return found


def hidden(path: list[str]) -> str:
    """uv may have linked a package's files into its cache: why that is not to be seen any more, or nothing."""
    for folder in filter(Path.is_dir, map(Path, filter(None, path))):
        for link in (info / "METADATA" for info in folder.glob("*.dist-info")):
            if link.is_symlink() and not os.path.exists(link):  # noqa: PTH110 - Path's raises where we may not look
                why = "something hides it, such as a home on /root or a mount on a cache"
                return f"{link.parent.name} is linked to {link.readlink()}, which {who()} does not see: {why}"
    return ""


def identify(item: Path) -> tuple[str, str]:
    """Name and version; the .egg-info of a source checkout has no version in its name, only inside."""
    match = DIST_INFO.fullmatch(item.name)
    if match:
        return match["name"], match["version"]
    info = item / "PKG-INFO"
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    versions = [line.partition(":")[2].strip() for line in lines if line.startswith("Version:")]
    return item.stem, versions[0] if versions else "unknown"


def normal(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def satisfies(found: str, expected: str) -> bool:
    """`expected` is an exact version or PEP 440 specifiers; pre-releases count."""
    if found == expected:
        return True
    specifiers, version = packaging()
    try:
        here = version.Version(found)
        if expected[0] in "<>=!~":
            return specifiers.SpecifierSet(expected).contains(here, prereleases=True)
        return here == version.Version(expected)
    except version.InvalidVersion:
        return False


def packaging() -> tuple:
    """The image's own packaging, or pip's copy of it."""
    try:
        from packaging import specifiers, version
    except ModuleNotFoundError:
        from pip._vendor.packaging import specifiers, version
    return specifiers, version


def repository_rows(expected: dict, recorded: dict) -> list[Row]:
    """Each repository's commit, as the build has recorded it or, where the base brought it, as its checkout says.

    What the build has left out, what nothing tells and what the entry does not pin are shown and not compared.
    """
    rows = []
    for name, repository in sorted(expected.items()):
        here, wanted = recorded.get(name, {}), repository["commit"]
        commit = here.get("commit") or head(Path(repository["path"]) / ".git")
        changed = "" if here.get("clean", True) else " with changes"
        found = "left out" if here.get("left_out") else f"{commit[:SHORT]}{changed}" if commit else "unknown"
        compared = wanted and commit and not here.get("left_out")
        difference = f"repository {name}: found {commit}{changed}, expected {wanted}"
        wrong = compared and (commit != wanted or changed)
        rows.append(Row(name, (wanted or "unresolved")[:SHORT], found, difference if wrong else ""))
    return rows


def head(git: Path) -> str:
    """The commit that a checkout's .git directory names; empty where it names none that we may read."""
    name = text_of(git / "HEAD").strip()
    if not name.startswith("ref: "):
        return name
    reference = name[len("ref: ") :]
    packed = [line.split() for line in text_of(git / "packed-refs").splitlines()]
    named = [words[0] for words in packed if words[1:] == [reference]]
    return text_of(git / reference).strip() or "".join(named)


def text_of(path: Path) -> str:
    """Empty where there is no such file, or we may not read it."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def variable_rows(expected: dict, environment: os._Environ | dict) -> list[Row]:
    """Each variable that the image has to set; of PATH only the order of its folders counts."""
    rows = []
    for name, wanted in sorted(expected.items()):
        here = environment.get(name)
        same = here == wanted or (name == "PATH" and in_order(wanted, here or ""))
        found = "not set" if here is None else "in this order" if same and here != wanted else here
        difference = "" if same else f"environment variable {name}: found {found}, expected {wanted}"
        rows.append(Row(name, wanted, found, difference))
    return rows


def in_order(wanted: str, found: str) -> bool:
    """Whether the folders of `wanted` stand in `found` in their order, whatever is between; `${PATH}` is any."""
    rest = iter(found.split(os.pathsep))
    return all(folder in rest for folder in wanted.split(os.pathsep) if folder != "${PATH}")


def first_python(environments: dict) -> list[str]:
    """The first `python` on PATH, and in a login shell (whose profile may set PATH anew), is the main environment's."""
    import shutil
    import subprocess

    main = environments["main"]["python"]
    login = subprocess.run(["bash", "-lc", "command -v python"], stdout=subprocess.PIPE, text=True, check=False)
    where = {"PATH": shutil.which("python"), "PATH of a login shell": login.stdout.strip() or None}
    return [
        f"{name}: the first python is {python or 'missing'}, expected {main}"
        for name, python in where.items()
        if python is None or Path(python).parent.resolve() != Path(main).parent.resolve()  # not of what it links to
    ]


def import_rows(name: str, environment: dict) -> list[Row]:
    """Each module that has to be importable by whoever runs this; what only lacks a GPU's driver is shown."""
    rows = []
    for module in environment.get("imports", []):
        why = import_problem(environment["python"], module)
        found = "imported" if not why else "needs a GPU's driver" if GPU.search(why) else why
        wrong = f"environment {name}: import {module}: {why}, as {who()}"
        rows.append(Row(module, "imported", found, wrong if found == why else ""))
    return rows


def import_problem(python: str, module: str) -> str:
    """The last line of what Python says where it cannot import a module; nothing where it can."""
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory(prefix="slipway-imports-") as home:
        env, words = {**os.environ, "HOME": home, "XDG_CACHE_HOME": home}, [python, "-B", "-c", f"import {module}"]
        try:
            done = subprocess.run(
                words, env=env, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
        except OSError as e:  # an engine may start an image's first program with more rights than it has itself
            return str(e)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def who() -> str:
    return f"uid {os.getuid()} gid {os.getgid()}"


def mount_differences(mounts: list[dict]) -> list[str]:
    differences = []
    for mount in mounts:
        target = Path(mount["target"])
        if not target.exists():
            differences.append(f"{target}: nothing is mounted there, or {who()} may not look into a directory above it")
        elif not os.access(target, os.R_OK | (os.X_OK if target.is_dir() else 0)):
            differences.append(f"{target}: {who()} may not read it")
        elif not mount["readonly"]:
            problem = write_problem(target)
            if problem:
                differences.append(f"{target}: {who()} cannot write there ({problem}), but the step has to")
    return differences


def write_problem(target: Path) -> str | None:
    """Why `target` cannot be written; by trying it, since permissions say little about network file systems."""
    try:
        if target.is_dir():
            probe = target / f".slipway-{os.uname().nodename}-{os.getpid()}"
            probe.touch(exist_ok=False)
            probe.unlink()
        else:
            target.open("ab").close()
    except OSError as e:
        return e.strerror
    return None


def driver_differences(plan: dict, path: str) -> list[str]:
    """The NVIDIA driver of the host, only where the plan uses GPUs and the entry knows a minimum."""
    if plan["flavour"] != "cuda" or not plan["shape"]["gpus"] or not plan["driver"]:
        return []
    if not Path(path).exists():
        return [f"driver: {path} is missing: the container has no GPU, expected {plan['shape']['gpus']}"]
    match = DRIVER.search(Path(path).read_text(encoding="utf-8"))
    if match is None:
        return [f"driver: no version in {path}, expected at least {plan['driver']}"]
    if numbers(match[1]) < numbers(plan["driver"]):
        return [f"driver: found {match[1]}, expected at least {plan['driver']}"]
    return []


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def complain(lines: list[str], code: int) -> int:
    """`code` when there is anything to say, else 0."""
    for line in lines:
        print(line, file=sys.stderr)
    return code if lines else 0


def read_json(path: str) -> dict | None:
    """None where there is no such file."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def write_json(path: str, value: dict) -> None:
    part = Path(f"{path}.part")
    part.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    sys.exit(main())

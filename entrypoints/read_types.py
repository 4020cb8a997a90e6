"""Prints which keys the types of a library name, for the image's record; run by the image's own Python:

    python -I -B -c THIS_TEXT TREE CLASS...

TREE is a folder of sources in the image, CLASS the full name of a class there whose fields a whole configuration has: a
TypedDict, a pydantic model or a dataclass. Nothing is imported, since a library may want a GPU for that: the sources
are parsed. stdout is one JSON document, as that of read_classes.py: `targets`, CLASS -> class; `known`, class -> its
`keys`, with the classes that a section below may be of, `plain` ones, and whether it is `open`; `why` one is not known;
and `read`: other keys that count as known, since such types do not name all that a library reads: every name by which
its sources look something up in a mapping, and what the YAML files of its examples say (SECTION.KEY where a type has
such a key elsewhere). A class whose section the sources hand on whole (`f(**section)`, `section.items()`) is open: what
gets it knows more keys. The standard library.
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

PLAIN = {"int", "float", "str", "bool", "None", "Literal"}
TRANSPARENT = {"NotRequired", "Required", "Annotated", "Final", "ReadOnly", "Optional", "Union"}
ENDS = {"TypedDict", "BaseModel"}  # what a class of keys derives from
NOTHING_MORE = ENDS | {"object", "Generic", "Protocol"}
LOOKUPS = {"get", "pop", "setdefault"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BYTES = 4 << 20  # of one file of the sources
FILES = 5_000
EXAMPLES = "examples"
NAMED = re.compile(r"^([ -]*)([A-Za-z_][A-Za-z0-9_]*):", re.MULTILINE)  # a key in a YAML file
MOST = 400  # classes
SECONDS = 300  # for all of it


class Unknown(Exception):
    """Why a class is not known."""


class Sources:
    """The modules of a tree, parsed once each. `tops`: its packages."""

    def __init__(self, tree: Path, tops: list[str]) -> None:
        self.tree, self.tops = tree, tops
        self.parsed: dict[Path, ast.Module] = {}
        self.listed: list[tuple[str, ast.ClassDef, set[str]]] | None = None

    def file(self, module: str) -> Path | None:
        base = self.tree.joinpath(*module.split("."))
        return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)

    def parse(self, file: Path) -> ast.Module:
        if file not in self.parsed:
            with file.open("rb") as stream:
                self.parsed[file] = ast.parse(stream.read(BYTES))
        return self.parsed[file]

    def named(self, module: str, name: str, depth: int = 0) -> tuple[str, ast.AST] | None:
        """The module where a name of `module` is really defined, and its class or value; None outside the tree."""
        file = self.file(module)
        if file is None or depth > 20:
            return None
        for node in statements(self.parse(file)):
            if isinstance(node, ast.ClassDef) and node.name == name:
                return module, node
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                return module, node.value
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
                return (module, node.value) if node.value else None
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return self.named(origin(node, module, file), alias.name, depth + 1)
        return None

    def all_files(self) -> list[Path]:
        """What may read a configuration: the packages of the classes, and the programs that users start."""
        found = [p for top in (EXAMPLES, *self.tops) for p in sorted((self.tree / top).rglob("*.py"))]
        return found[:FILES]

    def derived(self, module: str, node: ast.ClassDef) -> list[tuple[str, ast.ClassDef]]:
        """The classes that derive from one: a section may be of them, too."""
        found = []
        for name, other, bases in self.classes():
            if node.name in bases and self.named(name, node.name) == (module, node):
                found += [(name, other), *self.derived(name, other)]
        return found

    def classes(self) -> list[tuple[str, ast.ClassDef, set[str]]]:
        """Every class of the packages, with its module and the names of its bases."""
        if self.listed is None:
            self.listed = []
            for file in (f for f in self.all_files() if f.relative_to(self.tree).parts[0] in self.tops):
                parts = file.relative_to(self.tree).with_suffix("").parts
                module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                own = [n for n in statements(self.parsed_or_empty(file)) if isinstance(n, ast.ClassDef)]
                self.listed += [(module, n, {last_name(b) for b in n.bases}) for n in own]
        return self.listed

    def parsed_or_empty(self, file: Path) -> ast.Module:
        try:
            return self.parse(file)
        except SyntaxError:
            return ast.Module([], [])  # a file for another Python, or a template


def statements(body: ast.AST) -> list[ast.stmt]:
    """Those of a module, also below its conditions."""
    found: list[ast.stmt] = []
    for node in ast.iter_child_nodes(body):
        if isinstance(node, (ast.If, ast.Try)):
            found += statements(node)
        elif isinstance(node, ast.stmt):
            found.append(node)
    return found


def origin(node: ast.ImportFrom, module: str, file: Path) -> str:
    """The module that an import names."""
    if not node.level:
        return node.module or ""
    parts = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def last_name(node: ast.AST) -> str:
    """`c` of `a.b.c`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


class Reader:
    """What is known so far. `whole`: names of keys and of classes whose sections the sources hand on."""

    def __init__(self, sources: Sources, whole: set[str]) -> None:
        self.sources, self.whole = sources, whole
        self.known: dict[str, dict[str, Any]] = {}
        self.open: set[str] = set()

    def take(self, module: str, node: ast.ClassDef) -> str:
        """Adds a class, and those that its fields are made of; its full name."""
        name = f"{module}.{node.name}"
        if name in self.known or len(self.known) >= MOST:
            return name
        said: dict[str, Any] = {"name": node.name, "keys": {}, "plain": [], "open": False, "mapping": True}
        self.known[name] = said
        self.fill(said, module, node)
        said["open"] = said["open"] or node.name in self.whole
        said["plain"] = sorted(set(said["plain"]))
        return name

    def all_known(self) -> dict[str, dict[str, Any]]:
        for name in self.open & self.known.keys():
            self.known[name]["open"] = True
        return self.known

    def fill(self, said: dict[str, Any], module: str, node: ast.ClassDef) -> None:
        """The fields of a class, those of its bases first."""
        for base in node.bases:
            base = base.value if isinstance(base, ast.Subscript) else base  # Generic[T]
            found = self.sources.named(module, last_name(base))
            if found and isinstance(found[1], ast.ClassDef):
                self.fill(said, found[0], found[1])
            elif last_name(base) not in NOTHING_MORE:
                said["open"] = True
        for line in node.body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                self.field(said, module, line.target.id, line.annotation)

    def field(self, said: dict[str, Any], module: str, key: str, annotation: ast.expr) -> None:
        parts = list(self.alternatives(module, annotation))
        classes = [c for p in parts if isinstance(p, tuple) for c in (p, *self.sources.derived(*p))]
        known = None not in parts  # of anything else, such as a dict, nothing is claimed
        said["keys"][key] = names = list(dict.fromkeys(self.take(*c) for c in classes)) if known else []
        said["plain"] = [k for k in said["plain"] if k != key]
        if known and not classes:
            said["plain"].append(key)
        if key in self.whole:
            self.open |= {*names}

    def alternatives(self, module: str, hint: ast.AST, depth: int = 0) -> list[Any]:
        """Those of a type: a class as (module, node), "" for one of a single value, None for all else."""
        if depth > 20:
            return [None]
        if isinstance(hint, ast.Constant):
            if isinstance(hint.value, str):
                return self.alternatives(module, ast.parse(hint.value, mode="eval").body, depth + 1)
            return ["" if hint.value is None else None]
        if isinstance(hint, ast.BinOp):
            return [p for side in (hint.left, hint.right) for p in self.alternatives(module, side, depth + 1)]
        if isinstance(hint, ast.Subscript):
            outer = last_name(hint.value)
            if outer in PLAIN:
                return [""]
            if outer not in TRANSPARENT:
                return [None]
            inner = hint.slice.elts if isinstance(hint.slice, ast.Tuple) else [hint.slice]
            inner = inner if outer == "Union" else inner[:1]
            return [p for part in inner for p in self.alternatives(module, part, depth + 1)]
        if last_name(hint) in PLAIN:
            return [""]
        found = self.sources.named(module, last_name(hint))
        if found and isinstance(found[1], ast.ClassDef):
            return [found if self.has_keys(*found) else None]
        return self.alternatives(found[0], found[1], depth + 1) if found else [None]

    def has_keys(self, module: str, node: ast.ClassDef, depth: int = 0) -> bool:
        """Whether a class is one of keys."""
        decorators = (d.func if isinstance(d, ast.Call) else d for d in node.decorator_list)
        if any(last_name(d) == "dataclass" for d in decorators):
            return True
        for base in node.bases:
            found = self.sources.named(module, last_name(base))
            if found and isinstance(found[1], ast.ClassDef) and depth < 20 and self.has_keys(*found, depth + 1):
                return True
            if last_name(base) in ENDS:
                return True
        return False


class Uses(ast.NodeVisitor):
    """By which names sources look something up, and which sections they hand on whole."""

    def __init__(self) -> None:
        self.read: set[str] = set()
        self.whole: set[str] = set()
        self.scopes: list[dict[str, set[str]]] = [{}]  # of a function: a variable -> what it stands for

    def visit_FunctionDef(self, node: Any) -> None:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        self.scopes.append({a.arg: annotated(a.annotation) for a in arguments if a.annotation})
        for line in ast.walk(node):
            if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
                self.scopes[-1].setdefault(line.targets[0].id, set()).update(self.stands_for(line.value))
        self.generic_visit(node)
        self.scopes.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.read |= texts(node.slice)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        if any(isinstance(op, (ast.In, ast.NotIn)) for op in node.ops):
            self.read |= texts(node.left)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:  # for key in ("a", "b"): section[key]
        if isinstance(node.iter, (ast.Tuple, ast.List, ast.Set)):
            self.read |= {t for item in node.iter.elts for t in texts(item)}
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = last_name(node.func)
        if name in LOOKUPS and node.args:
            self.read |= texts(node.args[0])
        if name in ("getattr", "hasattr", "setattr") and len(node.args) > 1:
            self.read |= texts(node.args[1])
        if name in ("items", "keys", "values") and isinstance(node.func, ast.Attribute):
            self.whole |= self.stands_for(node.func.value)
        for keyword in node.keywords:
            if keyword.arg is None:
                self.whole |= self.stands_for(keyword.value)
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=False):
            if key is None:
                self.whole |= self.stands_for(value)
        self.generic_visit(node)

    def stands_for(self, node: ast.AST) -> set[str]:
        """Keys and classes whose section an expression may be."""
        if isinstance(node, ast.Subscript):
            return texts(node.slice)
        if isinstance(node, ast.Attribute):
            return {node.attr}
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr in LOOKUPS and node.args:
                return texts(node.args[0])
            return {name for inner in node.args[:1] for name in self.stands_for(inner)}  # dict(x), cast(x), copy(x)
        if isinstance(node, ast.BoolOp):
            return {name for value in node.values for name in self.stands_for(value)}
        if isinstance(node, ast.Name):
            return {node.id} | {n for scope in self.scopes for n in scope.get(node.id, ())}
        return set()


def texts(node: ast.AST) -> set[str]:
    """A text that may be a key."""
    said = node.value if isinstance(node, ast.Constant) else None
    return {said} if isinstance(said, str) and said.isidentifier() else set()


def annotated(hint: ast.AST | None) -> set[str]:
    """The names in an annotation."""
    return {last_name(n) for n in ast.walk(hint)} - {""} if hint else set()


def uses(sources: Sources) -> Uses:
    found = Uses()
    for file in sources.all_files():
        found.visit(sources.parsed_or_empty(file))
    return found


def in_examples(tree: Path) -> tuple[set[str], set[tuple[str, str]]]:
    """The keys of all YAML files that the library ships; and each with the key of the section that it stands in."""
    pairs: set[tuple[str, str]] = set()
    for file in sorted((tree / EXAMPLES).rglob("*.yaml"))[:FILES]:
        with file.open(encoding="utf-8", errors="replace") as stream:
            above: list[tuple[int, str]] = []  # indentation and key of the sections that a line stands in
            for found in NAMED.finditer(stream.read(BYTES)):
                indent, key = len(found[1]), found[2]
                above = [part for part in above if part[0] < indent]
                pairs.add((above[-1][1] if above else "", key))
                above.append((indent, key))
    return {key for _, key in pairs}, pairs


def beside_types(used: set[str], tree: Path, known: dict[str, dict[str, Any]]) -> list[str]:
    """What counts as known though no type names it: KEY, or SECTION.KEY where KEY is that of a type elsewhere."""
    keys = {key for said in known.values() for key in said["keys"]}
    named, pairs = in_examples(tree)
    inside: dict[str, set[str]] = {}
    for said in known.values():
        for key, parts in said["keys"].items():
            if parts:
                inside.setdefault(key, set()).update(k for part in parts for k in known[part]["keys"])
    places = {f"{section}.{key}" for section, key in pairs if key in keys and key not in inside.get(section, {key})}
    return sorted(((used | named) - keys) | places)


def look(tree: str, names: list[str]) -> dict[str, Any]:
    """What is printed."""
    sources = Sources(Path(tree), list(dict.fromkeys(name.partition(".")[0] for name in names)))
    used = uses(sources)
    reader = Reader(sources, used.whole)
    targets: dict[str, str] = {}
    why: dict[str, str] = {}
    for name in names:
        module, _, last = name.rpartition(".")
        try:
            found = sources.named(module, last)
            if not found or not isinstance(found[1], ast.ClassDef):
                raise Unknown(f"there is no such class below {tree}")
            targets[name] = reader.take(found[0], found[1])
        except (Unknown, SyntaxError, OSError, RecursionError) as e:
            why[name] = f"{name}: {e}"
    known = reader.all_known()
    return {"targets": targets, "known": known, "why": why, "read": beside_types(used.read, sources.tree, known)}


def late(*_: Any) -> None:
    os._exit(75)  # PID 1 of a container does not end by a signal alone


def main() -> None:
    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    json.dump(look(sys.argv[1], sys.argv[2:]), sys.stdout, allow_nan=False)


if __name__ == "__main__":
    main()

"""Makes chat JSONL out of the docstrings of the running Python's standard library: make_data.py DIRECTORY

Writes train.jsonl and validation.jsonl. The sources are parsed, never imported, so nothing of them runs; the same
Python gives the same bytes.
"""

import ast
import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

LEFT_OUT = {"__phello__", "idlelib", "lib2to3", "test", "this", "turtledemo"}
LONGEST = 300  # characters of an answer
EVERY = 20  # one conversation of so many is for validation


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: make_data.py DIRECTORY")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(conversations(Path(sysconfig.get_path("stdlib"))))
    if len(rows) < 2000:
        sys.exit(f"only {len(rows)} docstrings in {sysconfig.get_path('stdlib')}: expected the library's sources there")
    write(folder / "train.jsonl", [row for i, row in enumerate(rows) if i % EVERY])
    write(folder / "validation.jsonl", rows[::EVERY])


def conversations(library: Path) -> Iterator[dict]:
    """One conversation per documented public name, in the order of their names; none of two equal answers."""
    seen = set()
    for module, source in sorted(sources(library)):
        for name, text in docstrings(ast.parse(source.read_bytes()), module):
            answer = " ".join(text.split("\n\n")[0].split())[:LONGEST]
            if len(answer) >= 30 and answer not in seen:
                seen.add(answer)
                question = f"What does {name} do in Python?"
                yield {
                    "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
                }


def sources(library: Path) -> Iterator[tuple[str, Path]]:
    """Dotted name and file of every public module of the standard library."""
    for source in library.rglob("*.py"):
        parts = source.relative_to(library).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        public = not any(part.startswith("_") or part in LEFT_OUT for part in parts)
        if parts and parts[0] in sys.stdlib_module_names and public and all(map(str.isidentifier, parts)):
            yield ".".join(parts), source


def docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Dotted name and docstring of a module and of the public functions and classes inside it."""
    text = ast.get_docstring(node)
    if text:
        yield name, text
    for child in node.body:
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not child.name.startswith("_"):
            yield from docstrings(child, f"{name}.{child.name}")


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows)} conversations")


if __name__ == "__main__":
    main()

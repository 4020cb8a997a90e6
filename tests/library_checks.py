"""A check in a library's source, tried out by itself: its condition, and the lines that make what it compares.

Nothing of the library is imported, and none of what it imports is needed: of the function that holds the check remain
the conditions around it and the assignments that it depends on. What they take from elsewhere is a stand-in that is
true.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Check = ast.Assert | ast.Raise
Body = list[ast.stmt]
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Refused(Exception):
    """What a check raises here, whatever it raises there."""


class Anything:
    """What is not known: it is true, can be called, and holds what is put into it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self.__dict__[name] = Anything()
        return self.__dict__[name]

    def __call__(self, *_: object, **__: object) -> Any:
        return Anything()

    def __getitem__(self, key: object) -> Any:
        return Anything()

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __contains__(self, key: object) -> bool:
        return False

    def __lt__(self, other: object) -> bool:
        return True

    __gt__ = __le__ = __ge__ = __lt__

    def _with(self, _: object) -> Any:
        return Anything()

    __add__ = __radd__ = __mul__ = __rmul__ = __floordiv__ = __rfloordiv__ = __truediv__ = __sub__ = __or__ = _with


class Settings(dict[str, Any]):
    """A configuration, as a mapping and as an object: releases differ. What an object lacks is None."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)

    @staticmethod
    def of(value: Any) -> Any:
        return Settings({k: Settings.of(v) for k, v in value.items()}) if isinstance(value, dict) else value


@dataclass(frozen=True)
class Found:
    """A check, the function around it, and the module that it is in."""

    name: str
    function: Function
    check: Check
    module: Module = field(repr=False)

    def refuses(self, known: dict[str, Any]) -> bool:
        """Whether it raises. `known`: what names, and attributes such as `self.dtype`, stand for."""
        names = {n for n in known if "." not in n}
        needed: set[str] = set()
        body = _cut(self.function.body, self.check, needed, set(known))
        space: dict[str, Any] = {"Refused": Refused, "__builtins__": builtins}
        code = ast.Module([*self.module.made(needed - names), *body], [])
        for node in ast.walk(code):
            if isinstance(node, ast.Name) and not hasattr(builtins, node.id):
                space.setdefault(node.id, Anything())
        space |= {n: v for n, v in known.items() if n in names}
        for dotted, value in known.items():
            if "." in dotted:
                holder, attribute = dotted.split(".")
                setattr(space.setdefault(holder, Anything()), attribute, value)
        try:
            exec(ast.unparse(ast.fix_missing_locations(code)), space)  # the library's own lines
        except Refused:
            return True
        return False


@dataclass(frozen=True)
class Module:
    """A file of the library. `read`: the text of another one, empty where there is none."""

    tree: ast.Module
    read: Callable[[str], str]

    def made(self, names: set[str]) -> Body:
        """The functions and constants of these names, with those that they need, wherever they come from."""
        found: Body = []
        for stmt in self.tree.body:
            if isinstance(stmt, ast.FunctionDef | ast.AsyncFunctionDef) and stmt.name in names:
                plain = _bare(stmt)
                found += [*self.made(_names(plain) - {stmt.name}), plain]
            elif isinstance(stmt, ast.Assign) and _targets(stmt.targets[0]) & names:
                found.append(stmt)
            elif isinstance(stmt, ast.ImportFrom) and (wanted := {a.name for a in stmt.names if a.name in names}):
                text = self.read(f"{str(stmt.module).replace('.', '/')}.py")
                found += Module(ast.parse(text), self.read).made(wanted)
        return found


def find(path: str, says: str, read: Callable[[str], str]) -> list[Found]:
    """Every assert and raise of a file that says so."""
    module = Module(ast.parse(read(path)), read)
    functions = [n for n in ast.walk(module.tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    found = []
    for function in functions:
        for node in _own(function):
            if isinstance(node, ast.Assert | ast.Raise) and says in _said(node):
                found.append(Found(f"{path}:{node.lineno} {function.name}", function, node, module))
    return found


def _said(node: ast.AST) -> str:
    texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return "\n".join([ast.unparse(node), "".join(texts)])


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """What is below, less what is in functions of its own."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield child
            yield from _own(child)


def _bare(function: Function) -> ast.stmt:
    """A function without decorators and annotations."""
    plain = ast.parse(ast.unparse(function)).body[0]
    assert isinstance(plain, ast.FunctionDef | ast.AsyncFunctionDef)
    plain.decorator_list, plain.returns = [], None
    for argument in ast.walk(plain.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return plain


def _cut(body: Sequence[ast.stmt], check: Check, needed: set[str], known: set[str]) -> Body:
    """Of a body what the check depends on, down to the check; adds to what is `needed` of what comes before."""
    at = next(n for n, stmt in enumerate(body) if any(node is check for node in ast.walk(stmt)))
    kept = _around(body[at], check, needed, known)
    for stmt in reversed(body[:at]):
        kept = [*_slim(stmt, needed, known), *kept]
    return kept


def _around(stmt: ast.stmt, check: Check, needed: set[str], known: set[str]) -> Body:
    refuse = ast.parse("raise Refused").body[0]
    if isinstance(stmt, ast.Assert):
        needed |= _names(stmt.test)
        return [ast.If(stmt.test, [ast.Pass()], [refuse])]
    if isinstance(stmt, ast.Raise):
        return [refuse]
    if isinstance(stmt, ast.If):
        inside = any(node is check for one in stmt.body for node in ast.walk(one))
        below = _cut(stmt.body if inside else stmt.orelse, check, needed, known)
        needed |= _names(stmt.test)
        return [ast.If(stmt.test, below, []) if inside else ast.If(stmt.test, [ast.Pass()], below)]
    below = _cut(_inside(stmt, check), check, needed, known)
    if isinstance(stmt, ast.Try) and (caught := [h for h in stmt.handlers if check in ast.walk(h)]):
        needed |= {name for one in stmt.body for name in _names(one)}
        return [ast.Try(stmt.body, [ast.ExceptHandler(caught[0].type, caught[0].name, below)], [], [])]
    if isinstance(stmt, ast.For):
        needed |= _names(stmt.iter)
        return [ast.For(stmt.target, stmt.iter, below, [])]
    return below


def _inside(stmt: ast.stmt, check: Check) -> Body:
    """The part of a with, try or while that holds the check."""
    parts = [getattr(stmt, n, []) for n in ("body", "orelse", "finalbody")]
    parts += [handler.body for handler in getattr(stmt, "handlers", [])]
    return next(part for part in parts if any(node is check for one in part for node in ast.walk(one)))


def _slim(stmt: ast.stmt, needed: set[str], known: set[str]) -> Body:
    """What is left of a statement ahead of the check: assignments of what is needed, and the conditions around them."""
    if isinstance(stmt, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = stmt.targets if isinstance(stmt, ast.Assign) else [stmt.target]
        made = {name for target in targets for name in _targets(target)}
        if stmt.value is None or not made & needed or made & known:
            return []
        needed |= _names(stmt.value)
        return (
            [ast.Assign(list(targets), stmt.value, lineno=stmt.lineno)] if isinstance(stmt, ast.AnnAssign) else [stmt]
        )
    if isinstance(stmt, ast.If):
        kept = [[s for one in reversed(part) for s in reversed(_slim(one, needed, known))][::-1]
                for part in (stmt.body, stmt.orelse)]  # fmt: skip
        if not any(kept):
            return []
        needed |= _names(stmt.test)
        return [ast.If(stmt.test, kept[0] or [ast.Pass()], kept[1])]
    if isinstance(stmt, ast.With | ast.Try):
        return [s for one in reversed(stmt.body) for s in reversed(_slim(one, needed, known))][::-1]
    return []


def _names(expression: ast.AST) -> set[str]:
    """Names that it reads, and attributes of names, with their dot."""
    found = {n.id for n in ast.walk(expression) if isinstance(n, ast.Name)}
    return found | {d for n in ast.walk(expression) if isinstance(n, ast.Attribute) and (d := _dotted(n))}


def _targets(target: ast.AST) -> set[str]:
    if isinstance(target, ast.Tuple | ast.List):
        return {name for one in target.elts for name in _targets(one)}
    if isinstance(target, ast.Name):
        return {target.id}
    return {d} if isinstance(target, ast.Attribute) and (d := _dotted(target)) else set()


def _dotted(node: ast.Attribute) -> str:
    return f"{node.value.id}.{node.attr}" if isinstance(node.value, ast.Name) else ""

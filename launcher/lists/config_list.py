"""`launch config`: every setting of a launch, and who set it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from launcher.core.plan import LaunchSpec
from launcher.planning import configuration
from launcher.planning.checks.config_values import base_unknown
from slipway import canonical, resolver, yamldoc
from slipway.errors import visible
from slipway.resolver import ABSENT, Leaf, Mark, Node, Section


def text(spec: LaunchSpec) -> str:
    """YAML with who set each value behind it; the step program writes the same to the run's config.yaml."""
    lines = [*_lines(spec.config.root, 0)]
    width = min(max((len(line) for line, _ in lines), default=0), 72)
    listed = [f"{line.ljust(width)}  # {by}" if by else line for line, by in lines]
    return "".join(f"{visible(line)}\n" for line in [*listed, *(f"# {line}" for line in _beyond(spec))])


def as_json(spec: LaunchSpec) -> str:
    """The same as a list of key, value and who set it."""
    found = resolver.leaves(spec.config.root)
    return canonical.pretty([{"key": key, "value": leaf.value, "by": leaf.by} for key, leaf in found])


def changes(spec: LaunchSpec, paths: Mapping[str, str]) -> str:
    """What is not as the step's default has it: one line a key, `key: default -> value  # by`.

    `paths`: input -> where it stands in the container.
    """
    usual, here = configuration.usual(spec, paths), spec.config
    keys = dict.fromkeys(key for root in (here.root, usual.root) for key, _ in resolver.leaves(root))
    rows = [(key, usual.at(key), here.at(key)) for key in keys]
    changed = [(k, before, after) for k, before, after in rows if resolver.plain(before) != resolver.plain(after)]
    lines = (f"{k}: {_said(before)} -> {_said(after)}{_by(after)}" for k, before, after in changed)
    return "".join(f"{visible(line)}\n" for line in lines)


def _beyond(spec: LaunchSpec) -> Iterator[str]:
    if base_unknown(spec):
        where = spec.hidden or f"the image's {spec.base['path']}"
        yield f"and whatever else {where} says"
    silent = {k: v for k, v in spec.step.unsaid.items() if spec.config.at(k) is ABSENT}
    if silent:
        said = ", ".join(f"{key}: {yamldoc.flow(value)}" for key, value in silent.items())
        yield f"where nothing says it, the library takes {said}"


def _lines(section: Section, depth: int) -> Iterator[tuple[str, str]]:
    for name, node in section.items.items():
        head = f"{'  ' * depth}{yamldoc.flow(name)}:"
        if isinstance(node, Section) and (node.items or node.open):
            yield head, ""
            yield from _lines(node, depth + 1)
        elif not isinstance(node, Mark):
            yield f"{head} {_said(node)}", node.by


def _said(node: Node) -> str:
    if isinstance(node, Mark):
        return "(absent)" if node is ABSENT else "(unknown)"
    return yamldoc.flow(resolver.plain(node))


def _by(node: Node) -> str:
    return f"  # {node.by}" if isinstance(node, Leaf | Section) else ""

"""What the profile's network gives a run, and what its user's own variables make of that. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.catalog.fabrics import Network
from launcher.catalog.profiles import SlurmProfile
from launcher.core.plan import LaunchSpec
from slipway.errors import Exit
from slipway.findings import Finding, error, warning

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
DECIDES = {"FI_PROVIDER", "NCCL_IB_DISABLE", "NCCL_NET", "NCCL_NET_PLUGIN"}  # which network NCCL takes


def _of(spec: LaunchSpec) -> Network | None:
    found = getattr(spec.profile, "network", None)
    return found if isinstance(found, Network) else None  # Docker's is a word


def variables(spec: LaunchSpec) -> dict[str, str]:
    """Those that the network needs; without GPUs, the interface alone."""
    found = _of(spec)
    if not found or not isinstance(spec.profile, SlurmProfile):
        return {}
    machine = MACHINES[spec.profile.processor[0]]
    return found.variables(spec.entry.flavour == "cuda", spec.job_nodes, machine)


def folders(spec: LaunchSpec) -> list[str]:
    """Of each node, mounted at the same path."""
    found = _of(spec)
    return found.mounted if found and spec.entry.flavour == "cuda" else []


def check(spec: LaunchSpec) -> Iterator[Finding]:
    """A user's own variable counts. One that the network contradicts is told; one that keeps NCCL from the fabric is
    an error, unless the profile lets such runs go on."""
    found = _of(spec)
    if not found:
        return
    wanted = variables(spec)
    if wanted and found.fabric != "tcp":
        wanted.setdefault("NCCL_NET", "")
    for where, env in ((f"{spec.profile.file}: env", spec.profile.env), ("--env", spec.env)):
        for name in sorted(env.keys() & wanted.keys()):
            if env[name] != wanted[name] and not _harmless(found, name, env[name]):
                yield _contradiction(found, f"{where}.{name}" if where != "--env" else f"--env {name}", env[name], name)


def _harmless(found: Network, name: str, value: str) -> bool:
    """NCCL says more, and still what it took; or takes by name another network than sockets."""
    if name == "NCCL_NET":
        return (value.lower() == "socket") == (found.fabric == "tcp")
    return (name, value.upper()) == ("NCCL_DEBUG", "TRACE")


def _contradiction(found: Network, where: str, value: str, name: str) -> Finding:
    what = f"{value!r} counts, and contradicts network: {{fabric: {found.fabric}}}"
    if name.startswith("NCCL_DEBUG"):
        return warning(where, f"{what}: what NCCL took will not be known")
    if name in DECIDES and found.fallback == "refuse":
        return error(Exit.CONFIG, where, what, "leave the variable out, name another fabric, or say fallback: warn")
    return warning(where, what)

"""The network of a Slurm site: what a profile says of it, and what that gives a container. Pure.

What NCCL and libfabric make of these variables stands in their documentation; docs/nodes.md says what of it was seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal

import msgspec

from slipway.errors import Exit, SlipwayError
from slipway.fabric import FILE, sentence
from slipway.yamldoc import Noun

STATE = "/run/slipway"  # in the container, and the same folder on all nodes of a run
LIBRARIES = ("/opt/amazon/efa", "/opt/amazon/ofi-nccl")  # where AWS's installer has libfabric, and NCCL's plugin
_ONLY = {"devices": ("ib", "roce"), "gid_index": ("roce",), "libraries": ("efa",)}


class Network(Noun, frozen=True, kw_only=True):
    """What NCCL has to use between nodes: InfiniBand, RoCE, AWS's EFA, or plain sockets.

    `interface`: by which processes find each other (NCCL's bootstrap, Gloo), and all that sockets use. `devices`: HCAs,
    such as mlx5_0 or mlx5_0:1; all where none is named. `gid_index`: where a site needs one that NCCL does not find by
    itself. `libraries`: folders of each node that have libfabric and NCCL's plugin for it, mounted at the same path;
    none where the image has its own. `fallback`: what becomes of a run whose NCCL took another network.
    """

    fabric: Literal["ib", "roce", "efa", "tcp"]
    interface: Annotated[str, msgspec.Meta(pattern=r"^[\w.-]{1,15}$")] | None = None
    devices: list[Annotated[str, msgspec.Meta(pattern=r"^[\w.-]+(:\d+)?$")]] = []
    gid_index: Annotated[int, msgspec.Meta(ge=0)] | None = None
    libraries: list[Annotated[str, msgspec.Meta(pattern=r"^/")]] | None = None
    fallback: Literal["refuse", "warn"] = "refuse"

    def __post_init__(self) -> None:
        for key, fabrics in _ONLY.items():
            if getattr(self, key) not in (None, []) and self.fabric not in fabrics:
                raise ValueError(f"fabric {self.fabric} has no {key}; expected it with fabric {' or '.join(fabrics)}")

    def variables(self, nccl: bool, nodes: int, machine: str) -> dict[str, str]:
        """Of a container in which there is NCCL, or only Gloo; `machine`: its processor, as `uname -m` says it."""
        found = self._interface(nccl)
        if not nccl:
            return found
        if self.fabric == "tcp":
            return found | {"NCCL_NET": "Socket", "NCCL_IB_DISABLE": "1"}
        if self.fabric == "efa":
            # An image may name another plugin (NCCL_NET_PLUGIN=spcx); this is the file of AWS's.
            found |= {"FI_PROVIDER": "efa", "NCCL_NET_PLUGIN": "libnccl-net.so"}
            found |= {"SLIPWAY_LIBRARIES": ":".join(self._search(machine))} if self.mounted else {}
        else:  # not NCCL_NET=IB, which would keep out plugins over the same devices that images bring (IBext)
            found["NCCL_IB_DISABLE"] = "0"
        if self.devices:
            found["NCCL_IB_HCA"] = f"={','.join(self.devices)}"  # = : mlx5_1 is not mlx5_10, too
        if self.gid_index is not None:
            found["NCCL_IB_GID_INDEX"] = str(self.gid_index)
        if nodes > 1:  # what NCCL chose is in files, not in the step's log
            found |= {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,NET", "NCCL_DEBUG_FILE": f"{STATE}/{FILE}"}
        return found

    def _interface(self, nccl: bool) -> dict[str, str]:
        if not self.interface:
            return {}
        found = {"GLOO_SOCKET_IFNAME": self.interface}
        return found | {"NCCL_SOCKET_IFNAME": f"={self.interface}"} if nccl else found

    def _search(self, machine: str) -> Iterator[str]:
        for folder in self.mounted:
            yield from (f"{folder}/{name}" for name in ("lib", "lib64", f"lib/{machine}-linux-gnu"))

    @property
    def mounted(self) -> list[str]:
        """Folders of each node. Devices need no mount: enroot's containers have the host's /dev and /sys."""
        if self.fabric != "efa":
            return []
        return list(LIBRARIES) if self.libraries is None else self.libraries


def other_network(network: object, used: Mapping[str, Iterable[str]]) -> str:
    """What NCCL used in place of a profile's network, and where; empty where nobody knows of another one."""
    return sentence(network.fabric, used) if isinstance(network, Network) else ""


def refuse_former(interface: str, where: str) -> None:
    """Raises SlipwayError 78: before it was a mapping, `network` was an interface."""
    what = f"network: {interface!r} is an interface; expected what NCCL has to use between nodes, too"
    remedy = f"write network: {{fabric: FABRIC, interface: {interface}}}, where FABRIC is ib, roce, efa or tcp"
    raise SlipwayError(Exit.CONFIG, what, where=where, remedy=remedy)

"""GPUs through Docker: which ones an engine can give, who serves a request for them, and which runs hold them.

What each engine shows, and what a request means, is in its API's history (GET /info, HostConfig.DeviceRequests) and in
NVIDIA's container toolkit: a runtime named `nvidia` is configuration and proves no GPU; `--gpus` is served by the
toolkit's hook on the daemon's PATH; a CDI specification names each GPU by index and by UUID, and all of them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from launcher.core import gpus
from launcher.core.plan import GpuDevice, GpuInfo, GpuRequest
from slipway import yamldoc
from slipway.errors import Exit, SlipwayError
from slipway.files import read_text

DRIVER = Path("/proc/driver/nvidia")
LABEL = "slipway.gpus"  # on a run's container: the GPUs that it holds
KIND = "nvidia.com/gpu="  # CDI's names of NVIDIA's GPUs
HOOK = "nvidia-container-runtime-hook"
WSL = "-microsoft-standard-WSL2"
GIVE_WAY, POLL = 10.0, 0.05  # seconds: for a run that is about to give way; between two looks
PATIENCE = 60.0  # seconds; without persistence mode nvidia-smi loads the driver first
_TOOLKIT = "install nvidia-container-toolkit, then: nvidia-ctk runtime configure --runtime=docker, restart Docker"
_SPECIFY = "as root: nvidia-ctk cdi generate --output={}/nvidia.yaml"
_LOAD = "install and load NVIDIA's driver (nvidia-smi -L has to list the GPUs)"


@dataclass(frozen=True, kw_only=True)
class Found:
    """`number`: of GPUs, None = only the engine knows; where 0: `why`, and the `remedy`."""

    number: int | None
    why: str = ""
    remedy: str = ""
    seen: GpuInfo = field(default_factory=GpuInfo)


class Cdi(NamedTuple):
    """What follows `nvidia.com/gpu=` in the engine's names of GPUs, where it reads them, and what is wrong there."""

    names: list[str]
    folders: list[str]
    faults: list[str]


def find(info: Mapping[str, Any], elsewhere: bool) -> Found:
    """What the engine can give. `elsewhere`: it is on another machine, so that it has only its own word."""
    cdi = _cdi(info, elsewhere)
    configured = "nvidia" in (info.get("Runtimes") or {})
    if elsewhere:
        silent = bool(cdi.folders) and "DiscoveredDevices" not in info  # it reads CDI, and is too old to tell what
        return _remote(cdi.names, by_cdi=bool(cdi.names) or (silent and not configured))
    here = on_this_machine()
    if cdi.names and not shutil.which(HOOK):  # what the engine has read is certain, a configured runtime is not
        return _by_cdi(cdi.names, here)
    if here and (configured or shutil.which(HOOK)):
        wsl = str(info.get("KernelVersion", "")).endswith(WSL)
        return Found(number=len(here), seen=GpuInfo(driver="nvidia", devices=here, only_all=wsl))
    if configured:
        what = f"the engine has a runtime `nvidia`, but neither {DRIVER} nor nvidia-smi shows a GPU on this machine"
        return Found(number=0, why=what, remedy=_LOAD)
    if not here:
        what = f"neither {DRIVER} nor nvidia-smi shows a GPU on this machine"
        return Found(number=0, why=what, remedy=f"{_LOAD}; {_TOOLKIT}")
    if cdi.folders:
        what = f"the engine has no runtime `nvidia`, and no CDI specification in {', '.join(cdi.folders)} names a GPU"
        return Found(number=0, why="; ".join([what, *cdi.faults]), remedy=_SPECIFY.format(cdi.folders[0]))
    return Found(number=0, why="the engine has no runtime `nvidia`, and reads no CDI specification", remedy=_TOOLKIT)


def _remote(named: list[str], by_cdi: bool) -> Found:
    """Another machine's engine tells its GPUs only by CDI; without that it is asked, and refuses what it has not."""
    devices = _devices(named)
    return Found(number=len(devices) or None, seen=GpuInfo(driver="cdi" if by_cdi else "nvidia", devices=devices))


def _by_cdi(named: list[str], here: list[GpuDevice]) -> Found:
    """Only CDI. In WSL2 its specification has one device, `all`, whose number nvidia-smi tells."""
    known = {gpu.id: gpu for gpu in here}
    devices = [known.get(gpu.id, GpuDevice(id=gpu.id)) for gpu in _devices(named)]
    if devices:
        return Found(number=len(devices), seen=GpuInfo(driver="cdi", devices=devices))
    return Found(number=len(here) or None, seen=GpuInfo(driver="cdi", devices=here, only_all=True))


def _devices(named: list[str]) -> list[GpuDevice]:
    """CDI names a GPU by index (`0`, `0:1` for an instance) and again by UUID: indices count where there are any."""
    ids = [name for name in named if re.fullmatch(r"\d+(:\d+)?", name)]
    if not ids:
        return [GpuDevice(id=name, uuid=name) for name in named if name != "all"]
    ids.sort(key=lambda i: [int(n) for n in i.split(":")])
    divided = {i.partition(":")[0] for i in ids if ":" in i}
    return [GpuDevice(id=i) for i in ids if i not in divided]


def _cdi(info: Mapping[str, Any], elsewhere: bool) -> Cdi:
    """Engines before 28.2 tell the folders, none while CDI is off, and not what is in them."""
    folders, faults = [str(f) for f in info.get("CDISpecDirs") or []], list[str]()
    if "DiscoveredDevices" in info:
        ids = [str(d.get("ID", "")) for d in info["DiscoveredDevices"] or [] if d.get("Source") == "cdi"]
    else:
        ids = [] if elsewhere else [i for folder in folders for i in _specified(Path(folder), faults)]
    return Cdi([i.removeprefix(KIND) for i in dict.fromkeys(ids) if i.startswith(KIND)], folders, faults)


def _specified(folder: Path, faults: list[str]) -> list[str]:
    """Names of devices in the specifications of a folder. The engine passes over one that is broken; so do we."""
    names = []
    for path in sorted(p for p in folder.glob("*") if p.suffix in (".json", ".yaml")):
        try:
            found = yamldoc.parse(read_text(path), str(path))
            names += [f"{found['kind']}={device['name']}" for device in found["devices"]]
        except SlipwayError as e:
            faults.append(f"{path}: {e.what}")
        except (TypeError, KeyError):
            faults.append(f"{path}: no CDI specification: it names no kind or no devices")
    return names


def on_this_machine() -> list[GpuDevice]:
    """The GPUs that the driver lists, in its order (that of their PCI addresses); with instances, those instead.

    WSL2 has no /proc/driver/nvidia, and instances are not in it: there nvidia-smi is asked.
    """
    files = sorted(DRIVER.glob("gpus/*/information"))
    if not files or any(DRIVER.glob("capabilities/gpu*/mig/gi*")):
        return listed(_nvidia_smi())
    return [_informed(str(n), read_text(file)) for n, file in enumerate(files)]


def _informed(index: str, text: str) -> GpuDevice:
    """A GPU by its file of the driver's."""
    uuid = re.search(r"^GPU UUID:\s*(GPU-[0-9a-fA-F-]+)\s*$", text, re.M)
    name = re.search(r"^Model:[ \t]*(\S.*?)\s*$", text, re.M)
    return GpuDevice(id=index, uuid=uuid[1] if uuid else "", name=name[1] if name else "")


def _nvidia_smi() -> str:
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def listed(text: str) -> list[GpuDevice]:
    """What `nvidia-smi -L` lists: a GPU a line, and below one that is divided its instances, indented."""
    found: list[GpuDevice] = []
    divided: set[str] = set()
    index = ""
    for line in text.splitlines():
        if gpu := re.match(r"GPU (\d+): (.*?) *\(UUID: (\S+)\)", line):
            index = gpu[1]
            found.append(GpuDevice(id=index, uuid=gpu[3], name=gpu[2]))
        elif part := re.match(r"\s+(MIG \S+)\s.*Device\s+(\d+): \(UUID: (\S+)\)", line):
            divided.add(index)
            found.append(GpuDevice(id=f"{index}:{part[2]}", uuid=part[3], name=part[1]))
    return [gpu for gpu in found if gpu.id not in divided]


def request(gpus: GpuRequest) -> dict[str, Any]:
    """An item of HostConfig.DeviceRequests. CDI takes no count and no capabilities; with ids there is no count."""
    if gpus.driver == "cdi":
        return {"Driver": "cdi", "DeviceIDs": [f"{KIND}{i}" for i in (["all"] if gpus.all else gpus.ids)]}
    which = {"Count": -1} if gpus.all else {"DeviceIDs": gpus.ids}
    return {"Driver": "nvidia", "Capabilities": [["gpu"]], **which}


def words(asked: Mapping[str, Any]) -> list[list[str]]:
    """The same for `docker run`. --gpus is a CSV record: the ids are one field of it."""
    if asked["Driver"] == "cdi":
        return [["--device", name] for name in asked["DeviceIDs"]]
    which = f'"device={",".join(asked["DeviceIDs"])}"' if "DeviceIDs" in asked else "count=all"
    return [["--gpus", f"{which},driver={asked['Driver']}"]]


class Holding(NamedTuple):
    """GPUs that a run's container on the engine holds. `state`: the container's, as Docker calls it."""

    run: str
    state: str
    ids: list[str]


def holding(client: Any) -> list[Holding]:
    """Who holds GPUs, by the labels of containers: one that has ended holds none, one that was not started does."""
    states = ["created", "running", "paused", "restarting"]
    rows = client.api.containers(all=True, filters={"label": LABEL, "status": states})
    return [Holding(r["Labels"].get("slipway.run", "?"), r["State"], r["Labels"][LABEL].split(",")) for r in rows]


def held(client: Any) -> dict[str, str]:
    """GPU -> the run that holds it."""
    return {i: one.run for one in holding(client) for i in one.ids}


def claim(client: Any, ids: list[str], run: str) -> None:
    """Returns once no other run holds any of `ids`; the caller's own container is made by now, and not started.

    So whoever looks second sees the first: nobody starts while another one's container, started or not, has the same
    GPU. Of two that were made at once the earlier run waits for the later one to give way. Raises gpus.Taken.
    """
    deadline = time.monotonic() + GIVE_WAY
    while others := [o for o in holding(client) if o.run != run and _shared(o.ids, ids)]:
        if any(o.state != "created" or o.run < run for o in others) or time.monotonic() > deadline:
            runs = {o.run: _shared(o.ids, ids) for o in others}
            raise gpus.Taken(Exit.TRY_AGAIN, f"GPUs were taken meanwhile: {gpus.told(runs)}", remedy="launch it again")
        time.sleep(POLL)


def _shared(theirs: list[str], ours: list[str]) -> list[str]:
    return [i for i in ours if any(gpus.overlap(i, other) for other in theirs)]

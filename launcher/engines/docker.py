"""The Docker engine, through its SDK. A run is one container whose name comes from the run id.

`render` is pure and gives the very body that `submit` posts to `/containers/create`; nothing is decided afterwards.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePath
from typing import Any, Literal

import msgspec

from images.building import identity
from images.locking.model import Entry
from images.machine import dockerhost
from launcher.catalog.profiles import DockerProfile
from launcher.core import gpus
from launcher.core.plan import RUN_DIR, RUN_ID, STATE, EngineInfo, ImageInfo, Plan, Probed
from launcher.engines import Claimed, Status, dockergpus, early
from launcher.engines.shell import quote
from launcher.records.outcome import End, Ended
from slipway import canonical
from slipway.errors import Exit, SlipwayError
from slipway.findings import Finding, error
from slipway.project import Root

CAP_SYS_RESOURCE = 24  # linux/capability.h
_LIMIT_NAMES = {"max locked memory": "memlock", "max stack size": "stack", "max open files": "nofile",
                "max processes": "nproc", "max core file size": "core"}  # fmt: skip


ATTACHED, KEEPS_LOG, REQUEST = True, True, "request.json"
BY_NAME = True
LOGS: tuple[str, ...] = ()
FILES: tuple[str, ...] = ()


def probe(root: Root, profile: DockerProfile) -> EngineInfo:
    """Looks at the engine that `dockerhost.find` gives; one that does not answer is seen with its error."""
    address = dockerhost.find(root, profile.engine)
    try:
        with dockerhost.engine_client(address) as client:
            info, version = client.info(), client.version()
            elsewhere = dockerhost.elsewhere(address.url, info)
            found = _gpus(info, version, elsewhere)
            held = {} if found.number == 0 else dockergpus.held(client)
    except SlipwayError as e:
        return EngineInfo(kind="docker", address=address.url, source=address.source, error=e.what, remedy=e.remedy)
    return EngineInfo(
        kind="docker",
        address=address.url,
        source=address.source,
        version=version["Version"],
        gpus=found.number,
        no_gpus=found.why,
        gpu_remedy=found.remedy,
        gpu=msgspec.structs.replace(found.seen, held=held),
        hard_limits=_hard_limits(dockerhost.peer_pid(address.url)),
        elsewhere=elsewhere,
        platform="/".join(filter(None, (version.get("Os"), version.get("Arch")))),
        platform_by="the engine's machine",
        users=_users(info),
        owner=dockerhost.owner(address.url),
    )


def find_image(root: Root, entry: Entry, profile: DockerProfile, found: EngineInfo) -> ImageInfo:
    """The recorded image that the engine has, by every id under which it is recorded."""
    records = identity.records(root, entry)
    if found.error:
        return ImageInfo(recorded=len(records))
    with dockerhost.engine_client(dockerhost.Address(found.address, found.source)) as client:
        match = identity.present(sorted(records, key=lambda r: r.platform not in (found.platform, "")), client)
        if match:
            record, digest = match
            has = client.images.get(digest).attrs
            return ImageInfo(
                id=digest, platform="/".join(filter(None, (has.get("Os"), has.get("Architecture")))),
                recorded=len(records), drift=record.drift, left_out=record.left_out,
                configurations=record.configurations, classes=record.classes,
            )  # fmt: skip
        return ImageInfo(recorded=len(records), tagged=identity.tagged(entry.tag, client))


def check(plan: Plan, seen: Probed) -> Iterator[Finding]:
    """Ulimits of the profile that the plan has lowered, and folders that this engine's containers cannot reach."""
    assert isinstance(plan.profile, DockerProfile)
    for name, value in plan.profile.ulimits.items():
        if plan.limits[name] != value:
            asked = "unlimited" if value < 0 else str(value)
            what = f"{asked} asked for, this engine can give {plan.limits[name]}: lowered"
            yield Finding(severity="warning", where=f"ulimit {name}", what=what)
    if (chosen := plan.env.get("NVIDIA_VISIBLE_DEVICES")) and chosen.by != "launcher":
        what = f"NVIDIA_VISIBLE_DEVICES={chosen.value} ({chosen.by}) does not choose GPUs here: the request names them"
        yield error(Exit.WORDS, "--gpu-ids", what, f"say --gpu-ids, or `gpu_ids:` in {plan.profile.file}")
    if seen.engine.users == "rootless" and seen.engine.owner not in (None, seen.host.uid):
        what = f"this rootless engine is uid {seen.engine.owner}'s: its containers cannot write what is yours"
        yield error(Exit.NOT_PERMITTED, seen.engine.address, what, "use an engine of your own, or the machine's")
    if seen.engine.elsewhere:
        yield from _not_shared(plan, seen)


def _not_shared(plan: Plan, seen: Probed) -> Iterator[Finding]:
    """Folders that an engine on another machine would look for there."""
    shared = plan.profile.shared if isinstance(plan.profile, DockerProfile) else []
    where, remedy = f"{plan.profile.file}: shared", "name there the folders that both see at the same path"
    if not shared:
        what = (
            f"the engine is on {seen.engine.elsewhere}, and mounts that machine's folders: not the inputs and runs here"
        )
        yield error(Exit.CONFIG, where, what, f"launch on {seen.engine.elsewhere}, or {remedy}")
        return
    mounts = [(f"mount {m.target}", m.source) for m in plan.mounts if not m.source.startswith(RUN_DIR)]
    for what, path in [*mounts, ("runs directory", seen.host.runs)]:
        if not any(PurePath(path).is_relative_to(folder) for folder in shared):
            said = f"{path} is under no shared folder: the engine, on {seen.engine.elsewhere}, does not see it"
            yield error(Exit.CONFIG, what, said, f"shared are: {', '.join(shared)} ({where})")


def _gpus(info: Mapping[str, Any], version: Mapping[str, Any], elsewhere: str) -> dockergpus.Found:
    if any("podman" in c.get("Name", "").lower() for c in version.get("Components") or []):
        why, remedy = "Podman's Docker socket ignores requests for GPUs", "use a Docker engine, or --profile enroot"
        return dockergpus.Found(number=0, why=why, remedy=remedy)
    return dockergpus.find(info, bool(elsewhere))


def _users(info: Mapping[str, Any]) -> Literal["", "rootless", "remapped"]:
    """Whose a container's uids are: in a rootless engine root is the user whose engine it is, and others are nobody's.

    Where an engine remaps users, a container may still ask for the machine's own.
    """
    options = {field for option in info.get("SecurityOptions") or [] for field in option.split(",")}
    return "rootless" if "name=rootless" in options else "remapped" if "name=userns" in options else ""


def _hard_limits(pid: int | None) -> dict[str, int]:
    """Ulimits that the engine's process cannot raise: its own hard limits, unless it may exceed them.

    Empty where its process cannot be seen (another machine, another user): then the engine's own refusal counts.
    """
    if pid is None:
        return {}
    try:
        capabilities = re.search(r"^CapEff:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text(), re.M)
        table = Path(f"/proc/{pid}/limits").read_text()
    except OSError:
        return {}
    if capabilities and int(capabilities[1], 16) >> CAP_SYS_RESOURCE & 1:
        return {}
    rows = re.findall(r"^(.+?)\s{2,}(\S+)\s+(\S+)", table, re.M)
    return {_LIMIT_NAMES[n.lower()]: int(hard) for n, _, hard in rows if n.lower() in _LIMIT_NAMES and hard.isdigit()}


def render(plan: Plan) -> dict[str, Any]:
    """The body of `POST /containers/create`. ${RUN_ID} and ${RUN_DIR} stand literally; `fill` puts them in."""
    profile = plan.profile
    assert isinstance(profile, DockerProfile)
    host: dict[str, Any] = {
        "Init": True,
        "IpcMode": profile.ipc,
        "Mounts": [
            {"Type": "bind", "Source": m.source, "Target": m.target, "ReadOnly": m.readonly} for m in plan.mounts
        ],
        "NetworkMode": profile.network,
        "ShmSize": profile.shm_bytes,
        "Ulimits": [{"Name": n, "Soft": v, "Hard": v} for n, v in sorted(plan.limits.items())],
    }
    labels = {"slipway.run": RUN_ID, "slipway.plan": plan.hash, "slipway.entry": plan.entry}
    if plan.userns:
        host["UsernsMode"] = plan.userns
    if plan.gpus:
        host["DeviceRequests"] = [dockergpus.request(plan.gpus)]
        labels[dockergpus.LABEL] = ",".join(plan.gpus.ids)
    return {
        "Image": plan.image,
        "User": plan.user,
        "WorkingDir": "/run/slipway",
        "Entrypoint": plan.command[:2],
        "Cmd": plan.command[2:],
        "Env": [f"{name}={variable.value}" for name, variable in plan.env.items()],
        "Labels": labels,
        "HostConfig": host,
    }


def as_text(request: dict[str, Any]) -> str:
    """The request as the `docker run` command that means the same, for people and for running it by hand."""
    host = request["HostConfig"]
    words = [["docker", "run", "--name", f"slipway-{RUN_ID}"], ["--init"], ["--user", request["User"]]]
    words += [["--network", host["NetworkMode"]], ["--ipc", host["IpcMode"]], ["--shm-size", str(host["ShmSize"])]]
    words += [["--ulimit", f"{u['Name']}={u['Soft']}:{u['Hard']}"] for u in host["Ulimits"]]
    words += [["--userns", host["UsernsMode"]]] if "UsernsMode" in host else []
    words += [line for d in host.get("DeviceRequests", []) for line in dockergpus.words(d)]
    for m in host["Mounts"]:
        fields = ["type=bind", f"source={m['Source']}", f"target={m['Target']}"] + ["readonly"] * m["ReadOnly"]
        words.append(["--mount", ",".join(_field(f) for f in fields)])
    words += [["--env", e] for e in request["Env"]]
    words += [["--label", f"{k}={v}"] for k, v in request["Labels"].items()]
    words += [["--workdir", request["WorkingDir"]], ["--entrypoint", request["Entrypoint"][0]]]
    words.append([request["Image"], *request["Entrypoint"][1:], *request["Cmd"]])
    return " \\\n  ".join(" ".join(quote(w) for w in line) for line in words) + "\n"


def _field(text: str) -> str:
    """A field of --mount, which is a CSV record."""
    return '"' + text.replace('"', '""') + '"' if re.search('[,"\n]', text) else text


def fill(request: dict[str, Any], run: Claimed) -> dict[str, Any]:
    """`request` with the two placeholders filled in; all that submit adds."""

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace(RUN_ID, run.id).replace(RUN_DIR, str(run.path))
        if isinstance(value, list):
            return [walk(v) for v in value]
        return {k: walk(v) for k, v in value.items()} if isinstance(value, dict) else value

    filled: dict[str, Any] = walk(request)
    return filled


def container_name(run_id: str) -> str:
    """The engine's name for a run; any process can find it again from the run id alone."""
    return f"slipway-{run_id}"


@contextmanager
def connect(address: str) -> Iterator[DockerRun]:
    """A connection for the verbs below. Raises SlipwayError 69."""
    with dockerhost.engine_client(dockerhost.Address(address, "the run's record")) as client:
        yield DockerRun(client, address)


class DockerRun:
    """The verbs that need the engine: submit, status, logs, signal, wait, remove."""

    def __init__(self, client: Any, address: str) -> None:
        self._client, self._address = client, address

    def submit(self, request: dict[str, Any], run: Claimed, after: Sequence[str] = (), ok: Sequence[str] = ()) -> str:
        """Creates and starts; returns the container's id. Raises SlipwayError 69 or 66 and leaves nothing."""
        import docker.errors

        name = container_name(run.id)
        try:
            made = self._client.api.create_container_from_config(request, name)
        except docker.errors.ImageNotFound as e:
            raise SlipwayError(Exit.NO_INPUT, f"the engine has no image {request['Image']}") from e
        except docker.errors.APIError as e:
            raise SlipwayError(Exit.UNAVAILABLE, f"the engine refused the container: {e.explanation}") from e
        try:
            self._claim(request, run)
            self._client.api.start(made["Id"])
        except docker.errors.APIError as e:
            self.remove(run)
            raise SlipwayError(
                Exit.UNAVAILABLE, f"the engine could not start: {e.explanation}", remedy=_remedy(e)
            ) from e
        return str(made["Id"])

    def _claim(self, request: dict[str, Any], run: Claimed) -> None:
        """Raises gpus.Taken, and leaves nothing, where another run has got one of this run's GPUs since the plan."""
        try:
            if ids := request["Labels"].get(dockergpus.LABEL):
                dockergpus.claim(self._client, ids.split(","), run.id)
        except gpus.Taken:
            self.remove(run)
            raise

    def status(self, run: Claimed) -> Status:
        import docker.errors

        try:
            state = self._client.api.inspect_container(container_name(run.id))["State"]
        except docker.errors.NotFound:
            return Status("missing")
        kind = {"created": "created", "running": "running", "paused": "running", "restarting": "running"}
        return Status(
            state=kind.get(state["Status"], "exited"),  # type: ignore[arg-type]
            exit_code=state["ExitCode"],
            end=_end(state),
            started=state.get("StartedAt", ""),
            finished=state.get("FinishedAt", ""),
        )

    def directory(self, run: Claimed) -> str | None:
        """By what is mounted from it."""
        import docker.errors

        with contextlib.suppress(docker.errors.NotFound):
            mounts = self._client.api.inspect_container(container_name(run.id))["Mounts"]
            return next((str(PurePath(m["Source"]).parent) for m in mounts if m["Destination"] == STATE), None)
        return None

    def logs(self, run: Claimed, follow: bool) -> Iterator[bytes]:
        """stdout and stderr in pieces as they come; ends with the container where `follow`.

        Nothing, or no more, of a container that somebody removes meanwhile: its log has been collected by then.
        """
        import docker.errors
        import requests.exceptions
        import urllib3.exceptions

        try:
            yield from self._client.containers.get(container_name(run.id)).logs(stream=True, follow=follow)
        except docker.errors.APIError as e:
            if e.status_code not in (404, 409):  # 409: "dead or marked for removal"
                raise SlipwayError(Exit.UNAVAILABLE, f"cannot read the container's log: {e.explanation}") from e
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as e:
            raise SlipwayError(Exit.UNAVAILABLE, f"the engine went away while its log was read: {e}") from e

    def signal(self, run: Claimed, name: str) -> None:
        """Sends `name` (TERM, INT, KILL) to the container's init, which passes it on; an ended one is left alone."""
        if name == "KILL":
            self._kill(run, name)
        else:
            early.send(run.path, name, partial(self._kill, run, name))

    def _kill(self, run: Claimed, name: str) -> None:
        import docker.errors

        try:
            self._client.api.kill(container_name(run.id), f"SIG{name}")
        except docker.errors.APIError as e:
            if e.status_code not in (404, 409):
                raise SlipwayError(Exit.UNAVAILABLE, f"cannot signal the container: {e.explanation}") from e

    def wait(self, run: Claimed, seconds: float | None = None) -> bool:
        """Whether the container ended within `seconds` (None = however long)."""
        import docker.errors
        import requests.exceptions

        try:
            self._client.api.wait(container_name(run.id), timeout=seconds)
        except docker.errors.NotFound:
            return True
        except (requests.exceptions.ReadTimeout, requests.exceptions.ConnectionError):
            return self.status(run).state != "running"  # out of patience, or the engine went away: that raises
        return True

    def entering(self, run: Claimed, pid: int, words: Sequence[str], terminal: bool) -> list[str]:
        """By Docker's own command, which knows terminals: raw mode, the window's size, keys that detach."""
        shown = ["--tty", "--env", f"TERM={os.environ.get('TERM', 'xterm')}"] if terminal else []
        command = ["docker", "--host", self._address, "exec", "--interactive", *shown]
        return [*command, container_name(run.id), *words]

    def remove(self, run: Claimed) -> None:
        """Removes the container, and what it left in the engine; one that is gone is fine."""
        import docker.errors

        try:
            self._client.api.remove_container(container_name(run.id), v=True, force=True)
        except docker.errors.NotFound:
            return


def _end(state: Mapping[str, Any]) -> Ended | None:
    """What the engine alone knows. A process that the kernel killed, and the step did without, is no end."""
    if state.get("Error"):
        return Ended(End.NOT_STARTED, state["Error"])
    if state.get("OOMKilled") and state["ExitCode"]:
        return Ended(End.OUT_OF_MEMORY, "the kernel, at the container's limit")
    return None


def _remedy(error: Any) -> str:
    text = str(error.explanation)
    if "rlimit" in text:
        return "lower the limit in the profile's `ulimits:` (the engine's own hard limits could not be read)"
    if "could not select device driver" in text:
        return f"on the engine's machine: install nvidia-container-toolkit ({dockergpus.HOOK}), restart Docker"
    if "unresolvable CDI devices" in text:
        return "on the engine's machine: nvidia-ctk cdi generate (what there is: nvidia-ctk cdi list)"
    return ""


def request_text(request: dict[str, Any]) -> str:
    """request.json's text."""
    return canonical.pretty(request)


def explain(log: str) -> str:
    """What the API does not tell: bash could not read the entrypoint, since the run directory is its owner's alone."""
    if "/slipway/entrypoint.sh: Permission denied" not in log:
        return ""
    why = "this engine's users are not those of this machine (rootless, or userns-remap)"
    return f"the container cannot read the run directory, which is for you alone: {why}"

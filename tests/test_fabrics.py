"""launcher/catalog/fabrics.py and launcher/planning/checks/network.py: what a site's network gives a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import Project, SpecOf, engine_of, entry_of, record_of, seen_of
from slurm_job import PROFILE

from launcher.catalog import profiles
from launcher.catalog.fabrics import LIBRARIES, Network
from launcher.core.plan import Plan
from launcher.engines import Status, slurm
from launcher.planning.checks import network as rules
from launcher.planning.planner import make_plan
from launcher.records import container_reports
from launcher.records.run_directory import Record, Run
from launcher.runs import display, lifecycle
from slipway.errors import Exit, SlipwayError

IFNAME = "--env GLOO_SOCKET_IFNAME"
SITE = "slipway.d/profiles/site.yaml"
NAMES = ("FI_", "GLOO_", "MELLANOX_", "NCCL_", "SLIPWAY_LIBRARIES")
SAYS = {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,NET", "NCCL_DEBUG_FILE": "/run/slipway/nccl.%h.%p"}
SEARCH = ":".join(f"{f}/{name}" for f in LIBRARIES for name in ("lib", "lib64", "lib/x86_64-linux-gnu"))


def plan_of(spec_of: SpecOf, network: Network | None, flavour: str = "cuda", **spec: Any) -> Plan:
    keys = spec.pop("profile", {})
    profile = msgspec.structs.replace(PROFILE, network=network, **keys)
    shape = {"nodes": 2, "gpus": 8, "procs": 8} if flavour == "cuda" else {"nodes": 2}
    return make_plan(spec_of(entry=entry_of(flavour), profile=profile, **(shape | spec)), seen_of(), {})


def variables(plan: Plan) -> dict[str, str]:
    return {name: v.value for name, v in plan.env.items() if name.startswith(NAMES)}


@pytest.mark.parametrize(
    ("network", "wanted"),
    [
        (Network(fabric="tcp", interface="eth0"), {
            "NCCL_NET": "Socket", "NCCL_IB_DISABLE": "1", "NCCL_SOCKET_IFNAME": "=eth0", "GLOO_SOCKET_IFNAME": "eth0",
        }),
        (Network(fabric="ib"), SAYS | {"NCCL_IB_DISABLE": "0"}),
        (Network(fabric="ib", interface="ib0", devices=["mlx5_0", "mlx5_1:1"]), SAYS | {
            "NCCL_IB_DISABLE": "0", "NCCL_IB_HCA": "=mlx5_0,mlx5_1:1", "NCCL_SOCKET_IFNAME": "=ib0",
            "GLOO_SOCKET_IFNAME": "ib0",
        }),
        (Network(fabric="roce", gid_index=3), SAYS | {"NCCL_IB_DISABLE": "0", "NCCL_IB_GID_INDEX": "3"}),
        (Network(fabric="efa"), SAYS | {
            "FI_PROVIDER": "efa", "NCCL_NET_PLUGIN": "libnccl-net.so", "SLIPWAY_LIBRARIES": SEARCH,
        }),
        (Network(fabric="efa", libraries=[]), SAYS | {"FI_PROVIDER": "efa", "NCCL_NET_PLUGIN": "libnccl-net.so"}),
        (None, {}),
    ],
)  # fmt: skip
def test_each_fabric_has_its_variables(spec_of: SpecOf, network: Network | None, wanted: dict[str, str]) -> None:
    plan = plan_of(spec_of, network)
    assert variables(plan) == wanted
    assert {v.by for n, v in plan.env.items() if n in wanted} <= {"profile"}
    one = variables(plan_of(spec_of, network, nodes=1))
    assert one == {n: v for n, v in wanted.items() if n not in SAYS}, "on one node NCCL needs no network"


def test_only_efa_has_mounts_of_each_node(spec_of: SpecOf) -> None:
    without = {m.target for m in plan_of(spec_of, None).mounts}
    for fabric in ("ib", "roce", "tcp"):
        assert {m.target for m in plan_of(spec_of, Network(fabric=fabric)).mounts} == without
    network = Network(fabric="efa")
    plan = plan_of(spec_of, network, profile={"shared": ["/data", "/home", "/project"]})
    more = [m for m in plan.mounts if m.target not in without]
    assert [(m.source, m.target, m.readonly) for m in more] == [(f, f, True) for f in LIBRARIES]
    assert not [f for f in slurm.check(plan, seen_of()) if "/opt/amazon" in f.what], "each node has its own"


def test_without_gpus_the_interface_is_all(spec_of: SpecOf) -> None:
    network = Network(fabric="efa", interface="eth0")
    plan = plan_of(spec_of, network, "cpu")
    assert variables(plan) == {"GLOO_SOCKET_IFNAME": "eth0"}
    assert not [m for m in plan.mounts if m.target.startswith("/opt/amazon")]


def test_the_processor_says_where_libraries_are(spec_of: SpecOf) -> None:
    found = variables(plan_of(spec_of, Network(fabric="efa"), profile={"arch": "arm64"}))
    assert "/opt/amazon/efa/lib/aarch64-linux-gnu" in found["SLIPWAY_LIBRARIES"].split(":")


@pytest.mark.parametrize(
    ("network", "profile", "line", "found"),
    [
        (Network(fabric="ib"), {}, {}, []),
        (Network(fabric="ib"), {"NCCL_IB_TIMEOUT": "22"}, {"NCCL_NET": "IB", "NCCL_DEBUG": "TRACE"}, []),
        (Network(fabric="ib"), {"NCCL_IB_DISABLE": "0"}, {}, []),
        (Network(fabric="ib"), {"NCCL_IB_DISABLE": "1"}, {}, [("error", "/site.yaml: env.NCCL_IB_DISABLE")]),
        (Network(fabric="ib"), {}, {"NCCL_NET": "socket"}, [("error", "--env NCCL_NET")]),
        (Network(fabric="ib", fallback="warn"), {}, {"NCCL_NET": "Socket"}, [("warning", "--env NCCL_NET")]),
        (Network(fabric="ib"), {}, {"NCCL_DEBUG": "WARN"}, [("warning", "--env NCCL_DEBUG")]),
        (Network(fabric="ib", interface="a"), {}, {"GLOO_SOCKET_IFNAME": "b"}, [("warning", IFNAME)]),
        (Network(fabric="efa"), {"FI_PROVIDER": "tcp"}, {}, [("error", "/site.yaml: env.FI_PROVIDER")]),
        (Network(fabric="tcp"), {"NCCL_NET": "IB"}, {}, [("error", "/site.yaml: env.NCCL_NET")]),
        (None, {"NCCL_IB_DISABLE": "1"}, {}, []),
    ],
)  # fmt: skip
def test_a_users_own_variable_counts_and_a_contradiction_is_told(
    spec_of: SpecOf, network: Network | None, profile: dict[str, str], line: dict[str, str], found: list[Any]
) -> None:
    changed = msgspec.structs.replace(PROFILE, network=network, env=profile, file="/site.yaml")
    spec = spec_of(entry=entry_of("cuda"), profile=changed, nodes=2, gpus=8, procs=8, env=line)
    assert [(f.severity, f.where) for f in rules.check(spec)] == found
    plan = make_plan(spec, seen_of(), {})
    assert {n: plan.env[n].value for n in {**profile, **line}} == profile | line


@pytest.mark.parametrize(
    ("text", "where", "what", "remedy"),
    [
        (
            "ib0", "3:1", "network: 'ib0' is an interface; expected what NCCL has to use between nodes, too",
            "write network: {fabric: FABRIC, interface: ib0}, where FABRIC is ib, roce, efa or tcp",
        ),
        ("{fabric: eth0}", "3:11", "network.fabric: 'eth0' is not allowed", "known: efa, ib, roce, tcp"),
        ("{fabric: ib, gid_index: 3}", "3:1", "network: fabric ib has no gid_index; expected it with fabric roce", ""),
        ("{fabric: tcp, devices: [mlx5_0]}", "3:1",
         "network: fabric tcp has no devices; expected it with fabric ib or roce", ""),
        ("{fabric: ib, device: mlx5_0}", "3:23", "unknown key 'device'", "did you mean 'devices'?"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_profile_is_said_with_its_place(
    project: Project, monkeypatch: pytest.MonkeyPatch, text: str, where: str, what: str, remedy: str
) -> None:
    monkeypatch.chdir(project.path)
    path = project.write(SITE, f"schema: 1\nkind: slurm\nnetwork: {text}\n")
    with pytest.raises(SlipwayError) as e:
        profiles.find_profile(project.root, "site")
    assert (e.value.code, e.value.where, e.value.what) == (Exit.CONFIG, f"{path}:{where}", what)
    assert e.value.remedy == remedy


def test_dockers_network_is_another_key(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.path)
    project.write("slipway.d/profiles/mine.yaml", "schema: 1\nkind: docker\nnetwork: bridge\n")
    assert getattr(profiles.find_profile(project.root, "mine"), "network", "") == "bridge"


def test_a_record_from_when_it_was_an_interface_can_be_read(spec_of: SpecOf, project: Project) -> None:
    run = Run(project.path / "runs" / "20260101T000000Z-sft.automodel-aaaaaa")
    record = json.loads(msgspec.json.encode(record_of(run, plan_of(spec_of, None), "slurm")))
    record["plan"]["profile"]["network"] = "ib0"
    assert msgspec.json.decode(json.dumps(record), type=Record).plan.profile.name == "site"


USES = {
    "ib": "[0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB ; OOB ib0:10.0.0.1<0>\n[0] NCCL INFO Using network IB\n",
    "tcp": "[0] NCCL INFO NET/Socket : Using [0]eth0:10.0.0.1<0>\n[0] NCCL INFO Using network Socket\n",
}


@pytest.mark.parametrize(
    ("fallback", "exit_code", "named"), [("refuse", 3, True), ("warn", 3, False), ("refuse", 0, False)]
)
def test_the_record_says_what_nccl_used(
    spec_of: SpecOf, tmp_path: Path, fallback: Any, exit_code: int, named: bool
) -> None:
    """The cause line of a step that failed, where the network was to be kept; and one line of every end."""
    plan = plan_of(spec_of, Network(fabric="ib", fallback=fallback))
    run = Run(tmp_path / "20260101T000000Z-sft.automodel-aaaaaa")
    for name, text in {"nccl.n1.7": USES["ib"], "nccl.n1.8": USES["ib"], "nccl.n2.7": USES["tcp"]}.items():
        (run.path / "container" / "0" / "ranks").mkdir(parents=True, exist_ok=True)
        (run.path / "container" / name).write_text(text)
    status = {"exit_code": exit_code, "cause": "step", "reason": f"exit code {exit_code}"}
    (run.path / "container" / "0" / "status.json").write_text(json.dumps(status))
    told = container_reports.read(run.path)
    assert told.network == {"n1": ["ib"], "n2": ["tcp"]} and not told.damaged
    outcome = lifecycle._outcome(run, plan, Status("exited", exit_code), told)
    line = "expected InfiniBand, NCCL used sockets on n2"
    assert (line in outcome.reason, outcome.network) == (named, told.network)
    record = msgspec.structs.replace(record_of(run, plan, "slurm"), state="ended", outcome=outcome)
    assert f"network    {line}" in display._end_lines(run, record)


def test_what_nccl_wrote_may_be_damaged(tmp_path: Path) -> None:
    (tmp_path / "container").mkdir()
    (tmp_path / "container" / "nccl.n1.7").symlink_to("/etc/passwd")
    told = container_reports.read(tmp_path)
    assert told.network == {} and told.damaged == ["container/nccl.n1.7: nccl.n1.7 is a link"]


def test_an_engine_of_docker_has_no_fabric(spec_of: SpecOf) -> None:
    assert not list(rules.check(spec_of())) and not rules.variables(spec_of())
    assert make_plan(spec_of(), seen_of(engine=engine_of()), {}).env.keys().isdisjoint(SAYS)

"""The doctor's checks of how a site ends jobs: how long a step has to save, and whether its job comes back.

What Slurm 22.05 does was seen. A preemption with GraceTime sends TERM to the step alone, at once, and to all when it is
over, which entrypoints take for the end of saving; without it, TERM, and KILL after KillWait. A job's own script puts
the job back where Slurm would cancel it. RequeueExit puts back what said --no-requeue, too. TaskProlog is looked for in
the container, and a task that has none there ends with 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import NamedTuple

from launcher.catalog import definitions
from launcher.doctor import Result, Site, ok, pyxis, scontrol, unknown, warning

UNKILLABLE = 60  # seconds, Slurm's default
INSTEAD = "end jobs with launch cancel, which waits for the step"
# Exit codes of ours after which nobody wants the job back.
_OVER = {77: "lacks a secret", 78: "was refused", 143: "was told to stop"}


class Preemption(NamedTuple):
    """Of the profile's jobs. `mode` as Slurm calls it; `grace`: seconds; `where` that is set; `by`: who preempts."""

    mode: str
    grace: int
    where: str
    by: str


class Steps(NamedTuple):
    """Those that go on from what they have saved. `needs`: of those that save when their ranks are told, the seconds
    that this may take; `deaf`: those that a signal only ends."""

    needs: dict[str, int]
    deaf: list[str]

    def slower(self, has: int) -> str:
        """Which may take longer than `has` seconds to save; empty where none does."""
        by: dict[int, list[str]] = {}
        for step, seconds in self.needs.items():
            by.setdefault(seconds, []).append(step)
        return ", ".join(f"{_some(names)} may take {s} s" for s, names in sorted(by.items()) if s > has)

    @property
    def silent(self) -> str:
        """What there is to say of those that are deaf."""
        return f"{_some(self.deaf)} save nothing then, only ahead of a time limit" if self.deaf else ""


def _steps(site: Site) -> Steps:
    found = [step for step in definitions.all_steps(site.root) if step.resume]
    told = {step.id: step.graceful.seconds for step in found if step.graceful.to == "ranks"}
    return Steps(told, [step.id for step in found if step.id not in told])


def _some(names: list[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if names[1:] else names[0]


def saving(site: Site) -> Iterator[Result]:
    """How long a step has to save, by what ends it."""
    config = scontrol.config(site)
    wait = scontrol.number(config.get("KillWait", ""))
    if wait is None:
        yield unknown("scontrol show config says nothing of it")
        return
    steps = _steps(site)
    yield _scancel(site, steps, wait)
    found = _preemption(site, config)
    yield found if isinstance(found, Result) else _preempted(site, steps, found, wait)
    yield from _time_limit(site.profile.stop_seconds, steps)
    yield from _unkillable(config)


def _scancel(site: Site, steps: Steps, wait: int) -> Result:
    if pyxis.mounted(site):
        return warning("a step that scancel ends cannot save: Slurm's TERM ends what mounts its image", INSTEAD)
    seen = f"a step that scancel ends has {wait} s to save (KillWait)"
    slow = steps.slower(wait)
    return warning(f"{seen}; {slow}", INSTEAD) if slow else ok(seen)


def _preemption(site: Site, config: dict[str, str]) -> Preemption | Result:
    """What preempts the profile's jobs, and how; or what there is to say where nothing does."""
    kind = config.get("PreemptType", "").rpartition("/")[2]
    if kind == "none":
        return ok("no job is preempted (PreemptType = preempt/none)")
    if kind == "qos":
        return _by_qos(site, config)
    own = scontrol.partition(site)
    if kind != "partition_prio" or not own:
        return unknown(
            f"preemption: {'no partition to look at' if kind else 'scontrol show config says nothing of it'}"
        )
    name = own["PartitionName"]
    above = _above(site, own)
    if not above:
        return ok(f"no job of {name} is preempted: no partition with its nodes comes before it (PriorityTier)")
    mode = own.get("PreemptMode") or config.get("PreemptMode", "OFF")
    grace = scontrol.number(own.get("GraceTime", "")) or 0
    return Preemption(mode, grace, f"partition {name}", f"jobs of {' and '.join(above)}")


def _above(site: Site, own: dict[str, str]) -> list[str]:
    """The partitions whose jobs come first on nodes of this one."""

    def tier(partition: dict[str, str]) -> int:
        return scontrol.number(partition.get("PriorityTier", "")) or 0

    rows = [line.split() for line in site.ask("sinfo", "--noheader", "--Node", "--format=%N %R").out.splitlines()]
    nodes = {row[0] for row in rows if row[-1] == own["PartitionName"]}
    shared = {row[-1] for row in rows if row[0] in nodes}
    found = [p for p in scontrol.partitions(site) if tier(p) > tier(own)]
    return [p["PartitionName"] for p in found if p["PartitionName"] in shared]


def _by_qos(site: Site, config: dict[str, str]) -> Preemption | Result:
    name = site.profile.qos
    if not name:
        return unknown(
            "jobs are preempted by their QOS, and the profile names none (qos): how long one has is not known"
        )
    words = ("sacctmgr", "--noheader", "--parsable2", "show", "qos", "format=name,preempt,preemptmode,gracetime")
    said = site.ask(*words)
    rows = {row[0]: row[1:] for row in (line.split("|") for line in said.out.splitlines()) if len(row) == 4}
    if said.code or name not in rows:
        return unknown(f"preemption of qos {name}: {said.why if said.code else 'sacctmgr does not know it'}")
    above = [other for other, (preempts, *_) in rows.items() if name in preempts.split(",")]
    if not above:
        return ok(f"no qos preempts {name}")
    _, mode, grace = rows[name]
    mode = config.get("PreemptMode", "OFF") if mode in ("", "cluster") else mode.upper()
    return Preemption(mode, round(scontrol.minutes(grace) * 60), f"qos {name}", f"jobs of {' and '.join(above)}")


def _preempted(site: Site, steps: Steps, found: Preemption, wait: int) -> Result:
    modes, seen = set(found.mode.split(",")), f"{found.by} preempt this one (PreemptMode = {found.mode})"
    if modes <= {"OFF", "GANG", "WITHIN"}:
        return ok(f"no job of {found.where} is preempted (PreemptMode = {found.mode})")
    if "SUSPEND" in modes:
        return warning(f"{seen}: its processes are stopped where they are, save nothing, and keep their GPUs' memory",
                       "what waits for them longer than its time-out fails when they go on")  # fmt: skip
    back = "and its job goes back into the queue" if site.profile.attempts > 1 else "and its job is over (attempts: 1)"
    if pyxis.mounted(site):
        return warning(f"{seen}: it cannot save, Slurm's TERM ends what mounts its image; {back}", "save more often")
    has, by = (found.grace, "GraceTime") if found.grace else (wait, "KillWait, without GraceTime")
    slow = steps.slower(has)
    seen = "; ".join(filter(None, [f"{seen}: its step has {has} s to save ({by}), {back}", slow, steps.silent]))
    needed = max(steps.needs.values(), default=0)
    return warning(seen, f"ask for GraceTime={needed} on {found.where}, or save more often") if slow else ok(seen)


def _time_limit(told: int | None, steps: Steps) -> Iterator[Result]:
    """Ahead of it a job tells its step itself, by as much as that may take, unless the profile says otherwise."""
    if told is None:
        yield ok("ahead of its time limit a job tells its step as early as that takes to save, and 90 s more")
    elif slow := steps.slower(told):
        seen = f"ahead of its time limit a job tells its step {told} s before (stop_seconds); {slow}"
        yield warning(seen, "leave stop_seconds out, or say more")


def _unkillable(config: dict[str, str]) -> Iterator[Result]:
    seconds = scontrol.number(config.get("UnkillableStepTimeout", ""))
    if seconds is not None and seconds < UNKILLABLE:
        seen = f"a node whose rank still writes {seconds} s after KILL is drained (UnkillableStepTimeout)"
        yield warning(seen, "a job that comes back has to do without it; ask for more, Slurm's default is 60")


def requeue(site: Site) -> Iterator[Result]:
    """Whether a job comes back after a preemption or a lost node; and whether one does that should not."""
    config, attempts = scontrol.config(site), site.profile.attempts
    if not config:
        yield unknown("scontrol show config says nothing of it")
        return
    if attempts == 1:
        yield ok("a job that is preempted, or loses a node, is over (attempts: 1)")
    else:
        default = config.get("JobRequeue", "?")
        yield ok(f"jobs ask for it themselves, and start up to {attempts} times (attempts; JobRequeue = {default})")
    for key, does in (("RequeueExit", "starts anew"), ("RequeueExitHold", "is held in the queue")):
        if said := config.get(key, ""):
            yield _comes_back(site, f"{key} = {said}", codes(said), does)


def codes(text: str) -> set[int]:
    """Of `1-9,18`."""
    ranges = [part.partition("-") for part in text.split(",")]
    return {code for first, _, last in ranges for code in range(int(first), int(last or first) + 1)}


def _comes_back(site: Site, said: str, found: set[int], does: str) -> Result:
    which = "".join(f", also what {why} ({code})" for code, why in _OVER.items() if code in found)
    lost = ", without its secrets" if site.profile.secrets else ""
    seen = f"{said}: a job that ends with such a code {does}{lost}, though its run is over{which}"
    return warning(seen, "launch cancel takes it out of the queue; ask the site to leave that to the jobs' scripts")


def task_prolog(site: Site) -> Iterator[Result]:
    """The site's program that runs before each task, which pyxis has put into its container by then."""
    config = scontrol.config(site)
    said = config.get("TaskProlog", "")
    mounts = [PurePath(m.target) for m in site.profile.mounts]
    if not config:
        yield unknown("scontrol show config says nothing of it")
    elif not said:
        yield ok("none")
    elif any(PurePath(said).is_relative_to(m) for m in mounts):
        yield ok(f"{said} is mounted; what it exports goes over the step's variables")
    else:
        seen = (
            f"{said} runs inside the container: where the image has no such file, every step ends with 1 at its start"
        )
        folder = PurePath(said).parent
        yield warning(seen, f"mounts: [{{source: {folder}, target: {folder}}}] in the profile")

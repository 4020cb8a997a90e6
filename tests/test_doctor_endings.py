"""launcher/doctor/endings: what a site's settings leave a step of its time to save, and whether its job comes back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers import Project
from slurm_site import ANSWERS, CONFIG, PARTITION, SITE, say, seen
from slurm_site import site as site

from launcher.doctor import endings

SLOW = "peft/automodel and 2 more may take 120 s, peft/megatron_bridge and 2 more may take 300 s"
BRIDGE = "peft/megatron_bridge and 2 more may take 300 s"
DEAF = "rl/nemo_rl/dapo and 6 more save nothing then, only ahead of a time limit"
URGENT = "jobs of urgent preempt this one"
BACK = "and its job goes back into the queue"
HASTY = f"its step has 30 s to save (KillWait, without GraceTime), {BACK}; {SLOW}; {DEAF}"
RANKS = "low||cluster|00:00:00\nhigh|low|cluster|00:00:00\ntop|low,high|requeue|00:10:00"


def config(**values: str) -> str:
    """What `scontrol show config` prints, with other values."""
    text = CONFIG
    for key, value in values.items():
        text = re.sub(rf"^{key} .*", f"{key} = {value}", text, flags=re.M)
    return text


def partition(**values: str) -> str:
    """What `scontrol show partition` prints, the first with other values."""
    text = PARTITION
    for key, value in values.items():
        text = re.sub(rf"\b{key}=\S+", f"{key}={value}", text, count=1)
    return text


def look(site: Project, check: str, of_site: str = CONFIG, of_partition: str = PARTITION) -> list[str]:
    """The lines of one check; none may fail."""
    answers = {"show config": of_site, "--oneliner show partition": of_partition}
    say(site, "scontrol", ANSWERS["scontrol"] | answers)
    code, lines = seen(site)
    assert code == 0, lines
    return [line.replace(f" {check} ", " ", 1) for line in lines if line.split()[1] == check]


def test_the_default_of_slurm_is_too_short_for_a_large_checkpoint(site: Project) -> None:
    scancel, preempted, limit = look(site, "saving", config(KillWait="30 sec"), partition(GraceTime="0"))
    assert scancel == (
        f"warning a step that scancel ends has 30 s to save (KillWait); {SLOW}; "
        "end jobs with launch cancel, which waits for the step"
    )
    assert preempted == (
        f"warning {URGENT} (PreemptMode = REQUEUE): its step has 30 s to save (KillWait, without GraceTime), {BACK}; "
        f"{SLOW}; {DEAF}; ask for GraceTime=300 on partition gpu, or save more often"
    )
    assert limit == "ok ahead of its time limit a job tells its step as early as that takes to save, and 90 s more"


@pytest.mark.parametrize(
    ("of_site", "of_partition", "said"),
    [
        ({}, {"GraceTime": "120"}, f"warning {URGENT} (PreemptMode = REQUEUE): its step has 120 s to save (GraceTime), "
         f"{BACK}; {BRIDGE}; {DEAF}; ask for GraceTime=300 on partition gpu, or save more often"),
        ({}, {"GraceTime": "0"}, f"ok {URGENT} (PreemptMode = REQUEUE): its step has 300 s to save (KillWait, without "
         f"GraceTime), {BACK}; {DEAF}"),
        ({}, {"PreemptMode": "CANCEL"}, f"ok {URGENT} (PreemptMode = CANCEL): its step has 300 s to save (GraceTime), "
         f"{BACK}; {DEAF}"),
        ({}, {"PreemptMode": "GANG,SUSPEND"}, f"warning {URGENT} (PreemptMode = GANG,SUSPEND): its processes are "
         "stopped where they are, save nothing, and keep their GPUs' memory; what waits for them longer than its "
         "time-out fails when they go on"),
        ({}, {"PreemptMode": "OFF"}, "ok no job of partition gpu is preempted (PreemptMode = OFF)"),
        ({}, {"PriorityTier": "10"}, "ok no job of gpu is preempted: no partition with its nodes comes before it "
         "(PriorityTier)"),
        ({"PreemptType": "preempt/none"}, {}, "ok no job is preempted (PreemptType = preempt/none)"),
    ],
)  # fmt: skip
def test_a_preemption(site: Project, of_site: dict[str, str], of_partition: dict[str, str], said: str) -> None:
    assert look(site, "saving", config(**of_site), partition(**of_partition))[1] == said


def test_a_partition_that_comes_first_elsewhere_preempts_nothing_here(site: Project) -> None:
    rows = "n1 gpu\nn2 gpu\nn3 urgent\nn9 cpu"
    say(site, "sinfo", ANSWERS["sinfo"] | {"--noheader --Node --format=%N %R": rows})
    assert look(site, "saving")[1].startswith("ok no job of gpu is preempted: no partition with its nodes")


def test_one_attempt_does_not_come_back(site: Project) -> None:
    site.edit(SITE, "mount_wait: 1", "attempts: 1")
    over = (
        f"{URGENT} (PreemptMode = REQUEUE): its step has 300 s to save (GraceTime), and its job is over (attempts: 1)"
    )
    assert over in look(site, "saving")[1]
    assert look(site, "requeue") == ["ok a job that is preempted, or loses a node, is over (attempts: 1)"]


@pytest.mark.parametrize(
    ("qos", "said"),
    [
        ("low", f"warning jobs of high and top preempt this one (PreemptMode = REQUEUE): {HASTY}; ask for "
         "GraceTime=300 on qos low, or save more often"),
        ("high", f"warning jobs of top preempt this one (PreemptMode = REQUEUE): {HASTY}; ask for GraceTime=300 on qos "
         "high, or save more often"),
        ("top", "ok no qos preempts top"),
        ("", "unknown jobs are preempted by their QOS, and the profile names none (qos): how long one has is not "
         "known"),
        ("gone", "unknown preemption of qos gone: sacctmgr does not know it"),
    ],
)  # fmt: skip
def test_a_preemption_by_qos(site: Project, qos: str, said: str) -> None:
    """The mode and the grace of the one that is preempted; its partition's do not count."""
    site.edit(SITE, "qos: high", f"qos: {qos}" if qos else "exclusive: true")
    users = "".join(f"dept|{name}\n" for name in ("low", "high", "top", "gone"))
    say(site, "sacctmgr", {"--noheader --parsable2 show qos": RANKS, "": users})
    assert look(site, "saving", config(KillWait="30 sec", PreemptType="preempt/qos"))[1] == said


def test_the_grace_of_a_qos_counts(site: Project) -> None:
    say(
        site,
        "sacctmgr",
        {
            "--noheader --parsable2 show qos": RANKS.replace("high|low|cluster|00:00:00", "high|low|cancel|00:02:30"),
            "": "dept|high",
        },
    )
    said = look(site, "saving", config(PreemptType="preempt/qos"))[1]
    assert "jobs of top preempt this one (PreemptMode = CANCEL): its step has 150 s to save (GraceTime)" in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("stop_seconds: 60", f"warning ahead of its time limit a job tells its step 60 s before (stop_seconds); "
         f"{SLOW}; leave stop_seconds out, or say more"),
        ("stop_seconds: 400", ""),
    ],
)  # fmt: skip
def test_what_the_profile_says_of_the_time_limit(site: Project, line: str, said: str) -> None:
    site.edit(SITE, "mount_wait: 1", line)
    assert look(site, "saving")[2:] == ([said] if said else [])


def test_where_pyxis_mounts_images_slurm_lets_no_step_save(site: Project, tmp_path: Path) -> None:
    """Also with GraceTime: its first TERM is for every process of the step."""
    (tmp_path / "plugstack.conf").write_text("required spank_pyxis.so use_squashfuse=yes\n")
    scancel, preempted, _ = look(site, "saving")
    assert scancel.startswith("warning a step that scancel ends cannot save: Slurm's TERM ends what mounts its image")
    assert preempted == (
        f"warning {URGENT} (PreemptMode = REQUEUE): it cannot save, Slurm's TERM ends what mounts its image; {BACK}; "
        "save more often"
    )
    site.edit(SITE, "squash:", "image: registry\nsquash:")
    assert look(site, "saving")[0].startswith("ok a step that scancel ends has 300 s")


def test_a_node_that_is_given_up_early_is_said(site: Project) -> None:
    assert look(site, "saving", config(UnkillableStepTimeout="20 sec"))[3].startswith(
        "warning a node whose rank still writes 20 s after KILL is drained (UnkillableStepTimeout); "
    )


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("RequeueExit", "1-9,18", "warning RequeueExit = 1-9,18: a job that ends with such a code starts anew, though "
         "its run is over"),
        ("RequeueExit", "78,143", "warning RequeueExit = 78,143: a job that ends with such a code starts anew, though "
         "its run is over, also what was refused (78), also what was told to stop (143)"),
        ("RequeueExitHold", "100-150", "warning RequeueExitHold = 100-150: a job that ends with such a code is held in "
         "the queue, though its run is over, also what was told to stop (143)"),
    ],
)  # fmt: skip
def test_codes_after_which_slurm_puts_a_job_back(site: Project, key: str, value: str, said: str) -> None:
    remedy = "launch cancel takes it out of the queue; ask the site to leave that to the jobs' scripts"
    assert look(site, "requeue", config(**{key: value}))[1:] == [f"{said}; {remedy}"]
    site.edit(SITE, "mount_wait: 1", "secrets: {TOKEN: env}")
    assert ", without its secrets, though" in look(site, "requeue", config(**{key: value}))[1]


def test_a_site_that_requeues_only_what_asks_for_it_requeues_ours(site: Project) -> None:
    assert look(site, "requeue", config(JobRequeue="0")) == [
        "ok jobs ask for it themselves, and start up to 3 times (attempts; JobRequeue = 0)"
    ]


def test_a_task_prolog_has_to_be_in_the_container(site: Project) -> None:
    told = config(TaskProlog="/opt/site/prolog.sh")
    (said,) = look(site, "TaskProlog", told)
    assert said == (
        "warning /opt/site/prolog.sh runs inside the container: where the image has no such file, every step ends with "
        "1 at its start; mounts: [{source: /opt/site, target: /opt/site}] in the profile"
    )
    site.edit(SITE, "mount_wait: 1", "mounts: [{source: /opt, target: /opt}]")
    assert look(site, "TaskProlog", told) == [
        "ok /opt/site/prolog.sh is mounted; what it exports goes over the step's variables"
    ]


def test_a_controller_that_says_nothing_leaves_it_unknown(site: Project) -> None:
    (Path(site.env["PATH"]) / "sbatch").unlink()
    _, lines = seen(site)
    assert {line.split()[0] for line in lines if line.split()[1] in ("saving", "requeue", "TaskProlog")} == {"unknown"}


def test_codes_are_read_as_slurm_writes_them() -> None:
    assert endings.codes("1-3,18") == {1, 2, 3, 18}

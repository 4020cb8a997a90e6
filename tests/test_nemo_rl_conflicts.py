"""The tables of what NeMo RL refuses (launcher/steps/rl/nemo_rl/conflicts): each row by its own example.

NEMO_RL_SOURCE names a git repository of NeMo RL with its tags; then the library's own check is tried on the
configuration of each example, at each release. docs/nemo-rl-conflicts.md is made of the tables:
SLIPWAY_ACCEPT=1 pytest tests/test_nemo_rl_conflicts.py
"""

from __future__ import annotations

import functools
import json
import math
import os
import subprocess
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import pytest
import yaml
from helpers import REPO, Done, Project, SpecOf, write_chat_model
from library_checks import Anything, Found, Settings, find
from rl import RELEASES, ROOT, STEPS, Launch, launch, lock, step_of, usual
from test_golden import compare
from test_presets import loaded

from images.building.identity import BaseFile
from launcher.artifacts.detection import Artifact
from launcher.artifacts.nouns import Sizes
from launcher.catalog import commands, conflicts
from launcher.catalog.conflicts import Condition, Conflict
from launcher.core.plan import Code
from launcher.planning.checks import config_values, nemo_rl
from slipway import resolver
from slipway.resolver import Mark

SOURCE = os.environ.get("NEMO_RL_SOURCE", "")
TABLES = sorted((REPO / "launcher/steps/rl/nemo_rl/conflicts").glob("*.yaml"))


def rows() -> dict[str, Conflict]:
    """Every row, as the step of its example has it."""
    found: dict[str, Conflict] = {}
    for name in STEPS:
        for key, row in conflicts.table(ROOT, step_of(f"rl/nemo_rl/{name}")).items():
            if row.example.step == f"rl/{name}" and ", " not in key:
                found[key] = row
    return found


ROWS = rows()


def holds(row: Conflict, release: str) -> bool:
    return commands.fits(step_of(row.example.step), row.when, lock().entries[f"nemo-rl/{release}-cuda"])


CASES = [(name, release) for name, row in ROWS.items() for release in RELEASES if holds(row, release)]
PACKING = "Megatron's context parallelism asks for packed sequences"
REFUSED = {  # of bases that are made for DTensor, what Megatron would not take
    ("rm", "backend=megatron"): {
        "reward models are for DTensor alone", "the optimizer of a model in bfloat16 is in bfloat16"
    },
    ("dapo", "backend=megatron"): {PACKING},
    ("distillation", "backend=megatron"): {PACKING, "dynamic batching is for one pipeline stage"},
}  # fmt: skip
SAID = {(row.what, release) for name, release in CASES for row in [ROWS[name]]}
OTHERS = [(n, r) for n, row in ROWS.items() for r in RELEASES if (row.what, r) not in SAID]


def example(spec_of: SpecOf, row: Conflict, release: str, passes: bool = False, **changes: Any) -> Launch:
    """The launch of a row's example, or of its neighbour that passes."""
    said, words = row.example, row.example.words
    if passes and said.passes is None:
        said = msgspec.structs.replace(said, without=[], model="", gpus=8)
    elif passes:
        words = said.passes or []
    step = said.step.removeprefix("rl/")
    given = [described(a, said.model) for a in usual(step) if a.name not in said.without]
    env = {} if passes else dict(e.split("=", 1) for e in said.env)
    return launch(
        spec_of, step, release, given, *words, **({"gpus": said.gpus, "procs": said.gpus, "env": env} | changes)
    )


def described(artifact: Artifact, architecture: str) -> Artifact:
    if artifact.type != "checkpoint_hf" or not architecture:
        return artifact
    sizes = Sizes(architecture=architecture, experts=8 if "Moe" in architecture else 0)
    return msgspec.structs.replace(artifact, sizes=sizes)


def of(planned: Launch, row: Conflict) -> list[Any]:
    return [f for f in planned.findings if "refuse" in f.what and f": {row.what}" in f.what]


@pytest.mark.parametrize(("name", "release"), CASES)
def test_the_example_is_refused_and_its_neighbour_passes(spec_of: SpecOf, name: str, release: str) -> None:
    row = ROWS[name]
    (found,) = of(example(spec_of, row, release), row)
    assert (found.severity, found.remedy) == (row.severity, row.remedy)
    assert found.code in ((0,) if row.severity == "warning" else (64, 78))
    passed = example(spec_of, row, release, passes=True)
    assert [f for f in passed.findings if f.severity == "error"] == []
    assert of(passed, row) == []


@pytest.mark.parametrize(("name", "release"), OTHERS)
def test_a_release_without_the_check_does_not_refuse(spec_of: SpecOf, name: str, release: str) -> None:
    assert of(example(spec_of, ROWS[name], release), ROWS[name]) == []


@functools.cache
def read(release: str, path: str) -> str:
    """A file of the library at a tag; empty where it has none."""
    done = subprocess.run(["git", "-C", SOURCE, "show", f"{release}:{path}"], capture_output=True, check=False)
    return done.stdout.decode()


@functools.cache
def base_of(release: str, path: str) -> BaseFile:
    """What an image's record says of a base configuration."""
    return BaseFile(values=loaded(SOURCE, release, PurePosixPath(*PurePosixPath(path).parts[3:])))


def real(spec_of: SpecOf, row: Conflict, release: str, passes: bool = False) -> Launch:
    """The example on the base that the release has."""
    path = commands.base_config(step_of(row.example.step), lock().entries[f"nemo-rl/{release}-cuda"])["path"]
    return example(spec_of, row, release, passes, in_image=base_of(release, path))


def configuration(planned: Launch) -> Any:
    """What the library will read, with references to other keys as their values."""
    found: dict[str, Any] = {}
    for key, leaf in resolver.leaves(planned.spec.config.root):
        node: Any = found
        *above, last = key.split(".")
        for name in above:
            node = node.setdefault(name, {})
        said = config_values.said_of(planned.spec.config, key)
        node[last] = leaf.value if isinstance(said, Mark) else resolver.plain(said)
    return Settings.of(found)


def known(planned: Launch, path: str) -> dict[str, Any]:
    """What the names in a check of that file stand for, in a run of that launch."""
    config, spec = configuration(planned), planned.spec
    policy, parts = config.policy, Settings()
    settings = config_values.settings(spec)
    training = nemo_rl.training_gpus(spec, settings)
    sizes = config_values.sizes(spec, settings) or {}
    generating = training
    if settings.get("colocated") is False:
        generating = settings.get("generation_gpus", 0)  # of one node
    machine, torch, cluster = Anything(), Anything(), Anything()
    machine.environ = dict(spec.env)
    cluster.world_size = lambda: generating if "vllm" in path else training
    parts |= {"os": machine, "torch": torch, "cluster": cluster, "world_size": training}
    parts["dp_size"] = training // math.prod(sizes.values()) if sizes else training
    parts |= {"cast": lambda _type, value: value, "filtered_prompts_size": 0, "train_prompts_size": 1}
    parts |= {"master_config": config, "config": config, "checkpointing_cfg": config.checkpointing}
    rows = "validation" in planned.seen.artifacts or (config.data.train or Settings()).split_validation_size
    parts["val_dataset"] = parts["val_dataloader"] = Anything() if rows else None
    if "/models/" in path:
        parts["config"] = parts["policy_cfg"] = parts["self.cfg"] = policy.generation if "/vllm/" in path else policy
        parts["vllm_cfg"] = (policy.generation or Settings()).vllm_cfg
        parts["dtype"] = parts["self.dtype"] = getattr(torch, str(policy.precision))
        parts["optimizer_cfg"] = policy.megatron_cfg.optimizer
        parts["self.megatron_cfg"] = policy.megatron_cfg
    if path.endswith("automodel/setup.py"):
        dtensor = policy.dtensor_cfg
        parts |= {"tp_size": dtensor.tensor_parallel_size, "cp_size": dtensor.context_parallel_size}
        parts |= {"sequence_parallel_enabled": dtensor.sequence_parallel, "cpu_offload": dtensor.cpu_offload}
        parts["runtime_config.enable_seq_packing"] = policy.sequence_packing.enabled
    return parts


def checks(row: Conflict, release: str) -> list[Found]:
    """The library's checks that the row is of."""
    reading = functools.partial(read, release)
    return [c for path in row.source.files if read(release, path) for c in find(path, row.source.says, reading)]


def refusing(row: Conflict, release: str, planned: Launch) -> list[str]:
    """Those of them that refuse the launch, in files that a launch with its backend runs."""
    policy = configuration(planned).policy
    second = policy.dtensor_cfg._v2 is True
    backend = {"megatron": policy.megatron_cfg.enabled, "dtensor": policy.dtensor_cfg.enabled}
    told = []
    for check in checks(row, release):
        path = check.name.partition(":")[0]
        if "megatron" in path and backend["megatron"] is not True:
            continue
        of_second = path.endswith(("worker_v2.py", "automodel/setup.py"))
        if (of_second or "dtensor" in path) and (backend["dtensor"] is not True or of_second is not second):
            continue
        if check.refuses(known(planned, path)):
            told.append(check.name)
    return told


def tagged(release: str) -> None:
    if not SOURCE:
        pytest.skip("NEMO_RL_SOURCE names no repository of NeMo RL")
    if not read(release, "nemo_rl/models/policy/lm_policy.py"):
        pytest.skip(f"{SOURCE} has no tag {release}")


@pytest.mark.parametrize(("name", "release"), CASES)
def test_the_library_refuses_the_example_and_not_its_neighbour(spec_of: SpecOf, name: str, release: str) -> None:
    tagged(release)
    row = ROWS[name]
    if row.source.judged:
        assert any(row.source.says in read(release, path) for path in row.source.files)
        return
    refused, passed = real(spec_of, row, release), real(spec_of, row, release, passes=True)
    assert len(of(refused, row)) == 1 and of(passed, row) == []
    assert checks(row, release), f"nothing says {row.source.says!r} at {release}"
    if not row.source.only_said:
        assert refusing(row, release, refused) != []
        assert refusing(row, release, passed) == []


@pytest.mark.parametrize(("name", "release"), OTHERS)
def test_the_library_takes_the_example_at_other_releases(spec_of: SpecOf, name: str, release: str) -> None:
    tagged(release)
    row = ROWS[name]
    planned = real(spec_of, row, release)
    if not any("refuses it: " in f.what for f in planned.findings):  # by another row, of that release
        assert (checks(row, release) if row.source.only_said else refusing(row, release, planned)) == []


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", STEPS)
def test_a_step_as_it_is_shipped_is_not_refused(spec_of: SpecOf, name: str, release: str) -> None:
    """On the base that the release has; but for what NeMo RL really refuses of it."""
    tagged(release)
    path = commands.base_config(step_of(f"rl/nemo_rl/{name}"), lock().entries[f"nemo-rl/{release}-cuda"])["path"]
    for over in (["default"], ["default", "tiny"]):
        for words in ((), ("backend=megatron",)):
            planned = launch(spec_of, name, release, usual(name), *words, over=over, in_image=base_of(release, path))
            told = {f.what.partition(": ")[2].partition(" (")[0] for f in planned.findings if "refuse" in f.what}
            assert told <= REFUSED.get((name, *words), set())


# Through the command line.


def spoken(project: Project, folder: Path, row: Conflict, release: str, passes: bool = False) -> Done:
    """A dry run of the row's example, or of its neighbour that passes, on a cluster."""
    said, words = row.example, row.example.words
    if passes and said.passes is None:
        said = msgspec.structs.replace(said, without=[], model="", gpus=8)
    elif passes:
        words = said.passes or []
    inputs = [f"{a.name}={written(folder, a, said.model)}" for a in usual(said.step.removeprefix("rl/"))
              if a.name not in said.without]  # fmt: skip
    env = [] if passes else [w for variable in said.env for w in ("--env", variable)]
    shape = ("--gpus", str(said.gpus), "--release", release)
    return project.launch("--profile", "slurm-pyxis", said.step, *inputs, *words, *env, *shape, "--dry-run")


def written(folder: Path, artifact: Artifact, architecture: str) -> Path:
    """Such an input on the disk."""
    if artifact.type != "checkpoint_hf":
        path = folder / f"{artifact.name}.{artifact.type}.jsonl"
        turns = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]
        row = {
            "chat_jsonl": {"messages": turns},
            "prompt_jsonl": {"input": "1+1", "output": "2", "task_name": "math"},
            "preference_jsonl": {"prompt": "1+1", "chosen": "2", "rejected": "3"},
        }[artifact.type]
        path.write_text(f"{json.dumps(row)}\n" * 8)
        return path
    path = folder / f"{artifact.name}{architecture}"
    if not path.exists():
        write_chat_model(path)
        config = {"architectures": [architecture or "LlamaForCausalLM"]}
        (path / "config.json").write_text(json.dumps(config | ({"num_experts": 8} if "Moe" in architecture else {})))
    return path


def newest(row: Conflict) -> str:
    return next(release for release in reversed(RELEASES) if holds(row, release))


@pytest.mark.parametrize("name", ROWS)
def test_a_launch_is_refused_and_its_neighbour_is_not(project: Project, tmp_path: Path, name: str) -> None:
    row, release = ROWS[name], newest(ROWS[name])
    refused = spoken(project, tmp_path, row, release)
    assert refused.code in (64, 78) or row.severity == "warning", refused
    told = "refuses" if row.severity == "error" else "may refuse"
    assert f"nemo-rl/{release}-cuda {told} it: {row.what}" in refused.stderr, refused.stderr
    assert f"  {row.remedy}\n" in refused.stderr
    passed = spoken(project, tmp_path, row, release, passes=True)
    assert "refuses it" not in passed.stderr and "may refuse it" not in passed.stderr, passed.stderr
    told = [line for line in passed.stderr.splitlines() if line.startswith("error: ") and "image of" not in line]
    assert told == [], passed.stderr


CLUSTER = ("--profile", "slurm-pyxis", "--dry-run")


@pytest.fixture
def grpo(project: Project, tmp_path: Path) -> Callable[..., Done]:
    """`launch STEP` with all its inputs, of rl/grpo unless said otherwise."""

    def run(*words: str, step: str = "grpo") -> Done:
        inputs = [f"{a.name}={written(tmp_path, a, '')}" for a in usual(step)]
        return project.launch(*CLUSTER, f"rl/{step}", *inputs, *words)

    return run


def test_each_value_is_told_with_who_set_it(grpo: Callable[..., Done], tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("policy: {dynamic_batching: {enabled: true}}\n")
    base = "the image's /opt/nemo-rl/examples/configs/grpo_math_1B.yaml"
    done = grpo("-c", str(mine))
    assert done.code == 78
    assert (
        f"error: {mine}:1:29: policy.dynamic_batching.enabled: nemo-rl/v0.7.0-cuda refuses it: dynamic batching "
        f"and sequence packing exclude each other (policy.dynamic_batching.enabled=true by -c {mine}; "
        f"policy.sequence_packing.enabled=true by {base})\n  set one of them to false\n"
    ) in done.stderr
    done = grpo("policy.dynamic_batching.enabled=true")
    assert done.code == 64 and f" exclude each other (policy.sequence_packing.enabled=true by {base})\n" in done.stderr


def test_asynchronous_grpo_with_the_defaults_lacks_three_things(grpo: Callable[..., Done]) -> None:
    told = grpo("grpo.async_grpo.enabled=true").stderr
    assert told.count("refuses it: asynchronous GRPO") == 3
    told = grpo("grpo.async_grpo.enabled=true", step="dapo").stderr
    assert "knows no dynamic sampling" in told and "knows no scaled rewards" in told and "no shaped rewards" in told


EXPANDABLE = "PYTORCH_CUDA_ALLOC_CONF: expandable_segments:True"


def test_a_variable_counts_wherever_it_is_set(grpo: Callable[..., Done], project: Project) -> None:
    what = "keeps its memory in a pool that PyTorch's expandable segments break"
    assert what not in grpo("--env", "PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:64").stderr
    assert what not in grpo("--env", EXPANDABLE.replace(": ", "="), step="dpo").stderr  # nothing generates
    profile = "schema: 1\nkind: slurm\nextends: slurm-pyxis\nenv: {PYTORCH_ALLOC_CONF: 'expandable_segments:True'}\n"
    file = project.write("slipway.d/profiles/site.yaml", profile)
    done = grpo("--profile", "site")
    assert done.code == 78 and what in done.stderr, done
    assert f"error: {file}:4:7: env.PYTORCH_ALLOC_CONF: " in done.stderr, done.stderr
    step = project.write("slipway.d/steps/mine/grpo/step.yaml", f"extends: [rl/nemo_rl/grpo]\nenv: {{{EXPANDABLE}}}\n")
    done = project.launch(*CLUSTER, "mine/grpo", *paths_of(project))
    assert done.code == 78 and f"{step}: env.PYTORCH_CUDA_ALLOC_CONF: " in done.stderr and what in done.stderr


def paths_of(project: Project) -> list[str]:
    folder = project.path.parent / "data"
    folder.mkdir(exist_ok=True)
    return [f"{a.name}={written(folder, a, '')}" for a in usual("grpo")]


def test_a_step_of_ones_own_is_refused_what_it_extends(project: Project) -> None:
    project.write("slipway.d/steps/mine/grpo/step.yaml", "extends: [rl/nemo_rl/grpo]\n")
    done = project.launch(*CLUSTER, "mine/grpo", *paths_of(project), "policy.dtensor_cfg.context_parallel_size=2")
    assert done.code == 64 and "DTensor's context parallelism knows no packed sequences" in done.stderr


@pytest.mark.parametrize(
    ("step", "said", "key"),
    [
        ("distillation", "teacher.sequence_packing.enabled=true", "teacher.dtensor_cfg.context_parallel_size"),
        ("rlhf", "env.reward_model.megatron_cfg.enabled=true", "env.reward_model.megatron_cfg.enabled"),
    ],
)
def test_every_model_of_a_step_is_looked_at(grpo: Callable[..., Done], step: str, said: str, key: str) -> None:
    more = (
        "env.reward_model.reward_model_cfg.enabled=true" if step == "rlhf" else "teacher.dynamic_batching.enabled=false"
    )
    done = grpo(said, more, step=step)
    (line,) = [line for line in done.stderr.splitlines() if "refuses it" in line]
    assert done.code == 64 and key in line and said in line


def test_the_number_of_gpus_is_told(grpo: Callable[..., Done]) -> None:
    done = grpo("policy.generation.vllm_cfg.tensor_parallel_size=16", "--gpus", "4")
    assert (
        done.code == 64
        and "have to share the GPUs that generate (" in done.stderr
        and "; 4 GPUs that generate; " in done.stderr
    ), done


def test_a_tree_of_ones_own_may_have_other_checks(spec_of: SpecOf) -> None:
    """It is only warned of, also where all that it takes is said."""
    row = ROWS["dynamic-batching-and-packing"]
    tree = Code(path="/opt/nemo-rl", commit="c" * 40, tree="d" * 40, files="e" * 40)
    words = [*row.example.words, "policy.sequence_packing.enabled=true"]
    said = msgspec.structs.replace(row, example=msgspec.structs.replace(row.example, words=words))
    (found,) = of(example(spec_of, said, "v0.7.0", hidden="/opt/nemo-rl/x", code={"nemo-rl": tree}), row)
    assert found.severity == "warning" and "refuses it, without --code nemo-rl: " in found.what


# What is not known.


@pytest.mark.parametrize("name", ["context-parallel-and-packing", "lora-and-tensor-parallel", "async-where-it-trains"])
def test_what_nobody_knows_is_not_taken_for_anything(spec_of: SpecOf, name: str) -> None:
    """Of a tree of the user's own neither record nor step.yaml says what its base has."""
    assert len(of(example(spec_of, ROWS[name], "v0.7.0"), ROWS[name])) == 1
    assert of(example(spec_of, ROWS[name], "v0.7.0", hidden="/opt/nemo-rl/x of --code nemo-rl"), ROWS[name]) == []


def test_what_the_record_of_an_image_says_counts_over_what_is_stated(spec_of: SpecOf) -> None:
    row = ROWS["context-parallel-and-packing"]
    for packed in (True, False):
        base = {"policy": {"dtensor_cfg": {"enabled": True}, "sequence_packing": {"enabled": packed}}}
        planned = example(spec_of, row, "v0.7.0", in_image=BaseFile(values=base))
        assert len(of(planned, row)) == packed


# Tables that are wrong.

ROW = """\
mine:
  if: [{if_}]
  what: it is so
  remedy: have it another way
  source: {{judged: by us}}
  example: {{step: mine/grpo}}
"""


@pytest.mark.parametrize(
    ("if_", "told"),
    [
        ("{key: policy.a, iss: 1}", "unknown key 'iss'"),
        ("{key: policy.a}", "found 0"),
        ("{key: policy.a, is: 1, above: 2}", "found 2"),
        ("{key: policy.a, variable: A, is: 1}", "found key and variable"),
        ("{is: 1}", "found none"),
        ("{key: gpuss, above: 1}", "'gpuss' is neither a configuration key nor one of nodes, gpus"),
        ("{key: policy.a, above: worlds}", "'worlds' is neither"),
    ],
)
def test_a_table_that_is_wrong_is_told_with_its_place(project: Project, if_: str, told: str) -> None:
    project.write("slipway.d/steps/mine/grpo/step.yaml", "extends: [rl/nemo_rl/grpo]\nconflicts: [mine/table]\n")
    table = project.write("slipway.d/steps/mine/table.yaml", ROW.format(if_=if_))
    done = project.launch(*CLUSTER, "mine/grpo", *paths_of(project))
    assert done.code == 78 and f"error: {table}:2:" in done.stderr and told in done.stderr, done


def test_a_table_that_is_not_there(project: Project) -> None:
    step = project.write("slipway.d/steps/mine/grpo/step.yaml", "extends: [rl/nemo_rl/grpo]\nconflicts: [mine/tabel]\n")
    project.write("slipway.d/steps/mine/table.yaml", ROW.format(if_="{key: policy.a, is: 1}"))
    done = project.launch(*CLUSTER, "mine/grpo", *paths_of(project))
    assert done.code == 78 and f"error: {step}: conflicts: there is no table 'mine/tabel'" in done.stderr, done


# The tables as a page.

PAGE = REPO / "docs" / "nemo-rl-conflicts.md"
HEAD = """\
# What NeMo RL refuses by itself

Made of `launcher/steps/rl/nemo_rl/conflicts/*.yaml` by `SLIPWAY_ACCEPT=1 pytest tests/test_nemo_rl_conflicts.py`, and
not to be edited. Each row is found when planning, where all that it takes is known: said on the command line or in a
`-c`, in the base that the image's record has, or stated in step.yaml. `<policy>` is each of the step's `policies:`,
`<section>` its own part of the configuration. Read at v0.4.0 to v0.7.0: where NEMO_RL_SOURCE names the repository of
NeMo RL, a test tries each row's example, and a neighbour that passes, on the library's own check at each tag, and
whether other tags let it pass. Of rows marked * it looks for the check's words, since what that compares is there in a
run alone. Under `--code` of NeMo RL they are warnings: its own checks count there.
"""


def page() -> str:
    text = HEAD
    for file in TABLES:
        named = yaml.safe_load(file.read_text())
        text += f"\n## {file.stem}\n\n| what | releases | where | remedy | NeMo RL |\n|---|---|---|---|---|\n"
        for name in named:
            row = msgspec.convert(named[name], Conflict)
            where = "; ".join(map(condition, row.if_))
            source = row.source.judged or f"{row.source.files[-1]}{' *' if row.source.only_said else ''}"
            kind = "" if row.severity == "error" else "warning: "
            cells = (f"{kind}{row.what}", row.when.get("nemo-rl", "all"), where, row.remedy, source)
            text += f"| {' | '.join(cell.replace('|', '/').replace('<', '&lt;') for cell in cells)} |\n"
    return text


def condition(c: Condition) -> str:
    if c.any:
        return " or ".join(map(condition, c.any))
    name, right = c.comparison
    left = c.variable or f"{c.input}{'=' if c.input else ''}{c.size and f' {c.size}'}" or " x ".join(
        map(str, conflicts.factors(c.key)))  # fmt: skip
    if name == "given":
        return f"{left} is {'' if right else 'not '}given"
    said = " x ".join(map(str, right)) if isinstance(right, list) and "is" not in name else json.dumps(right)
    return f"{left} {name.replace('_', ' ')} {said.strip(chr(34)) if isinstance(right, str | list) else said}"


def test_the_page_is_what_the_tables_say() -> None:
    compare(PAGE, page(), "SLIPWAY_ACCEPT=1 pytest tests/test_nemo_rl_conflicts.py")


def test_every_row_has_an_example() -> None:
    assert {name for file in TABLES for name in yaml.safe_load(file.read_text())} == set(ROWS)

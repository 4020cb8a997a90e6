"""Rehearses a step of NeMo RL without Ray: its own check of the configuration, and its own data path over every row.

Both are what the step's script itself calls before it asks Ray for anything; the script is imported, and not run.
"""

from __future__ import annotations

import copy
import os
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import nemo_rl_train
import slipway_inputs
import slipway_rehearsal
import slipway_small
import slipway_step
from slipway_rehearsal import Place, Row
from slipway_step import ConfigError

# What the script makes its data by -> what a row is.
SETUPS = {"setup_preference_data": "preferences", "setup_data": "conversations", "setup_response_data": "prompts"}


class Kind(NamedTuple):
    """`rows`: of SETUPS; `final`: of a row only the last message is learned; `learns`: whether tokens are, at all."""

    rows: str
    final: bool
    learns: bool


class Data(slipway_rehearsal.Data):
    """An input's rows as NeMo RL's AllTaskProcessedDataset has them. One that it masks is not learned.

    Of preferences the chosen answer is shown; of one that is masked the library keeps no length.
    """

    beyond = "masked"

    def __init__(self, kind: Kind, dataset: Any, tokenizer: Any, places: list[Place], limit: int) -> None:
        self.kind, self.dataset, self.tokenizer, self.places = kind, dataset, tokenizer, places
        self.limit = limit - 1 if kind.rows == "conversations" else limit  # which have to be shorter
        self.learns = kind.learns

    def read(self, number: int) -> Row:
        from nemo_rl.data.llm_message_utils import add_loss_mask_to_message_log

        datum = self.dataset[number]
        pair = self.kind.rows == "preferences"
        log = datum["message_log_chosen" if pair else "message_log"]
        whole = max(datum["length_chosen"], datum["length_rejected"]) if pair else datum["length"]
        add_loss_mask_to_message_log([log], only_unmask_final=self.kind.final)
        ids = [int(token) for message in log for token in message["token_ids"]]
        learned = [bool(mark) for message in log for mark in message["token_loss_mask"]]
        if not datum["loss_multiplier"]:
            return Row(ids, [False] * len(ids), max(int(whole), self.limit + 1))
        return Row(ids, learned if self.learns else [True] * len(ids), int(whole))


def main() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # rows are shared among processes already
    plan = slipway_step.load_plan()
    script = Path(plan["config"]["script"])
    if not script.is_file():
        raise ConfigError(f"{script}: the image does not have this script")
    repository = script.parents[1]
    config = slipway_step.merge_config(plan["config"], lambda base: nemo_rl_train.load_base(base, repository))
    config.pop("deadline", None)
    with slipway_step.config_file(config):
        pass
    sections = {name: (config.get("data") or {}).get(name) for name in ("train", "validation")}
    named = {n: Path(s["data_path"]) for n, s in sections.items() if isinstance(s, dict) and s.get("data_path")}
    with tempfile.TemporaryDirectory(dir=slipway_step.STATE) as folder:
        nemo_rl_train.join_rows(config.get("data") or {}, Path(folder))
        slipway_rehearsal.leave(tried(config, script, named, Path(folder)), None)


def tried(config: dict[str, Any], script: Path, named: dict[str, Path], folder: Path) -> dict[str, dict[str, Any]]:
    """What is found of each input. `named`: where their rows stand. Raises ConfigError."""
    repository = script.parents[1]
    os.chdir(repository)  # its configurations name prompts relative to it
    sys.path[:0] = [str(script.parent), str(repository)]
    library = runpy.run_path(str(script), run_name="slipway_rehearses")
    checked = check(config, library)
    tokenizer = library["get_tokenizer"](checked.policy["tokenizer"])
    if generation := checked.policy.get("generation"):
        configure(library, checked, generation, tokenizer)
    setup = next(name for name in SETUPS if name in library)
    return rehearse(kind_of(SETUPS[setup], library, checked), library[setup], checked, tokenizer, named, folder)


def kind_of(rows: str, library: dict[str, Any], checked: Any) -> Kind:
    """What is learned of the script's rows: as its algorithm calls add_loss_mask_to_message_log, and by its own key."""
    if rows == "preferences":
        return Kind(rows, final=True, learns="rm_train" not in library)  # a reward is of a whole answer
    return Kind(rows, bool(rows == "conversations" and checked.sft.only_unmask_final), rows == "conversations")


def check(config: dict[str, Any], library: dict[str, Any]) -> Any:
    """The script's MasterConfig. Raises ConfigError with the library's words for each key that it refuses."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from pydantic import ValidationError

    library.get("register_omegaconf_resolvers", lambda: None)()
    try:
        return library["MasterConfig"](**OmegaConf.to_container(OmegaConf.create(config), resolve=True))
    except ValidationError as e:
        wrong = [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in e.errors()]
        raise ConfigError(f"NeMo RL refuses the configuration: {'; '.join(wrong)}") from e
    except OmegaConfBaseException as e:
        raise ConfigError(f"NeMo RL refuses the configuration: {slipway_rehearsal.said(e)}") from e


def configure(library: dict[str, Any], checked: Any, generation: Any, tokenizer: Any) -> None:
    """What the script makes of the generation's section, which has checks of its own."""
    if "configure_generation_config" in library:
        try:
            checked.policy["generation"] = library["configure_generation_config"](generation, tokenizer)
        except (AssertionError, KeyError, ValueError) as e:
            raise ConfigError(f"policy.generation: NeMo RL raised {slipway_rehearsal.said(e)}") from e


def rehearse(
    kind: Kind, setup: Any, checked: Any, tokenizer: Any, named: dict[str, Path], folder: Path
) -> dict[str, dict[str, Any]]:
    """What is found of each input."""
    known = slipway_small.vocabulary(Path(checked.policy["model_name"]))
    told = {}
    for name in ("train", "validation"):
        if not checked.data.get(name):
            continue
        lines, where = rows_of(named[name]) if name in named else ([], [])
        try:
            data = load(setup, checked.data, name, tokenizer)
        except Exception as e:  # noqa: BLE001 - whatever the library raises is what is wrong
            told[name] = by_halves(e, setup, checked.data, name, tokenizer, lines, where, folder)
            continue
        count = len(data)
        places = where if len(where) == count else [Place(f"data.{name}", row + 1) for row in range(count)]
        limit = checked.data["max_input_seq_length"]
        told[name] = slipway_rehearsal.examine(name, Data(kind, data, tokenizer, places, limit), known)[1]
    return told


def load(setup: Any, data: dict[str, Any], name: str, tokenizer: Any) -> Any:
    """The library's dataset of an input, as the script makes it: each is loaded as if it were for training."""
    alone = {"train": copy.deepcopy(data[name]), "validation": None, "use_multiple_dataloader": False}
    config = {**copy.deepcopy(data), **alone, "val_data_paths": None}
    return setup(tokenizer, config)[0]


def rows_of(source: Path) -> tuple[list[bytes], list[Place]]:
    """The lines of an input, and where they stand; none of data that the library brings."""
    if not source.is_absolute():
        return [], []
    files = slipway_inputs.jsonl_files(source)
    return [line for line in slipway_inputs.lines(files) if line.strip()], slipway_rehearsal.places(files)


def by_halves(
    wrong: Exception, setup: Any, data: dict[str, Any], name: str, tokenizer: Any, lines: list[bytes],
    where: list[Place], folder: Path,
) -> dict[str, Any]:  # fmt: skip
    """What is told where the library cannot load an input: the rows that it cannot, or that it takes none at all."""
    tries = 0

    def build(some: list[bytes]) -> None:
        nonlocal tries
        tries += 1  # the library keeps what it has prepared by the file's path
        file = folder / f"{name}-{tries}.jsonl"
        file.write_bytes(b"".join(some))
        load(setup, {**data, name: {**data[name], "data_path": str(file)}}, name, tokenizer)

    faults = slipway_rehearsal.unreadable(build, lines)
    if not faults or len(faults) == len(lines):
        return slipway_rehearsal.refused(wrong, len(lines))
    return slipway_rehearsal.unloadable(faults, where)


if __name__ == "__main__":
    slipway_step.run(main)

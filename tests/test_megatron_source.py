"""What is refused of context parallelism, beside Megatron-Bridge's own assertions at the tags that the containers hold.

MEGATRON_BRIDGE_SOURCE names a git repository of Megatron-Bridge with its tags; without it nothing is compared, and
nothing of it is kept here. Nothing of the library is imported.
"""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Iterator

import pytest
from helpers import REPO

from launcher.catalog import definitions
from slipway.project import Root

SOURCE = os.environ.get("MEGATRON_BRIDGE_SOURCE", "")
TAGS = ("v0.4.0", "v0.4.1", "v0.4.2", "v0.5.0", "v0.5.1", "v0.6.0")
BEFORE_0_6 = TAGS[:5]
STEPS = ("sft/megatron_bridge", "peft/megatron_bridge")
pytestmark = pytest.mark.skipif(not SOURCE, reason="MEGATRON_BRIDGE_SOURCE names no repository of Megatron-Bridge")


def config(tag: str) -> ast.Module:
    command = ["git", "-C", SOURCE, "show", f"{tag}:src/megatron/bridge/training/config.py"]
    return ast.parse(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def asserted(tag: str) -> Iterator[tuple[list[str], str]]:
    """The assertions of the whole configuration: under which conditions each stands, and what it asserts."""

    def walk(node: ast.AST, above: list[str]) -> Iterator[tuple[list[str], str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Assert):
                yield above, ast.unparse(child.test)
            conditions = [*above, ast.unparse(child.test)] if isinstance(child, ast.If) else above
            yield from walk(child, conditions)

    return walk(next(n for n in config(tag).body if isinstance(n, ast.ClassDef) and n.name == "ConfigContainer"), [])


def of_context(tag: str) -> list[tuple[list[str], str]]:
    return [(above, test) for above, test in asserted(tag) if "self.model.context_parallel_size > 1" in above]


@pytest.mark.parametrize("tag", TAGS)
def test_nothing_more_is_asserted_of_context_parallelism(tag: str) -> None:
    """The length in every training; a loss per token, and no mean of gradients, where it is fine-tuned."""
    length, loss, mean = of_context(tag)
    assert length[1] == "self.model.seq_length % (self.model.context_parallel_size * 2) == 0" and len(length[0]) == 1
    assert (loss[1], mean[1]) == ("self.model.calculate_per_token_loss", "not self.ddp.average_in_collective")
    dataset = "FinetuningDatasetConfig" if tag in BEFORE_0_6 else "GPTSFTDatasetConfig"
    assert loss[0] == mean[0] and "isinstance(self.dataset" in loss[0][-1] and dataset in loss[0][-1]


@pytest.mark.parametrize("tag", TAGS)
def test_nothing_more_is_asserted_of_its_exchange(tag: str) -> None:
    tests = [test for _, test in asserted(tag) if "hcp_sizes" in test]
    assert tests == ["hcp_sizes is not None", "prod(hcp_sizes) == cp_size"]


@pytest.mark.parametrize("step", STEPS)
def test_the_roles_are_of_the_keys_that_are_asserted(step: str) -> None:
    roles = definitions.find_step(Root(REPO), step).roles
    assert (roles["per_token_loss"], roles["averaged_gradients"]) == (
        "model.calculate_per_token_loss",
        "ddp.average_in_collective",
    )
    assert roles["context_levels"] == "model.hierarchical_context_parallel_sizes"
    assert roles["context_exchange"] == "model.cp_comm_type"

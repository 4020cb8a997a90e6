"""data_prep/rl_prep through `launch`, in NeMo RL's cpu image without NeMo RL: what comes out is an input again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from .conftest import with_image
from .support import Tree

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def quay(project: Tree, ground: Path, address: str) -> Tree:
    """A project that has the record of NeMo RL's cpu image, built without the repository, which is not needed here."""
    return with_image(project, ground / "quay", address, "nemo-rl", "--source", "nemo-rl=none")


def test_shards_become_a_training_and_a_validation_file(quay: Tree, place: Path) -> None:
    shards = place / "shards"
    shards.mkdir()
    for number in range(3):
        rows = [{"input": f"{n} + {number}?", "output": str(n + number), "split": "own"} for n in range(100)]
        (shards / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("data_prep/rl_prep", "--flavour", "cpu", "-c", "tiny", f"train={shards}")
    done = quay.launch(*words, f"output={place / 'out'}")
    assert done.code == 0, done
    result = quay.run_of(done).outcome["result"]
    assert (result["type"], result["rows_read"]) == ("prompt_jsonl", 300)
    assert result["train"]["rows"] + result["validation"]["rows"] == 300 and result["validation"]["rows"] > 30
    for name in ("train", "validation"):
        file = place / "out" / f"{name}.jsonl"
        assert hashlib.sha256(file.read_bytes()).hexdigest() == result[name]["sha256"]
        checked = quay.launch("check", "--full", str(file))
        assert checked.code == 0 and f"{file}: prompt_jsonl" in checked.out, checked

    done = quay.launch(*words, f"output={place / 'never'}", "split.seed=none")
    assert done.code == 78 and "split.seed: 'none' is no whole number" in done.out and "Traceback" not in done.out

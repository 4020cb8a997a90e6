"""Pretraining with AutoModel through `launch`, on documents that the library's own writer has tokenized."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Work
from .support import PROJECT, Done, Run, Tree
from .tried import Tried

pytestmark = pytest.mark.real
STEPS = PROJECT / "entrypoints" / "steps"
# Every conversation is a document; they go to the files in turn.
WRITE = """
import json, sys, torch
from transformers import AutoTokenizer
from nemo_automodel.components.datasets.llm.megatron.indexed_dataset import IndexedDatasetBuilder
model, data, *prefixes = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(model)
texts = ["\\n".join(m["content"] for m in json.loads(line)["messages"]) for line in open(data)][:400]
for number, prefix in enumerate(prefixes):
    builder = IndexedDatasetBuilder(prefix + ".bin")
    for text in texts[number::len(prefixes)]:
        ids = tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]
        builder.add_document(torch.tensor(ids, dtype=torch.int32), [len(ids)])
    builder.finalize(prefix + ".idx")
"""
# Sample k of a text has to be its tokens from k x length on, one more than length, whatever its documents.
SAMPLES = """
import sys, numpy
sys.path.insert(0, sys.argv[1])
import automodel_indices
draw = numpy.random.RandomState(1)
for length in (2, 3, 7, 40):
    for extra, whole in ((1, True), (1, False), (0, True)):
        sizes = draw.randint(0, 30, 50).astype("int32")
        order = numpy.concatenate([draw.permutation(50), draw.permutation(50)]).astype("int32")
        parts = [[(d, i) for i in range(sizes[d])] for d in order]
        text = [token for part in parts for token in part]
        index = automodel_indices.sample_index("int32")(sizes, order, length, 2, int(sizes.sum()), whole, extra)
        if whole:
            assert len(index) - 1 == (len(text) - extra) // length
        elif (len(text) - extra) % length:
            assert tuple(index[-1]) == (len(order) - 1, sizes[order[-1]] - extra)
        for k, ((row, offset), (last, end)) in enumerate(zip(index, index[1:])):
            found = [t for r in range(row, last + 1) for t in parts[r]]
            found = found[offset : len(found) - len(parts[last]) + end + extra]
            assert found == text[k * length : k * length + length + extra], (length, extra, k)
print("samples are right")
"""
SAME = """
import sys
from safetensors.torch import load_file
from pathlib import Path
first, second = ({n: t for f in Path(p).glob("*.safetensors") for n, t in load_file(f).items()} for p in sys.argv[1:])
assert first.keys() == second.keys() and len(first) == 39
print("equal", sum(bool(first[n].equal(second[n])) for n in first))
"""


@pytest.fixture(scope="module")
def documents(project: Tree, work: Work, ground: Path) -> Path:
    """A folder with two pairs of files, a and b."""
    folder = ground / "documents"
    folder.mkdir()
    inside(project, WRITE, work.model, work.train, folder / "a", folder / "b", mounts=(work.folder, folder))
    assert sorted(p.name for p in folder.iterdir()) == ["a.bin", "a.idx", "b.bin", "b.idx"]
    return folder


def inside(tree: Tree, program: str, *words: Path, mounts: tuple[Path, ...]) -> Done:
    """A program in AutoModel's image, that has to succeed."""
    named = [word for mount in mounts for word in ("--mount", str(mount))]
    command = ["python", "-c", program, *map(str, words)]
    done = tree.images("run", "automodel", "--flavour", "cpu", *named, "--", *command)
    assert done.code == 0, done
    return done


def train(tree: Tree, data: Path, work: Work, output: Path, *more: str) -> tuple[Done, Run]:
    step = ("pretrain/automodel", "--flavour", "cpu", "-c", "tiny")
    done = tree.launch(*step, f"data={data}", f"model={work.model}", f"output={output}", *more)
    assert done.code == 0, done
    return done, tree.run_of(done)


def test_two_processes_learn_from_a_folder_of_documents(tree: Tree, tried: Callable[[str], Tried]) -> None:
    """By the selftest, which has two."""
    found = tried("automodel")
    run = found.run("pretrain/automodel")
    result = run.outcome["result"]
    assert (result["steps"], result["total_steps"], result["type"]) == (20, 20, "checkpoint_hf")
    assert result["last_loss"] < result["first_loss"] - 0.5
    assert run.log.count("[val]") >= 2 and "the samples' indices are computed by numpy" in run.log
    assert (run.path / "container" / "0" / "ranks" / "1.pid").is_file()
    descriptions = [p.read_text() for p in (run.path / "container" / "data").glob("*Blended*train*description.txt")]
    (told,) = map(json.loads, descriptions)
    assert [Path(one["dataset_path"]).name for one in told["datasets"]] == ["first", "second"]
    program = ["python", "-c", SAME, str(found.material("model")), str(found.made("pretrain/automodel"))]
    equal = tree.images("run", "automodel", "--flavour", "cpu", *found.mounts, "--", *program)
    assert "equal 0\n" in equal.out  # not one tensor is the model's: the weights were new ones


def test_a_model_s_own_weights_are_what_start_weights_means(
    tree: Tree, documents: Path, work: Work, place: Path
) -> None:
    words = ("start=weights", "max_steps=1", "learning_rate=0.0", "lr_scheduler.min_lr=0.0", "split=1,0,0")
    done, run = train(tree, documents / "a", work, place / "out", *words)
    assert "[val]" not in done.out  # the split leaves nothing for it
    found = inside(tree, SAME, work.model, Path(run.outcome["checkpoint"]), mounts=(work.folder, place))
    assert "equal 39\n" in found.out


def test_without_a_compiler_the_samples_are_the_same(tree: Tree) -> None:
    assert "samples are right" in inside(tree, SAMPLES, STEPS, mounts=(STEPS, PROJECT / "slipway")).out

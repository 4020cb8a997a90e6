"""Every Megatron-Bridge step through `launch` in its cpu image, on a tiny real model: what a selftest of it leaves."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from .cache import converted, reads
from .conftest import Work, spoil
from .support import ENDLESS, PROJECT, Tree, told
from .tried import Tried

pytestmark = pytest.mark.real


@dataclass(frozen=True)
class Voyage:
    """A selftest's outputs by the names that the example gives them, in `folder`, and the model that they come from."""

    folder: Path
    model: Path


MADE = {
    "packed": "data_prep/sft_packing", "base": "convert/hf_to_megatron", "sft": "sft/megatron_bridge",
    "lora": "peft/megatron_bridge", "merged": "convert/merge_lora", "back": "convert/megatron_to_hf",
    "documents": "data_prep/pretrain_prep", "pretrained": "pretrain/megatron_bridge",
}  # fmt: skip


@pytest.fixture(scope="module")
def voyage(dock: Tree, tried: Callable[[str], Tried], ground: Path) -> Voyage:
    """With one more: `tuned`, the fine-tuned weights as Hugging Face has them."""
    found = tried("megatron-bridge")
    made = Voyage(ground / "voyage", found.material("model"))
    for name, step in MADE.items():
        shutil.copytree(found.output(step), made.folder / name)
    words = ("convert/megatron_to_hf", "--flavour", "cpu", "-c", "tiny", f"config={made.model}")
    done = dock.launch(*words, f"model={found.made('sft/megatron_bridge')}", f"output={made.folder / 'tuned'}")
    assert done.code == 0, done
    return made


def test_all_steps_run_and_the_conversion_changes_nothing(dock: Tree, voyage: Voyage) -> None:
    """By the example's own look at what it makes."""
    example = PROJECT / "examples" / "megatron"
    mounts = [word for folder in (voyage.folder, voyage.model, example) for word in ("--mount", str(folder))]
    program = ("python", str(example / "verify.py"), str(voyage.model), str(voyage.folder))
    done = dock.images("run", "megatron-bridge", "--flavour", "cpu", *mounts, "--", *program)
    assert done.code == 0, done
    assert "converted there and back: largest difference 0.0\n" in done.out
    assert "fine-tuned: 39 of 39 tensors have changed" in done.out and "LoRA, merged:" in done.out


def test_two_processes_train_together(tried: Callable[[str], Tried]) -> None:
    run = tried("megatron-bridge").run("sft/megatron_bridge")
    assert run.record["plan"]["shape"] == {"nodes": 1, "gpus": 0, "procs": 2}
    assert (run.path / "container" / "0" / "ranks" / "1.pid").is_file()


# The texts once more: rows of Parquet; and in two files, of which one is packed with zstd. pyarrow is the image's.
PARTS = """
import json, sys, pathlib, pyarrow
from pyarrow import parquet
sys.path.insert(0, sys.argv[3])
import slipway_corpus
source, folder = map(pathlib.Path, sys.argv[1:3])
lines = source.read_bytes().splitlines(keepends=True)
(folder / "parts").mkdir()
packed = pyarrow.Codec("zstd").compress(b"".join(lines[:150]), asbytes=True)
(folder / "parts" / "a.jsonl.zst").write_bytes(packed)
(folder / "parts" / "b.jsonl").write_bytes(b"".join(lines[150:]))
table = pyarrow.table({"content": [json.loads(line)["text"] for line in lines]})
parquet.write_table(table, folder / "all.parquet", row_group_size=70)
for name, data, type_, field in (
    ("cut.jsonl.zst", packed[:-100], "text_jsonl", "text"),
    ("cut.parquet", (folder / "all.parquet").read_bytes()[:-9], "text_parquet", "content"),
):
    (folder / name).write_bytes(data)
    try:
        print("whole:", sum(1 for _ in slipway_corpus.blocks(folder / name, type_, field, "file")))
    except slipway_corpus.ConfigError as e:
        print(e)
"""


def test_texts_become_documents_on_which_both_libraries_train(
    dock: Tree, tried: Callable[[str], Tried], place: Path
) -> None:
    """Megatron-Bridge has, in the selftest. AutoModel's own reader reads the same folder."""
    found = tried("megatron-bridge")
    prepared, trained = found.run("data_prep/pretrain_prep"), found.run("pretrain/megatron_bridge")
    documents = found.output("data_prep/pretrain_prep")
    record = json.loads((documents / "slipway.json").read_text())
    rows = len(found.material("texts").read_text().splitlines())
    assert sum(s["documents"] for made in record["splits"].values() for s in made) == rows
    assert prepared.outcome["result"]["counts"]["documents"] == rows
    result = trained.outcome["result"]
    assert result["steps"] == 8 and result["last_loss"] < result["first_loss"]
    assert "validation loss at iteration 4" in trained.log
    words = ("pretrain/automodel", "--flavour", "cpu", "-c", "tiny", "max_steps=4", f"model={found.material('model')}")
    done = dock.launch(*words, f"data={documents / 'blend.json'}", f"output={place / 'out'}")
    assert done.code == 0 and done.out.count("[val]") >= 1, done
    result = dock.run_of(done).outcome["result"]
    assert result["steps"] == 4 and result["last_loss"] < result["first_loss"]


def test_texts_in_any_form_become_the_same_documents(dock: Tree, tried: Callable[[str], Tried], place: Path) -> None:
    """Byte for byte, and with one worker as with all. What is cut off is no text."""
    found = tried("megatron-bridge")
    steps = PROJECT / "entrypoints" / "steps"
    mounts = [word for folder in (place, steps, PROJECT / "slipway") for word in ("--mount", str(folder))]
    command = ["python", "-c", PARTS, str(found.material("texts")), str(place), str(steps)]
    done = dock.images("run", "megatron-bridge", "--flavour", "cpu", *mounts, *found.mounts, "--", *command)
    assert done.code == 0 and "cut.jsonl.zst: the zstd data is broken: " in done.out, done
    assert "cut.parquet: cannot be read as Parquet: " in done.out and "whole:" not in done.out
    words = ("data_prep/pretrain_prep", "--flavour", "cpu", "-c", "tiny", "workers=1")
    made = [p for p in sorted(found.output("data_prep/pretrain_prep").iterdir()) if p.is_file()]
    for source, named in (("parts", []), ("all.parquet", ["text_field=content"])):
        output = place / f"of-{source}"
        paths = (f"train={place / source}", f"tokenizer={found.material('model')}", f"output={output}")
        done = dock.launch(*words, *named, *paths)
        assert done.code == 0, done
        assert len(made) == 6
        for file in (f for f in made if f.name != "slipway.json"):
            assert file.read_bytes() == (output / file.name).read_bytes(), file


def test_told_to_stop_it_saves_and_goes_on(dock: Tree, voyage: Voyage, place: Path) -> None:
    """By its own train.exit_signal_handler, in each rank."""
    words = ["sft/megatron_bridge", "--flavour", "cpu", "-c", "tiny", f"train={voyage.folder / 'packed'}"]
    words += [f"model={voyage.folder / 'base'}", f"tokenizer={voyage.model}", f"output={place / 'out'}"]
    launched = dock.start("launch", *words, f"max_steps={ENDLESS}")
    launched.await_line(r"iteration +3/")
    launched.signal(signal.SIGTERM)
    assert launched.finish().code == 143
    state, _, reason = told(dock, dock.run_of(launched))
    assert (state, reason) == ("stopped", "stopped: told to stop by TERM; exit code 0")
    (saved,) = (int(path.name[5:]) for path in (place / "out").glob("iter_*"))
    assert saved >= 3
    again = dock.launch(*words, f"max_steps={saved + 1}", "--resume")
    assert again.code == 0 and re.findall(r"iteration +(\d+)/", again.out) == [str(saved + 1)], again


def test_training_with_another_tokenizer_than_the_packings_is_refused(dock: Tree, voyage: Voyage) -> None:
    other = voyage.folder / "other"
    shutil.copytree(voyage.model, other)
    config = json.loads((other / "tokenizer_config.json").read_text())
    template = other / "chat_template.jinja"
    template.write_text(
        (template.read_text() if template.exists() else config.get("chat_template", "")) + "\n{# other #}"
    )
    words = ("sft/megatron_bridge", "--flavour", "cpu", "-c", "tiny", f"train={voyage.folder / 'packed'}")
    done = dock.launch(
        *words, f"model={voyage.folder / 'base'}", f"tokenizer={other}", f"output={voyage.folder / 'never'}"
    )
    assert done.code in (65, 78), done
    assert "template" in done.err and not list((voyage.folder / "never").glob("iter_*"))


def test_a_packing_for_another_step_names_what_is_wanted(dock: Tree, voyage: Voyage, place: Path) -> None:
    words = (
        "sft/automodel",
        "--flavour",
        "cpu",
        "-c",
        "tiny",
        f"train={voyage.folder / 'packed'}",
        f"model={voyage.model}",
    )
    done = dock.launch(*words, f"output={place / 'out'}")
    assert done.code == 65
    assert "is no chat_jsonl: found packed_parquet" in done.err


def test_what_has_to_be_converted_first_is_converted_once(dock: Tree, work: Work, place: Path) -> None:
    words = ["sft/megatron_bridge", "--flavour", "cpu", "-c", "tiny", "--convert", f"train={work.train}", "max_steps=1"]
    words += [f"model={work.model}", f"tokenizer={work.model}"]
    planned = dock.launch(*words, "--dry-run")
    assert planned.code == 0 and "convert/hf_to_megatron" in planned.err and "megatron_convert.py" in planned.out
    before = dock.all_runs()
    first = dock.launch(*words, f"output={place / 'one'}")
    assert first.code == 0 and list((place / "one").glob("iter_*")), first
    ran = [run.record["plan"]["step"] for run in dock.since(before)]
    assert ran == ["convert/hf_to_megatron", "sft/megatron_bridge"]
    again = dock.launch(*words, "--dry-run")
    assert again.code == 0 and "has made" in again.err and "megatron_train.py" in again.out


def test_what_nemo_rl_keeps_is_made_by_bridge_and_can_be_adopted(dock: Tree, voyage: Voyage, place: Path) -> None:
    """The conversion that a step of Ray finds in NRL_MEGATRON_CHECKPOINT_DIR; the other launch takes it as it is."""
    words = reads(voyage.model, place / "one", "bridge")
    done = dock.launch(*words, "--megatron-cache", str(place / "cache"))
    assert done.code == 0 and "policy: first convert/hf_to_megatron, into " in done.err, done
    seen = json.loads((place / "one" / "seen.json").read_text())
    assert {"run_config.yaml", "metadata.json", ".metadata", "__0_0.distcp"} <= set(seen["iteration"])
    (made,) = converted(dock, place / "cache")
    assert made["state"] == "whole" and made["bytes"] > 1e6
    verified = dock.launch("cache", "verify", "--megatron-cache", str(place / "cache"))
    assert verified.code == 0 and re.search(r"[1-9]\d* looked at, 0 faults", verified.err), verified

    other = ("--megatron-cache", str(place / "other"))
    adopted = dock.launch(
        "cache",
        "adopt",
        str(voyage.folder / "base"),
        "test/bridge",
        f"policy={voyage.model}",
        "--flavour",
        "cpu",
        *other,
    )
    assert adopted.code == 0, adopted
    done = dock.launch(*reads(voyage.model, place / "two", "bridge"), *other)
    assert done.code == 0 and "convert/hf_to_megatron" not in done.err, done


def test_packing_is_rehearsed_on_every_row(dock: Tree, work: Work, place: Path) -> None:
    """What only the library knows of a row, what it learns of the others, and which it leaves out."""
    rows = spoil(work, place)
    words = (
        f"train={place / 'chats.jsonl'}",
        f"tokenizer={place / 'llama'}",
        "pack_size=40",
        f"output={place / 'out'}",
    )
    done = dock.launch("rehearse", "data_prep/sft_packing", "--flavour", "cpu", *words)
    assert done.code == 65, done
    assert f"error: {place / 'chats.jsonl'}:5: TemplateError: too many\n" in done.err
    assert re.search(r"warning: train=: \d+ of 11 rows have more than 41 tokens .* and are left out", done.err)
    assert f"[[{rows[0]['messages'][-1]['content']}<|im_end|>" in done.out
    assert not (place / "out").exists()


DAMAGE = """
import sys
from pyarrow import Table, parquet
table = parquet.read_table(sys.argv[1])
rows = table.slice(0, 12).to_pylist()
rows[6]["loss_mask"].pop()
parquet.write_table(Table.from_pylist(rows, schema=table.schema), sys.argv[1])
"""


def test_packed_rows_are_rehearsed_as_the_library_reads_them(
    dock: Tree, voyage: Voyage, tried: Callable[[str], Tried], place: Path
) -> None:
    """Its own rule of a row, which training leaves out; two steps of a small model take the others."""
    shutil.copytree(voyage.folder / "packed", place / "packed")
    (rows,) = (place / "packed").glob("training_*.parquet")
    damaged = ("--mount", str(place), "--", "python", "-c", DAMAGE, str(rows))
    assert dock.images("run", "megatron-bridge", "--flavour", "cpu", *damaged).code == 0
    words = ("peft/megatron_bridge", "--flavour", "cpu", "-c", "tiny", f"train={place / 'packed'}")
    done = dock.launch("rehearse", *words, f"model={voyage.folder / 'base'}", f"tokenizer={voyage.model}")
    assert done.code == 65, done
    wrong = re.findall(rf"^error: {re.escape(str(rows))}:(\d+): (.*)$", done.err, re.M)
    assert len(wrong) == 1 and wrong[0][0] == "7", done
    assert re.fullmatch(r"ValueError: Row 7: loss_mask length \(\d+\) != input_ids length \(\d+\)", wrong[0][1])
    chats = [
        json.loads(line)["messages"] for line in tried("megatron-bridge").material("chats").read_text().splitlines()
    ]
    answers = {f"{chat[-1]['content']}<|im_end|>\n" for chat in chats}  # the template's newline is learned, too
    shown = set(re.findall(r"\[\[(.*?)\]\]", re.sub(r"^    ", "", done.out, flags=re.M), re.S)) - {" "}  # the legend
    assert len(shown) > 3 and shown <= answers, shown
    assert re.search(r"^steps       loss \d\.\d+ -> \d\.\d+$", done.out, re.M)
    assert "steps       saved iter_0000002 (checkpoint_lora)" in done.out
    assert "GPTModelProvider with 2 layers" in done.out


def test_what_would_be_converted_first_is_rehearsed_by_a_small_conversion(dock: Tree, work: Work, place: Path) -> None:
    """--rehearse with --convert: nothing is converted but a small model, and nothing is submitted."""
    spoil(work, place)
    words = ("sft/megatron_bridge", "--flavour", "cpu", "-c", "tiny", f"train={place / 'chats.jsonl'}")
    before = dock.all_runs()
    inputs = (f"model={place / 'llama'}", f"tokenizer={place / 'llama'}", f"output={place / 'out'}")
    done = dock.launch("--rehearse", "--convert", *words, *inputs)
    assert done.code == 65, done
    assert f"error: {place / 'chats.jsonl'}:5: TemplateError: too many\n" in done.err
    assert "steps       converted by Megatron-Bridge, as convert/hf_to_megatron does" in done.err
    assert "steps       saved iter_0000002 (checkpoint_megatron)" in done.err
    assert f"there what convert/hf_to_megatron makes of {place / 'llama'}" in done.err
    assert [run.record["plan"]["step"] for run in dock.since(before)] == ["sft/megatron_bridge"]
    assert not (place / "out").exists()


DOCUMENTS = """
import json, sys, torch
from transformers import AutoTokenizer
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
model, data, prefix = sys.argv[1:]
tokenizer, builder = AutoTokenizer.from_pretrained(model), IndexedDatasetBuilder(prefix + ".bin")
for line in list(open(data))[:100]:
    ids = tokenizer(json.loads(line)["messages"][-1]["content"])["input_ids"]
    builder.add_document(torch.tensor(ids, dtype=torch.int32), [len(ids)])
builder.finalize(prefix + ".idx")
"""


@pytest.mark.long
def test_pretraining_is_rehearsed_on_documents_that_nobody_may_write_beside(
    dock: Tree, work: Work, place: Path
) -> None:
    words = ("--mount", str(work.folder), "--mount", str(place), "--", "python", "-c", DOCUMENTS, str(work.model))
    made = dock.images("run", "megatron-bridge", "--flavour", "cpu", *words, str(work.train), str(place / "docs"))
    assert made.code == 0, made
    inputs = (f"data={place / 'docs'}", f"tokenizer={work.model}")
    done = dock.launch("rehearse", "pretrain/megatron_bridge", "--flavour", "cpu", "-c", "tiny", *inputs, "--json")
    assert done.code == 0, done
    found = json.loads(done.out)
    assert (found["data"]["data"]["rows"], found["data"]["data"]["faulty"]) == (100, 0)
    assert len(found["steps"]["losses"]) == 2 and "2 layers" in found["steps"]["models"]["model"]

"""Every Megatron-Bridge step through `launch` in its cpu image, on a tiny real model: the example, what it leaves."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest

from .cache import converted, reads
from .conftest import Work
from .support import ENDLESS, PATIENCE, PROJECT, Running, Tree, told

pytestmark = pytest.mark.real
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def voyage(dock: Tree, work: Work, ground: Path) -> Path:
    """The example's folder, after it has run."""
    folder = ground / "voyage"
    command = [
        "bash",
        str(PROJECT / "examples/megatron/run.sh"),
        str(work.folder / "data"),
        str(work.model),
        str(folder),
    ]
    env = {**dock.env, "PATH": f"{BIN}:{dock.env['PATH']}"}
    done = Running(command, dock.path, env).finish(4 * PATIENCE)  # nine launches
    assert done.code == 0, (done.out[-3000:], done.err[-3000:])
    (folder / "out").write_text(done.out)
    return folder


def test_all_steps_run_and_the_conversion_changes_nothing(voyage: Path) -> None:
    out = (voyage / "out").read_text()
    assert "converted there and back: largest difference 0.0\n" in out
    assert "fine-tuned: 39 of 39 tensors have changed" in out and "LoRA, merged:" in out


# The texts once more: rows of Parquet; and in two files, of which one is packed with zstd. pyarrow is the image's.
PARTS = """
import json, sys, pathlib, pyarrow
from pyarrow import parquet
sys.path.insert(0, sys.argv[3])
import slipway_corpus
source, folder = map(pathlib.Path, sys.argv[1:3])
lines = source.read_bytes().splitlines(keepends=True)
(folder / "parts").mkdir()
packed = pyarrow.Codec("zstd").compress(b"".join(lines[:1500]), asbytes=True)
(folder / "parts" / "a.jsonl.zst").write_bytes(packed)
(folder / "parts" / "b.jsonl").write_bytes(b"".join(lines[1500:]))
table = pyarrow.table({"content": [json.loads(line)["content"] for line in lines]})
parquet.write_table(table, folder / "all.parquet", row_group_size=700)
for name, data, type_ in (
    ("cut.jsonl.zst", packed[:-100], "text_jsonl"),
    ("cut.parquet", (folder / "all.parquet").read_bytes()[:-9], "text_parquet"),
):
    (folder / name).write_bytes(data)
    try:
        print("whole:", sum(1 for _ in slipway_corpus.blocks(folder / name, type_, "content", "file")))
    except slipway_corpus.ConfigError as e:
        print(e)
"""


def test_texts_become_documents_on_which_both_libraries_train(
    dock: Tree, voyage: Path, work: Work, place: Path
) -> None:
    """Megatron-Bridge has, in the voyage. AutoModel's own reader reads the same folder."""
    runs = {r.record["plan"]["step"]: r for r in dock.all_runs() if f"{voyage}/" in str(r.record["plan"])}
    prepared, trained = runs["data_prep/pretrain_prep"], runs["pretrain/megatron_bridge"]
    record = json.loads((voyage / "documents" / "slipway.json").read_text())
    rows = len((voyage / "texts.jsonl").read_text().splitlines())
    assert sum(s["documents"] for made in record["splits"].values() for s in made) == rows
    assert prepared.outcome["result"]["counts"]["documents"] == rows
    result = trained.outcome["result"]
    assert result["steps"] == 8 and result["last_loss"] < result["first_loss"] - 0.05
    assert "validation loss at iteration 4" in trained.log
    words = ("pretrain/automodel", "--flavour", "cpu", "-c", "tiny", "max_steps=4", f"model={work.model}")
    done = dock.launch(*words, f"data={voyage / 'documents' / 'blend.json'}", f"output={place / 'out'}")
    assert done.code == 0 and done.out.count("[val]") >= 1, done
    result = dock.run_of(done).outcome["result"]
    assert result["steps"] == 4 and result["last_loss"] < result["first_loss"]


def test_texts_in_any_form_become_the_same_documents(dock: Tree, voyage: Path, work: Work, place: Path) -> None:
    """Byte for byte, and with one worker as with all. What is cut off is no text."""
    steps = PROJECT / "entrypoints" / "steps"
    mounts = [word for folder in (voyage, place, steps, PROJECT / "slipway") for word in ("--mount", str(folder))]
    command = ["python", "-c", PARTS, str(voyage / "texts.jsonl"), str(place), str(steps)]
    done = dock.images("run", "megatron-bridge", "--flavour", "cpu", *mounts, "--", *command)
    assert done.code == 0 and "cut.jsonl.zst: the zstd data is broken: " in done.out, done
    assert "cut.parquet: cannot be read as Parquet: " in done.out and "whole:" not in done.out
    words = ("data_prep/pretrain_prep", "--flavour", "cpu", "-c", "tiny", "text_field=content", "workers=1")
    for source in ("parts", "all.parquet"):
        output = place / f"of-{source}"
        done = dock.launch(*words, f"train={place / source}", f"tokenizer={work.model}", f"output={output}")
        assert done.code == 0, done
        files = [p for p in sorted((voyage / "documents").iterdir()) if p.is_file()]
        assert len(files) == 6
        for file in files:
            assert file.read_bytes() == (output / file.name).read_bytes(), file


def test_told_to_stop_it_saves_and_goes_on(dock: Tree, voyage: Path, work: Work, place: Path) -> None:
    """By its own train.exit_signal_handler, in each rank."""
    words = ["sft/megatron_bridge", "--flavour", "cpu", "-c", "tiny", f"train={voyage / 'packed'}"]
    words += [f"model={voyage / 'base'}", f"tokenizer={work.model}", f"output={place / 'out'}"]
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


def test_training_with_another_tokenizer_than_the_packings_is_refused(dock: Tree, voyage: Path, work: Work) -> None:
    other = voyage / "other"
    shutil.copytree(work.model, other)
    config = json.loads((other / "tokenizer_config.json").read_text())
    template = other / "chat_template.jinja"
    template.write_text(
        (template.read_text() if template.exists() else config.get("chat_template", "")) + "\n{# other #}"
    )
    words = ("sft/megatron_bridge", "--flavour", "cpu", "-c", "tiny", f"train={voyage / 'packed'}")
    done = dock.launch(*words, f"model={voyage / 'base'}", f"tokenizer={other}", f"output={voyage / 'never'}")
    assert done.code in (65, 78), done
    assert "template" in done.err and not list((voyage / "never").glob("iter_*"))


def test_a_packing_for_another_step_names_what_is_wanted(dock: Tree, voyage: Path, work: Work, place: Path) -> None:
    words = ("sft/automodel", "--flavour", "cpu", "-c", "tiny", f"train={voyage / 'packed'}", f"model={work.model}")
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


def test_what_nemo_rl_keeps_is_made_by_bridge_and_can_be_adopted(
    dock: Tree, work: Work, voyage: Path, place: Path
) -> None:
    """The conversion that a step of Ray finds in NRL_MEGATRON_CHECKPOINT_DIR; the other launch takes it as it is."""
    words = reads(work.model, place / "one", "bridge")
    done = dock.launch(*words, "--megatron-cache", str(place / "cache"))
    assert done.code == 0 and "policy: first convert/hf_to_megatron, into " in done.err, done
    seen = json.loads((place / "one" / "seen.json").read_text())
    assert {"run_config.yaml", "metadata.json", ".metadata", "__0_0.distcp"} <= set(seen["iteration"])
    (made,) = converted(dock, place / "cache")
    assert made["state"] == "whole" and made["bytes"] > 1e6
    verified = dock.launch("cache", "verify", "--megatron-cache", str(place / "cache"))
    assert verified.code == 0 and re.search(r"[1-9]\d* looked at, 0 faults", verified.err), verified

    (source,) = (p.parent for p in voyage.glob("*/iter_0000000") if (p.parent / "iter_0000000" / "tokenizer").is_dir())
    other = ("--megatron-cache", str(place / "other"))
    adopted = dock.launch(
        "cache", "adopt", str(source), "test/bridge", f"policy={work.model}", "--flavour", "cpu", *other
    )
    assert adopted.code == 0, adopted
    done = dock.launch(*reads(work.model, place / "two", "bridge"), *other)
    assert done.code == 0 and "convert/hf_to_megatron" not in done.err, done


def test_packing_is_rehearsed_on_every_row(dock: Tree, work: Work, place: Path) -> None:
    """What only the library knows of a row, what it learns of the others, and which it leaves out."""
    shutil.copytree(work.model, place / "llama")
    template = place / "llama" / "chat_template.jinja"
    strict = "{% if messages | length > 2 %}{{ raise_exception('too many') }}{% endif %}"
    template.write_text(strict + template.read_text())
    rows = [json.loads(line) for line in work.train.read_text().splitlines()[:12]]
    rows[4] = {"messages": rows[4]["messages"] + rows[5]["messages"]}
    (place / "chats.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
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

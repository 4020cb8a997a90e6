"""entrypoints/steps/{pretrain_prep,slipway_corpus}.py, run as programs beside stand-ins of what tokenizes and builds;
and what a launch says of text, of its tokenizer, and of what trains on it.

tests/real/test_megatron_steps.py runs it with the real ones.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import REPO, Inputs, Project, errors, write_checkpoint
from test_binidx import write_blend, write_record, write_tokens

CONTAINERS = REPO / "tests" / "standins" / "containers" / "site"
PROGRAM = REPO / "entrypoints" / "steps" / "pretrain_prep.py"
FOLDER = REPO / "launcher" / "steps" / "data_prep" / "pretrain_prep"
TEXTS = [f"Document {n}: " + "out to sea " * (n % 7 + 1) for n in range(300)]
PREP = "data_prep/pretrain_prep"
LIBRARY = {
    # A token for each character; id 0 ends a document.
    "transformers/__init__.py": """
import json, os, pathlib, signal
class AutoTokenizer:
    bos_token_id, backend_tokenizer = None, None
    def __init__(self, folder):
        said = json.loads(pathlib.Path(folder, "tokenizer.json").read_text())
        self.eos_token_id, self.size = said.get("eos", 0), said.get("size", 256)
    @classmethod
    def from_pretrained(cls, folder, local_files_only):
        return cls(folder)
    def get_vocab(self):
        return {"a": 1, "b": self.size - 1}
    def __call__(self, texts, add_special_tokens):
        if any("kill" in text for text in texts): os.kill(os.getpid(), 9)
        if any("wait" in text for text in texts):
            pathlib.Path(os.environ["TOKENIZING"]).touch()
            signal.pause()
        return {"input_ids": [[ord(c) for c in text if ord(c) < 128] for text in texts]}
""",
    "transformers/utils/__init__.py": "from types import SimpleNamespace\n"
    "logging = SimpleNamespace(set_verbosity_error=lambda: None)\n",
    "megatron/core/datasets/indexed_dataset.py": (CONTAINERS / "megatron/core/datasets/indexed_dataset.py").read_text(),
}


class Prep:
    """Runs of the program, each with an output of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.runs = root, 0
        for name, text in LIBRARY.items():
            path = root / "library" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.tokenizer = root / "tokenizer"
        self.tokenizer.mkdir()
        self.says()

    def says(self, **facts: Any) -> None:
        (self.tokenizer / "tokenizer.json").write_text(json.dumps(facts))

    def start(self, source: Path, type_: str, words: dict[str, Any]) -> subprocess.Popen[str]:
        self.runs += 1
        root = self.root / f"run{self.runs}"
        for folder in ("slipway", "state/0/ranks"):
            (root / folder).mkdir(parents=True)
        base, layer = (yaml.safe_load((FOLDER / f"{name}.yaml").read_text()) for name in ("base", "default"))
        given: list[list[Any]] = [["data.train", str(source)], ["output.path", str(self.output)]]
        given += [["tokenizer.path", str(self.tokenizer)], ["split.validation_share", 0.2], ["run.workers", 2]]
        given += [[k.replace("__", "."), v] for k, v in words.items()]
        layers = [{"name": "default", "values": layer}]
        config = {"base": {"values": base}, "layers": layers, "remove": [], "set": given}
        plan = {"config": config, "inputs": {"train": {"type": type_}}}
        (root / "slipway" / "plan.json").write_text(json.dumps(plan))
        env = os.environ | {"SLIPWAY_DIR": str(root / "slipway"), "SLIPWAY_STATE_DIR": str(root / "state")}
        env |= {"PYTHONPATH": str(self.root / "library"), "TOKENIZING": str(self.root / "tokenizing")}
        command = [sys.executable, str(PROGRAM)]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, source: Path, type_: str = "text_jsonl", **words: Any) -> tuple[int, str, str]:
        with self.start(source, type_, words) as program:
            out, err = program.communicate()
        return program.returncode, out, err

    @property
    def output(self) -> Path:
        return self.root / f"run{self.runs}" / "output"

    def made(self, source: Path, type_: str = "text_jsonl", **words: Any) -> dict[str, bytes]:
        """Every file of the output."""
        code, out, err = self.run(source, type_, **words)
        assert code == 0, (out, err)
        return {p.name: p.read_bytes() for p in self.output.iterdir()}

    def refused(self, source: Path, type_: str = "text_jsonl", **words: Any) -> str:
        """What it says; nothing of the output is left."""
        code, _, err = self.run(source, type_, **words)
        assert code == 78 and "Traceback" not in err, err
        assert not self.output.exists() or not list(self.output.iterdir())
        return err

    def texts(self, split: str) -> list[str]:
        """The documents of a split, by blend.json and the pairs of files that it names."""
        found, blend = [], json.loads((self.output / "blend.json").read_text())
        for prefix in blend[split][1::2]:
            head, index = 34, (self.output / f"{prefix}.idx").read_bytes()
            count, code = struct.unpack("<Q", index[18:26])[0], index[17]
            tokens = (self.output / f"{prefix}.bin").read_bytes()
            ids = struct.unpack(f"<{len(tokens) // {8: 2, 4: 4}[code]}{ {8: 'H', 4: 'i'}[code] }", tokens)
            at = 0
            for length in struct.unpack(f"<{count}i", index[head : head + 4 * count]):
                document = ids[at : at + length]
                assert document[-1] == 0
                found.append("".join(map(chr, document[:-1])))
                at += length
        return found


def write(path: Path, texts: Iterable[Any], field: str = "text") -> Path:
    data = "".join(json.dumps({"id": n, field: text}) + "\n" for n, text in enumerate(texts)).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture
def prep(tmp_path: Path) -> Prep:
    return Prep(tmp_path)


def test_every_document_is_on_one_side_and_the_record_counts_them(prep: Prep, tmp_path: Path) -> None:
    files = prep.made(write(tmp_path / "rows.jsonl", TEXTS))
    pairs = ["train-00000.bin", "train-00000.idx", "valid-00000.bin", "valid-00000.idx"]
    assert sorted(files) == ["blend.json", "slipway.json", *pairs]
    train, valid = prep.texts("train"), prep.texts("valid")
    assert sorted(train + valid) == sorted(TEXTS) and train == [t for t in TEXTS if t in train]  # in their order
    assert 30 < len(valid) < 90  # a fifth of 300, by hashes
    record = json.loads(files["slipway.json"])
    assert record["counts"] == {"documents": 300, "empty": 0, "not_text": 0, "too_long": 0}
    assert (record["dtype"], record["vocabulary"], record["eos"], record["bos"]) == ("uint16", 256, [0], [])
    told = {s: (m[0]["documents"], m[0]["tokens"]) for s, m in record["splits"].items()}
    assert told == {s: (len(t), sum(map(len, t)) + len(t)) for s, t in (("train", train), ("valid", valid))}
    assert len(record["tokenizer"]) == 64
    result = json.loads((prep.output.parent / "state" / "result.json").read_text())
    assert result == {"type": "binidx", "path": str(prep.output), **record}


def test_the_same_bytes_come_out_whatever_reads_them(prep: Prep, tmp_path: Path) -> None:
    """By one worker or three, from one file or several, plain or packed; of many blocks, in their order."""
    texts = [f"{n} " + "x" * (n % 5000) for n in range(2000)]
    whole = prep.made(write(tmp_path / "rows.jsonl", texts), run__workers=1)
    assert prep.made(tmp_path / "rows.jsonl", run__workers=3) == whole
    for number, name in enumerate(("a.jsonl", "b.jsonl.gz", "c.jsonl")):
        write(tmp_path / "shards" / name, texts[number * 700 : (number + 1) * 700])
    assert prep.made(tmp_path / "shards") == whole
    assert prep.made(tmp_path / "shards" / "*") == whole


@pytest.mark.parametrize(("size", "type_", "width"), [(65499, "uint16", 2), (65500, "int32", 4)])
def test_the_type_follows_the_largest_id(prep: Prep, tmp_path: Path, size: int, type_: str, width: int) -> None:
    prep.says(size=size)
    files = prep.made(write(tmp_path / "rows.jsonl", TEXTS))
    record = json.loads(files["slipway.json"])
    assert (record["dtype"], record["vocabulary"]) == (type_, size)
    assert len(files["train-00000.bin"]) == width * record["splits"]["train"][0]["tokens"]
    assert sorted(prep.texts("train") + prep.texts("valid")) == sorted(TEXTS)


def test_shards_end_after_so_many_tokens_and_none_is_empty(prep: Prep, tmp_path: Path) -> None:
    files = prep.made(write(tmp_path / "rows.jsonl", TEXTS), tokens__shard=4000)
    blend = json.loads(files["blend.json"])
    shards = json.loads(files["slipway.json"])["splits"]["train"]
    assert len(shards) > 2 and all(s["documents"] for s in shards) and shards[0]["tokens"] < 4000 + 100
    assert blend["train"] == [w for s in shards for w in (str(s["tokens"]), s["prefix"])]
    assert sorted(prep.texts("train") + prep.texts("valid")) == sorted(TEXTS)


def test_what_is_no_text_is_counted_and_said(prep: Prep, tmp_path: Path) -> None:
    rows = [*TEXTS[:20], "", "  \n", None, 7, ["a"], "\ud800", "\u00e9", "long " * 100, *TEXTS[20:40]]
    source = write(tmp_path / "rows.jsonl", rows)
    code, out, err = prep.run(source, tokens__most=400)
    assert code == 0, err
    counts = json.loads((prep.output / "slipway.json").read_text())["counts"]
    assert counts == {"documents": 48, "empty": 3, "not_text": 4, "too_long": 1}
    for count, what, line in ((3, "empty", 21), (4, "not text", 23), (1, "too long", 28)):
        said = f"slipway: warning: {count} of 48 documents are {what}, and are left out; the first: {source}:{line}\n"
        assert said in out
    assert sorted(prep.texts("train") + prep.texts("valid")) == sorted(TEXTS[:40])


@pytest.mark.parametrize("unit", ["file", "line", "paragraph"])
def test_plain_text(prep: Prep, tmp_path: Path, unit: str) -> None:
    texts = [f"First {n}\nand second" for n in range(60)]
    for number in range(60):
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / f"{number:02}.txt").write_text(f"\ufeff{texts[number]}\n\n\n{number}\r\n\r\nend\n")
    prep.made(tmp_path / "texts", "text_plain", documents__unit=unit)
    found = sorted(prep.texts("train") + prep.texts("valid"))
    expected = {
        "file": [f"{t}\n\n\n{n}\r\n\r\nend\n" for n, t in enumerate(texts)],
        "line": [line for n, t in enumerate(texts) for line in (*t.split("\n"), f"{n}\r", "end")],
        "paragraph": [p for n, t in enumerate(texts) for p in (t, f"\n{n}", "end\n")],
    }[unit]
    assert found == sorted(expected)


def test_one_text_is_always_on_one_side(prep: Prep, tmp_path: Path) -> None:
    prep.made(write(tmp_path / "rows.jsonl", TEXTS * 3))
    train, valid = prep.texts("train"), prep.texts("valid")
    assert not {*train} & {*valid} and len(train + valid) == 900
    prep.made(write(tmp_path / "rows.jsonl", TEXTS), split__seed=7)
    assert {*prep.texts("valid")} != {*valid}


def test_without_validation_there_is_none(prep: Prep, tmp_path: Path) -> None:
    files = prep.made(write(tmp_path / "rows.jsonl", TEXTS), split__validation_share=0)
    assert sorted(files) == ["blend.json", "slipway.json", "train-00000.bin", "train-00000.idx"]
    assert list(json.loads(files["blend.json"])) == ["train"] and len(prep.texts("train")) == 300


@pytest.mark.parametrize(
    ("content", "words", "says"),
    [
        (b"", {}, "no document is left of 0 (there are none); the text is taken from `text`"),
        (b'{"text": ""}\n', {}, "no document is left of 1 (1 empty); the text is taken from `text`"),
        (b'{"id": 1}\n', {"columns__text": "body"}, "is left of 1 (1 not text); the text is taken from `body`"),
        (b'{"text": "a"}\n{"text": \n', {}, "rows.jsonl:2: no JSON: Expecting value"),
        (b'{"text": "a"}\n["a"]\n', {}, "rows.jsonl:2: is no JSON object; expected one with `text` in each line"),
        (b'{"text": "a"}\n\n{"text": "\xff"}\n', {}, "rows.jsonl:3: not UTF-8 (byte 0xff)"),
        (gzip.compress(b'{"text": "a"}\n', mtime=0)[:-9], {}, "rows.jsonl: the gzip data is broken: "),
        (b'{"text": "a"}\n', {}, "split.validation_share: 0.2 of 1 documents leaves none for "),
        (b'{"text": "a"}\n', {"tokens__most": 0}, "tokens.most: 0 is no whole number from 1 on"),
        (b'{"text": "a"}\n', {"split__validation_share": 1}, "split.validation_share: 1 is not from 0 to below 1"),
        (b'{"text": "a"}\n', {"documents__unit": "page"}, "documents.unit: 'page' is none of file, line, paragraph"),
        (b'{"text": "a"}\n', {"tokens__bos": True}, "has no bos_token, which every document gets; name it in "),
        (b'{"text": "kill"}\n', {}, "run.workers: a process that tokenizes was killed: out of memory? say fewer"),
    ],
)  # fmt: skip
def test_what_cannot_be_prepared_is_refused_and_nothing_is_left(
    prep: Prep, tmp_path: Path, content: bytes, words: dict[str, Any], says: str
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    assert says in prep.refused(tmp_path / "rows.jsonl", **words)


def test_a_tokenizer_without_an_end_of_text_is_refused(prep: Prep, tmp_path: Path) -> None:
    prep.says(eos=None)
    source = write(tmp_path / "rows.jsonl", TEXTS)
    assert "has no eos_token, which every document gets; " in prep.refused(source)
    prep.made(source, tokens__eos=False)


def test_told_to_stop_it_takes_away_what_it_had_begun(prep: Prep, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [*TEXTS, "wait"])
    with prep.start(source, "text_jsonl", {"run__workers": 1}) as program:
        while not (tmp_path / "tokenizing").exists() and program.poll() is None:
            time.sleep(0.01)
        workers = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        for pid in (*map(int, workers), program.pid):  # the entrypoint tells all of the group
            os.kill(pid, signal.SIGTERM)
        program.communicate()
    assert program.returncode == 143 and not list(prep.output.iterdir())


def texts(inputs: Inputs, name: str, content: bytes) -> tuple[str, ...]:
    """The words of a preparation whose texts are a file of this content."""
    path = inputs.train.parent / name
    path.write_bytes(content)
    return f"train={path}", f"tokenizer={inputs.model}"


ROW = b'{"text": "Out to sea."}\n'


@pytest.mark.parametrize(
    ("name", "content", "words", "says"),
    [
        ("a.jsonl", ROW, ["text_field=body"],
         "is no text_jsonl or text_parquet or text_plain: found JSON lines without `body`; they have text"),
        ("a.jsonl", b'{"messages": [{"role": "user", "content": "a"}]}\n', [], "text_plain: found chat_jsonl"),
        ("a.jsonl", ROW + b'{"text": "\xff"}\n', [], "a.jsonl:2: not a text: invalid UTF-8 (byte 0xff)"),
        ("a.txt", b"one\n\xff\n", [], "a.txt:2: not UTF-8 (byte 0xff): convert it with iconv -t UTF-8"),
        ("a.txt", b"", [], "a.txt: the file is empty"),
        ("a.jsonl.gz", gzip.compress(ROW * 9, mtime=0)[:-9], [],
         "a.jsonl.gz: cannot be read: the gzip data is broken: "),
    ],
)  # fmt: skip
def test_text_that_is_none_is_refused_when_planning(
    project: Project, inputs: Inputs, name: str, content: bytes, words: list[str], says: str
) -> None:
    done = project.launch(PREP, "--dry-run", "--flavour", "cpu", *texts(inputs, name, content), *words)
    assert done.code == 65 and says in done.stderr, done


def test_rows_without_text_are_warned_of(project: Project, inputs: Inputs) -> None:
    words = texts(inputs, "a.jsonl", ROW + b'{"id": 1}\n{"text": null}\n{"text": ""}\n')
    done = project.launch("check", words[0].removeprefix("train="))
    assert done.code == 0 and "warning: " in done.stdout, done
    assert "a.jsonl:2: `text` is missing: the row is left out\n" in done.stdout
    assert "a.jsonl:3: `text` is null, not text: the row is left out\n" in done.stdout


@pytest.mark.parametrize(
    "words", [["validation_share=1.0"], ["validation_share=-0.1"], ["max_tokens=0"], ["workers=0"]]
)
def test_numbers_that_are_none(project: Project, inputs: Inputs, words: list[str]) -> None:
    done = project.launch(PREP, "--dry-run", "--flavour", "cpu", *texts(inputs, "a.jsonl", ROW), *words)
    assert done.code == 64 and f"error: {words[0]}: is no" in done.stderr, done


TRAINING = {"pretrain/megatron_bridge": "tokenizer", "pretrain/automodel": "model"}


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    for name in ("train-00000", "valid-00000"):
        write_tokens(folder, name=name)
    write_blend(folder, train=["5", "train-00000"], valid=["5", "valid-00000"])
    return folder


@pytest.mark.parametrize("step", TRAINING)
def test_documents_of_another_tokenizer_are_refused(project: Project, documents: Path, step: str) -> None:
    model = write_checkpoint(documents.parent / "llama")
    write_record(documents)
    words = (step, "--dry-run", "--flavour", "cpu", "-c", "tiny", f"data={documents}")
    done = project.launch(*words, f"{TRAINING[step]}={model}")
    assert done.code == 65, done
    what = (
        f"error: {TRAINING[step]}={model}: data={documents} was made with another tokenizer: sha256 aaaaaaaaaaaa, here "
    )
    assert what in done.stderr


def test_a_model_with_fewer_embeddings_is_refused(project: Project, documents: Path) -> None:
    model = write_checkpoint(documents.parent / "llama")
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
    config = {"architectures": ["LlamaForCausalLM"], "vocab_size": 1000, **sizes}
    (model / "config.json").write_text(json.dumps(config))
    write_record(documents, tokenizer="", vocabulary=2048)
    (documents / "slipway.json").write_text(
        json.dumps({"data": "binidx", "tokenizer": tokenizer(model), "vocabulary": 2048})
    )
    words = ("pretrain/automodel", "--dry-run", "--flavour", "cpu", "-c", "tiny", f"data={documents}", f"model={model}")
    done = project.launch(*words)
    said = f"error: model={model}: has embeddings for 1,000 tokens (vocab_size), data={documents} has ids up to 2,047"
    assert done.code == 65 and said in done.stderr, done
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 2048}))
    assert "error: model=" not in project.launch(*words).stderr


def tokenizer(model: Path) -> str:
    """The sha256 of its vocabulary, by the step program's own function."""
    code = "import sys, pathlib, slipway_inputs as i; print(i.tokenizer_record(pathlib.Path(sys.argv[1]))['tokenizer'])"
    env = os.environ | {"PYTHONPATH": str(PROGRAM.parent)}
    command = [sys.executable, "-c", code, str(model)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()


def test_documents_need_a_tokenizer(project: Project, documents: Path) -> None:
    done = project.launch(
        "pretrain/megatron_bridge", "--dry-run", "--flavour", "cpu", "-c", "tiny", f"data={documents}"
    )
    assert done.code == 64, done
    assert f"error: tokenizer: data={documents} has documents of some tokenizer, and none is named\n" in done.stderr


@pytest.mark.parametrize(
    ("step", "word"), [("pretrain/megatron_bridge", "dataset.split=9,1,0"), ("pretrain/automodel", "split=9,1,0")]
)
def test_what_is_split_already_is_not_split_again(project: Project, documents: Path, step: str, word: str) -> None:
    model = write_checkpoint(documents.parent / "llama")
    words = (step, "--dry-run", "--flavour", "cpu", "-c", "tiny", f"{TRAINING[step]}={model}", word)
    done = project.launch(*words, f"data={documents}")
    assert done.code == 64 and f"error: {word}: data={documents} is split already, by its blend.json\n" in done.stderr
    done = project.launch(*words, f"data={documents / 'train-00000'}")
    assert "is split already" not in done.stderr


def test_text_for_a_pretraining_names_what_prepares_it(project: Project, inputs: Inputs) -> None:
    train, given = texts(inputs, "a.jsonl", ROW)
    done = project.launch(
        "pretrain/megatron_bridge", "--dry-run", "--flavour", "cpu", train.replace("train=", "data="), given
    )
    path = train.removeprefix("train=")
    assert done.code == 65, done
    assert f"run first: launch {PREP} train={path} tokenizer=PATH output=NEW; then say data=NEW" in errors(done.stderr)

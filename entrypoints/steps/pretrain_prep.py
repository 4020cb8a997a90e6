"""Tokenizes text for pretraining: JSON Lines, Parquet or plain text in, .bin and .idx out, by Megatron-Core's builder.

One process reads blocks of documents and writes, the others tokenize; never more than a few blocks are on the way. A
document's side, training or validation, comes from a hash of its text and the seed. So the files are the same, byte for
byte, whatever the number of workers. They are made in a folder of their own and moved when all is there; blend.json
says which are for training and which for validation, and slipway.json, written last, by which tokenizer they were made.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import slipway_corpus
import slipway_documents
import slipway_inputs
import slipway_step
from slipway_corpus import Block
from slipway_step import ConfigError

AHEAD = 4  # blocks for each worker that are on the way
EVERY = 5.0  # seconds between two lines of progress
LEFT_OUT = {"empty": "empty", "not_text": "not text", "too_long": "too long"}  # a count -> what is said of it
SPLITS = ("train", "valid")  # as blend.json names them
CODES = {"uint16": "H", "int32": "i"}  # numpy's name of a type -> array's


class Rules(NamedTuple):
    """How documents are read, split and written. `most`: tokens of a document; `shard`: of a pair of files."""

    type: str
    field: str
    unit: str
    share: float
    seed: int
    workers: int
    bos: bool
    eos: bool
    most: int | None
    shard: int


class Tokens(NamedTuple):
    """A block, tokenized: of each split the tokens, one document after the other, and their lengths. `first`: what was
    left out for each reason first.
    """

    read: int
    splits: dict[str, tuple[array[int], list[int]]]
    counts: Counter[str]
    first: dict[str, str]


class Vocabulary(NamedTuple):
    """`size`: one more than the largest id that there is, added tokens included. `before`, `after`: of a document."""

    size: int
    type: str
    before: list[int]
    after: list[int]


def main() -> None:
    plan = slipway_step.load_plan()
    config = slipway_step.merge_config(plan["config"])
    rules = rules_of(config, plan["inputs"]["train"]["type"])
    source, folder = slipway_inputs.path_of(config, "data.train"), slipway_inputs.path_of(config, "tokenizer.path")
    output = Path(config["output"]["path"])
    slipway_inputs.refuse_filled(output, "output.path")
    files = slipway_corpus.files_of(source, rules.type)
    with slipway_step.config_file(config):
        pass
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not survive a fork; the processes are parallel
    tokenizer = load(folder)
    vocabulary = vocabulary_of(tokenizer, folder, rules)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is half done is taken away
    output.mkdir(parents=True, exist_ok=True)
    part = output / f".prep-{os.getpid()}"
    try:
        part.mkdir()
        record = prepare(files, rules, tokenizer, vocabulary, part)
        record |= slipway_inputs.tokenizer_record(folder)
        publish(part, output, record)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    slipway_step.write_result({"type": "binidx", "path": str(output), **record})


def rules_of(config: dict[str, Any], type_: str) -> Rules:
    """Raises ConfigError for values that are none."""
    columns, split, tokens, run = config["columns"], config["split"], config["tokens"], config["run"]
    share, seed, unit = split["validation_share"], split["seed"], config["documents"]["unit"]
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
        raise ConfigError(f"split.validation_share: {share!r} is not from 0 to below 1")
    if not isinstance(seed, int):
        raise ConfigError(f"split.seed: {seed!r} is no whole number")
    if unit not in slipway_corpus.UNITS:
        raise ConfigError(f"documents.unit: {unit!r} is none of {', '.join(slipway_corpus.UNITS)}")
    counted = {"tokens.most": tokens["most"], "tokens.shard": tokens["shard"], "run.workers": run["workers"]}
    for key, value in counted.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ConfigError(f"{key}: {value!r} is no whole number from 1 on")
    workers = run["workers"] or len(os.sched_getaffinity(0))
    field, shard = columns["text"] or "text", tokens["shard"] or sys.maxsize
    bos, eos = bool(tokens["bos"]), bool(tokens["eos"])
    return Rules(type_, field, unit, float(share), seed, workers, bos, eos, tokens["most"], shard)


def load(folder: Path) -> Any:
    """The tokenizer of a folder, by transformers. Raises ConfigError where it has none."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # else it warns of every document that is longer than the model's positions
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as e:
        raise ConfigError(f"tokenizer.path: {folder} has no tokenizer that transformers can load: {e}") from e


def vocabulary_of(tokenizer: Any, folder: Path, rules: Rules) -> Vocabulary:
    """Raises ConfigError where a token that every document gets is missing."""
    size = 1 + max(tokenizer.get_vocab().values())
    for wanted, name in ((rules.bos, "bos_token"), (rules.eos, "eos_token")):
        if wanted and getattr(tokenizer, f"{name}_id") is None:
            word = name.removesuffix("_token")
            what = f"tokenizer.path: {folder} has no {name}, which every document gets"
            raise ConfigError(f"{what}; name it in tokenizer_config.json, or say {word}=false")
    before = [tokenizer.bos_token_id] if rules.bos else []
    after = [tokenizer.eos_token_id] if rules.eos else []
    return Vocabulary(size, "uint16" if size < 65500 else "int32", before, after)  # DType.optimal_dtype's limit


def prepare(files: list[Path], rules: Rules, tokenizer: Any, vocabulary: Vocabulary, part: Path) -> dict[str, Any]:
    """Writes the shards into `part`; returns the record. Raises ConfigError for text that leaves a split empty."""
    counts, first = Counter[str](), dict[str, str]()
    total, begun = sum(f.stat().st_size for f in files), time.monotonic()
    shown = Progress(total)
    shards = {split: Shards(part, split, vocabulary.type, rules.shard) for split in SPLITS}
    for done in tokenized(files, rules, tokenizer, vocabulary):
        counts += done.counts
        for reason, where in done.first.items():
            first.setdefault(reason, where)
        for split, (tokens, lengths) in done.splits.items():
            shards[split].add(tokens, lengths)
        shown.show(done.read, sum(s.tokens for s in shards.values()))
    for split in shards.values():
        split.end()
    say_left_out(counts, first)
    refuse_empty(shards, counts, rules)
    seconds, tokens = time.monotonic() - begun, sum(s.tokens for s in shards.values())
    print(f"slipway: {tokens:,} tokens in {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s", flush=True)
    told = {reason: counts[reason] for reason in ("documents", *LEFT_OUT)}
    return {
        "schema": 1, "data": "binidx", "vocabulary": vocabulary.size, "dtype": vocabulary.type, "counts": told,
        "bos": vocabulary.before, "eos": vocabulary.after, "seed": rules.seed, "validation_share": rules.share,
        "splits": {split: found.made for split, found in shards.items() if found.made},
    }  # fmt: skip


def tokenized(files: list[Path], rules: Rules, tokenizer: Any, vocabulary: Vocabulary) -> Iterator[Tokens]:
    """Every block, in order. Reading waits for writing: at most AHEAD blocks for each worker are in memory.

    Raises ConfigError for what cannot be read, and where a worker was killed.
    """
    context = get_context("fork")  # with the tokenizer that is loaded
    work = (rules, tokenizer, vocabulary)
    with ProcessPoolExecutor(rules.workers, mp_context=context, initializer=begin, initargs=work) as pool:
        waiting: deque[Future[Tokens]] = deque()
        try:
            before = 0
            for file in files:
                for found in slipway_corpus.blocks(file, rules.type, rules.field, rules.unit):
                    waiting.append(pool.submit(tokenize, found._replace(read=before + found.read)))
                    if len(waiting) > AHEAD * rules.workers:
                        yield waiting.popleft().result()
                before += file.stat().st_size
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as e:
            raise ConfigError("run.workers: a process that tokenizes was killed: out of memory? say fewer") from e
        finally:
            for left in waiting:
                left.cancel()


_work: list[Any] = []  # of a worker: rules, tokenizer, vocabulary


def begin(*work: Any) -> None:
    """What a worker does first. It ends with the program's process group, and says nothing of it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _work[:] = work


def tokenize(found: Block) -> Tokens:
    """A worker's task. Raises ConfigError for what is no text at all."""
    rules, tokenizer, vocabulary = _work
    counts, first = Counter[str](), dict[str, str]()
    numbers, texts = list[int](), list[str]()
    for number, text, wrong in slipway_corpus.documents(found, rules.field):
        counts["documents"] += 1
        if text is None:
            leave_out(wrong, found, number, counts, first)
        else:
            texts.append(text)
            numbers.append(number)
    sides: dict[str, tuple[array[int], list[int]]] = {split: (array(CODES[vocabulary.type]), []) for split in SPLITS}
    for number, text, ids in zip(numbers, texts, encode(tokenizer, texts), strict=True):
        tokens = [*vocabulary.before, *ids, *vocabulary.after]
        if not ids or (rules.most and len(tokens) > rules.most):
            leave_out("too_long" if ids else "empty", found, number, counts, first)
            continue
        side, lengths = sides[side_of(text, rules)]
        side.extend(tokens)
        lengths.append(len(tokens))
    return Tokens(found.read, {split: made for split, made in sides.items() if made[1]}, counts, first)


def leave_out(why: str, found: Block, number: int, counts: Counter[str], first: dict[str, str]) -> None:
    counts[why] += 1
    first.setdefault(why, f"{found.file}:{number}")


def encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids without special tokens, neither cut nor padded; by the tokenizer's own backend where it has one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        found: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        return found
    backend.no_truncation()
    backend.no_padding()
    batch = getattr(backend, "encode_batch_fast", backend.encode_batch)  # without offsets, from tokenizers 0.20 on
    return [encoding.ids for encoding in batch(texts, add_special_tokens=False)]


def side_of(text: str, rules: Rules) -> str:
    """One text is always on one side, so that no document of validation was trained on."""
    if not rules.share:
        return "train"
    digest = hashlib.blake2b(f"{rules.seed}\0{text}".encode(), digest_size=8).digest()
    return "valid" if int.from_bytes(digest, "big") < rules.share * 2**64 else "train"


class Shards:
    """The pairs of files of one split. One is opened when its first document comes, so none is empty."""

    def __init__(self, folder: Path, split: str, type_: str, most: int) -> None:
        self.folder, self.split, self.type, self.most = folder, split, type_, most
        self.made: list[dict[str, Any]] = []
        self.builder: Any = None

    @property
    def tokens(self) -> int:
        return sum(shard["tokens"] for shard in self.made)

    def add(self, tokens: array[int], lengths: list[int]) -> None:
        """Documents, one after the other."""
        at = 0
        for length in lengths:
            if self.builder is None or self.made[-1]["tokens"] >= self.most:
                self.begin()
            self.builder.add_document(tokens[at : at + length], [length])
            self.made[-1]["documents"] += 1
            self.made[-1]["tokens"] += length
            at += length

    def begin(self) -> None:
        from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

        self.end()
        self.made.append({"prefix": f"{self.split}-{len(self.made):05}", "documents": 0, "tokens": 0})
        type_ = DType.dtype_from_code(DType[self.type].value)
        self.builder = IndexedDatasetBuilder(f"{self.folder / self.made[-1]['prefix']}.bin", dtype=type_)

    def end(self) -> None:
        """Writes the index of the shard that is open."""
        if self.builder is not None:
            self.builder.finalize(f"{self.folder / self.made[-1]['prefix']}.idx")
            self.builder = None


class Progress:
    """How far it is: a bar in one line, every few seconds."""

    def __init__(self, total: int) -> None:
        self.total, self.begun = max(total, 1), time.monotonic()
        self.shown = self.begun

    def show(self, read: int, tokens: int) -> None:
        now = time.monotonic()
        if now - self.shown < EVERY:
            return
        self.shown, part, seconds = now, min(read / self.total, 1.0), now - self.begun
        left = seconds / part - seconds if part else 0.0
        bar = f"[{'#' * round(20 * part):20}] {100 * part:3.0f} % of {self.total / 1e6:,.0f} MB"
        print(f"slipway: {bar}, {tokens:,} tokens, {tokens / seconds:,.0f} tokens/s, {left:.0f} s left", flush=True)


def say_left_out(counts: Counter[str], first: dict[str, str]) -> None:
    for reason, what in LEFT_OUT.items():
        if counts[reason]:
            told = f"{counts[reason]:,} of {counts['documents']:,} documents are {what}"
            print(f"slipway: warning: {told}, and are left out; the first: {first[reason]}", flush=True)


def refuse_empty(shards: dict[str, Shards], counts: Counter[str], rules: Rules) -> None:
    """Raises ConfigError where there is nothing to train on, or nothing for a validation that was asked for."""
    if not any(found.made for found in shards.values()):
        why = ", ".join(f"{counts[r]} {what}" for r, what in LEFT_OUT.items() if counts[r]) or "there are none"
        named = f"; the text is taken from `{rules.field}`" if rules.type != "text_plain" else ""
        raise ConfigError(f"data.train: no document is left of {counts['documents']} ({why}){named}")
    for split, wanted in (("train", True), ("valid", rules.share > 0)):
        if wanted and not shards[split].made:
            more = "; of plain text documents=line makes a document of each line" if rules.type == "text_plain" else ""
            what = f"split.validation_share: {rules.share:g} of {counts['documents']} documents leaves none for {split}"
            raise ConfigError(f"{what}: choose another share (0 for none), or another seed{more}")


def publish(part: Path, output: Path, record: dict[str, Any]) -> None:
    """Moves the files to where they stay, once they are on disk; then the blend, and the record last."""
    for path in sorted(part.iterdir()):
        slipway_step.sync(path)
        path.replace(output / path.name)
    blend = {
        split: [word for shard in made for word in (str(shard["tokens"]), shard["prefix"])]
        for split, made in record["splits"].items()
    }
    slipway_step.write_atomic(output / slipway_documents.BLEND, json.dumps(blend, indent=2) + "\n")
    slipway_step.write_atomic(output / slipway_inputs.RECORD, json.dumps(record, indent=2, sort_keys=True) + "\n")
    slipway_step.sync(output)


if __name__ == "__main__":
    slipway_step.run(main)

"""Tokenized documents against what trains on them: tokenizer, vocabulary, split. And texts that become such. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.artifacts.detection import Artifact
from launcher.core.plan import LaunchSpec, Probed
from slipway.errors import Exit
from slipway.findings import Finding, error

SPLIT = "dataset.split"  # the key of both libraries by which a split is cut out of all documents
PREPARE = "data_prep/pretrain_prep"


def check(spec: LaunchSpec, seen: Probed) -> list[Finding]:
    """Every finding."""
    found = [a for name, a in seen.artifacts.items() if a.type == "binidx" and name in spec.step.inputs]
    return [*_share(spec), *(finding for data in found for finding in _documents(spec, seen, data))]


def _share(spec: LaunchSpec) -> Iterator[Finding]:
    share = spec.words.parameters.get("validation_share")
    if isinstance(share, int | float) and not 0 <= share < 1:
        yield error(
            Exit.WORDS, f"validation_share={share}", "is not from 0 to below 1", "such as validation_share=0.01"
        )


def _documents(spec: LaunchSpec, seen: Probed, data: Artifact) -> Iterator[Finding]:
    given = seen.artifacts.get("tokenizer") or seen.artifacts.get("model")
    if given is None and "tokenizer" in spec.step.inputs:
        what = f"{data.name}={data.path} has documents of some tokenizer, and none is named"
        yield error(Exit.WORDS, "tokenizer", what, "name the one that they were made with: tokenizer=PATH")
    if given is not None:
        yield from _tokenizer(data, given)
    if data.documents.blend:
        yield from _split(spec, data)


def _tokenizer(data: Artifact, given: Artifact) -> Iterator[Finding]:
    """slipway.json beside the documents says which tokenizer made them; of others nothing is known."""
    where, made = f"{given.name}={given.path}", data.documents.tokenizer
    named, size = given.tokenizer.vocabulary, data.documents.vocabulary
    if made and named and made != named:
        what = f"{data.name}={data.path} was made with another tokenizer: sha256 {made[:12]}, here {named[:12]}"
        remedy = f"name the one that it was made with: {given.name}=PATH, or make the documents again: {PREPARE}"
        yield error(Exit.DATA, where, what, remedy)
    rows = given.sizes.vocab
    if given.name == "model" and rows and size > rows:
        what = f"has embeddings for {rows:,} tokens (vocab_size), {data.name}={data.path} has ids up to {size - 1:,}"
        yield error(Exit.DATA, where, what, f"name a model of that vocabulary, or make the documents again: {PREPARE}")


def _split(spec: LaunchSpec, data: Artifact) -> Iterator[Finding]:
    """With a blend each split has documents of its own, and the libraries do not look at this key."""
    words = [f"{n}={v}" for n, v in spec.words.parameters.items() if SPLIT in spec.step.parameters[n].keys]
    words += [f"{key}={value}" for key, value in spec.words.overrides.items() if key.lstrip("+") == SPLIT]
    for word in words:
        what = f"{data.name}={data.path} is split already, by its blend.json"
        yield error(Exit.WORDS, word, what, f"leave it out; {data.name}=PREFIX names one pair of files, to split anew")

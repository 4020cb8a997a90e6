"""entrypoints/steps/slipway_rehearsal.py, slipway_small.py, *_rehearse*.py: rows, what is learned of them, models."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "entrypoints" / "steps"))

import automodel_rehearse
import megatron_rehearse
import megatron_rehearse_packing
import modelopt_rehearse_distill
import modelopt_rehearse_prune
import slipway_rehearsal
import slipway_small
from megatron_rehearse_data import Packed
from slipway_rehearsal import Place, Row, Steps
from slipway_step import ConfigError

PLACES = [Place("a.jsonl", n) for n in range(1, 400)]


def surveyed(read: Any, count: int, vocabulary: int = 0) -> slipway_rehearsal.Survey:
    return slipway_rehearsal.survey("train", read, count, vocabulary)


def row(number: int) -> Row:
    return Row([number % 7] * (number + 1), [n % 2 == 1 for n in range(number + 1)], number + 1)


def test_every_row_is_read_and_keeps_its_number(capfd: pytest.CaptureFixture[str]) -> None:
    def read(number: int) -> Row:
        if number in (3, 199):
            raise ValueError(f"no {number}")
        return row(number)

    found = surveyed(read, 200)
    assert found.faults == {3: "ValueError: no 3", 199: "ValueError: no 199"}
    assert [found.tokens[n] for n in (0, 100, 198)] == [1, 101, 199]
    assert [found.learned[n] for n in (0, 100, 198)] == [0, 50, 99]
    assert capfd.readouterr().err.endswith("slipway: train: 200 of 200 rows\n")
    told = slipway_rehearsal.summary(found, PLACES, 150, "cut")
    assert [(f["line"], f["what"]) for f in told["faults"]] == [(4, "ValueError: no 3"), (200, "ValueError: no 199")]
    assert (told["rows"], told["faulty"], told["silent"], told["silent_rows"]) == (200, 2, 1, [PLACES[0]._asdict()])
    assert (told["tokens"]["most"], told["longer"]) == (199, 49)


def test_a_token_that_the_model_does_not_have_is_a_fault() -> None:
    assert surveyed(row, 7, 6).faults == {6: "has the token 6; the model has 6 (vocab_size): another tokenizer's?"}


def test_rows_that_cannot_be_loaded_are_found_by_halves() -> None:
    asked = []

    def build(lines: list[bytes]) -> None:
        asked.append(len(lines))
        if any(b"bad" in line for line in lines):
            raise KeyError("bad")

    lines = [b"bad" if n in (5, 700) else b"good" for n in range(1000)]
    assert slipway_rehearsal.unreadable(build, lines) == {5: "KeyError: 'bad'", 700: "KeyError: 'bad'"}
    assert len(asked) < 50


def test_rows_are_where_they_stand_in_their_own_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n\n{}\n\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b"{}\n"))
    found = slipway_rehearsal.places([tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"])
    assert [(Path(p.file).name, p.line) for p in found] == [("a.jsonl", 1), ("a.jsonl", 3), ("b.jsonl.gz", 1)]


def test_a_row_is_told_in_pieces_as_far_as_there_is_room() -> None:
    told = slipway_rehearsal.sample(Row([1, 2, 3, 4], [False, True, True, False], 4), PLACES[0], str)
    assert told["pieces"] == [
        {"text": "[1]", "learned": False}, {"text": "[2, 3]", "learned": True}, {"text": "[4]", "learned": False},
    ]  # fmt: skip
    assert told["whole"]
    long = slipway_rehearsal.sample(Row([1], [True], 1), PLACES[0], lambda _: "x" * 3000)
    assert (len(long["pieces"][0]["text"]), long["whole"]) == (2000, False)


def test_steps_are_taken_on_rows_that_teach_something_and_fit() -> None:
    found = surveyed(row, 30)
    assert slipway_rehearsal.some_rows(found, 5, 6) == [1, 2, 3, 4, 1, 2]
    assert slipway_rehearsal.some_rows(found, 1, 2) == [1, 2]  # none fits: the shortest
    assert slipway_rehearsal.some_rows(surveyed(lambda _: Row([1], [False], 1), 3), 5, 2) == []


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (  # labels are the next token
            {"input_ids": [1, 2, 3], "labels": [-100, 3, 4], "attention_mask": [1, 1, 1]},
            Row([1, 2, 3, 4], [False, False, True, True], 4),
        ),
        (  # the last token is not learned, and only its place is known
            {"input_ids": [1, 2, 3], "labels": [-100, 3, -100], "attention_mask": [1, 1, 1]},
            Row([1, 2, 3], [False, False, True], 4),
        ),
        (
            {"input_ids": [1, 2, 0, 0], "labels": [2, 3, -100, -100], "attention_mask": [1, 1, 0, 0]},
            Row([1, 2, 3], [False, True, True], 3),
        ),
        (
            {"input_ids": [1, 2, 0], "loss_mask": [0, 1, 0], "attention_mask": [1, 1, 0]},
            Row([1, 2], [False, True], 2),
        ),
    ],
)  # fmt: skip
def test_what_automodel_learns_of_a_sample(sample: dict[str, list[int]], expected: Row) -> None:
    assert automodel_rehearse.row_of(sample) == expected


class Chats:
    """As ChatDataset cuts: `truncation` at `seq_length` tokens, of which the last is only a label."""

    seq_length, truncation, padding = 4, True, "do_not_pad"

    def __getitem__(self, number: int) -> dict[str, list[int]]:
        ids = list(range(1, number + 2))
        ids = ids if self.truncation == "do_not_truncate" else ids[: self.seq_length]
        return {"input_ids": ids[:-1], "labels": [-100] * (len(ids) - 1), "attention_mask": [1] * (len(ids) - 1)}


def test_what_is_cut_is_known_by_its_whole_length() -> None:
    data = automodel_rehearse.Data(Chats(), None, [], [])
    assert [data.read(n).whole for n in range(2, 7)] == [3, 4, 5, 6, 7]
    assert [len(data.read(n).ids) for n in range(2, 7)] == [2, 3, 3, 3, 3]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
             "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256},
            {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 128256},
        ),
        (
            {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2,
             "head_dim": None, "num_experts": 128, "num_experts_per_tok": 8, "layer_types": ["full"]},
            {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2,
             "head_dim": None, "num_experts": 4, "num_experts_per_tok": 2, "layer_types": ["full"]},
        ),
        (
            {"num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 1,
             "layer_types": ["sliding", "sliding", "full", "sliding"]},
            {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1,
             "layer_types": ["sliding", "full"]},
        ),
    ],
)  # fmt: skip
def test_a_model_becomes_small_and_stays_of_its_kind(config: dict[str, Any], expected: dict[str, Any]) -> None:
    small = SimpleNamespace(**config)
    slipway_small.shrink(small, slipway_small.WIDTHS)
    assert vars(small) == expected
    fewer = SimpleNamespace(**config)
    slipway_small.shrink(fewer, {})
    assert fewer.num_attention_heads == config["num_attention_heads"]
    assert fewer.num_hidden_layers == min(2, config["num_hidden_layers"])


@pytest.mark.parametrize(
    ("size", "multiple", "expected"),
    [
        (4, 1, ("dropped", [(3, 2), (4, 3), (5, 4), (6, 0), (7, 0)])),
        (5, 4, ("cut", [(3, 2), (4, 3), (5, 4), (6, 4), (7, 4)])),
    ],
)
def test_what_packing_does_with_rows_that_are_too_long(
    size: int, multiple: int, expected: tuple[str, list[tuple[int, int]]]
) -> None:
    rows = [{"input_ids": [1] * n, "loss_mask": [0] + [1] * (n - 1)} for n in range(3, 8)]
    data = megatron_rehearse_packing.Data(rows, None, [], size, multiple)
    seen = [data.read(n) for n in range(len(rows))]
    assert (data.beyond, [(row.whole, sum(row.learned)) for row in seen]) == expected


class PackedRows:
    """As GPTSFTPackedParquetDataset has them: `loss_mask` is of the next token."""

    def __getitem__(self, number: int) -> dict[str, list[int]]:
        return {"input_ids": [1, 2, 3, 4, 5], "loss_mask": [1, 1, 1, 0, 1], "seq_boundaries": [0, 3, 5]}

    def validate_row(self, number: int, ids: list[int], mask: list[int], starts: list[int]) -> None:
        assert (number, len(ids), len(mask), starts) == (1, 5, 5, [0, 3])

    def collate_fn(self, batch: list[dict[str, list[int]]]) -> None:
        assert len(batch) == 1


def test_of_a_packed_row_the_first_token_of_each_conversation_is_not_learned() -> None:
    assert Packed(PackedRows(), None, Path("a.parquet"), 1).read(0) == Row(
        [1, 2, 3, 4, 5], [False, True, True, False, False], 5
    )


def test_a_provider_of_megatron_bridge_becomes_small() -> None:
    provider = SimpleNamespace(
        num_layers=32, hidden_size=4096, ffn_hidden_size=14336, num_attention_heads=32, num_query_groups=8,
        kv_channels=128, num_moe_experts=None, moe_layer_freq=[0, 1, 1, 1],
    )  # fmt: skip
    assert "with 2 layers" in megatron_rehearse.shrink(provider)
    assert vars(provider) == {
        "num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 128, "num_attention_heads": 4, "num_query_groups": 2,
        "kv_channels": 16, "num_moe_experts": None, "moe_layer_freq": [0, 1],
    }  # fmt: skip


class Told:
    """A tokenizer that marks the last two tokens of four."""

    def apply_chat_template(self, _: list[Any], **__: Any) -> dict[str, list[int]]:
        return {"input_ids": [1, 2, 3, 4], "assistant_masks": [0, 0, 1, 1]}


@pytest.mark.parametrize(
    ("marked", "limit", "expected"),
    [
        (True, 8, Row([1, 2, 3, 4], [False, False, True, True], 4)),
        (True, 2, Row([1, 2], [False, False], 4)),
        (False, 3, Row([1, 2, 3], [False, True, True], 4)),  # all of it; the first is never a label
    ],
)
def test_what_a_student_learns_of_a_row(tmp_path: Path, marked: bool, limit: int, expected: Row) -> None:
    (tmp_path / "a.jsonl").write_text('{"messages": []}\n')
    data = modelopt_rehearse_distill.Data(Told(), tmp_path / "a.jsonl", limit, marked)
    assert data.read(0) == expected


def test_a_size_that_is_more_than_the_models_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"intermediate_size": 128, "num_hidden_layers": 4}')
    modelopt_rehearse_prune.refuse_larger(tmp_path, {"ffn_hidden_size": 64, "num_layers": 4, "mamba_num_heads": 9})
    with pytest.raises(ConfigError, match=r"prune\.num_layers: 5 is more than the model's 4"):
        modelopt_rehearse_prune.refuse_larger(tmp_path, {"num_layers": 5})


def test_a_model_that_cannot_be_made_small_is_no_fault_and_what_steps_raise_is() -> None:
    def fail(_: Steps) -> None:
        raise ValueError("no")

    told = Steps().take(fail, lambda _: None)
    assert (told["error"], told["none"]) == ("", "no small model of this architecture can be made: ValueError: no")
    told = Steps().take(lambda _: None, fail)
    assert (told["error"], told["none"]) == ("ValueError: no", "")


def test_rows_are_not_written_over_what_is_there(tmp_path: Path) -> None:
    """Which may be a link to the user's own file."""
    (tmp_path / "rows").write_text("theirs")
    with pytest.raises(FileExistsError):
        slipway_rehearsal.write_rows([b"a\n"], [0], tmp_path / "rows")

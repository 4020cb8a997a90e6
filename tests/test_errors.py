"""slipway/errors.py: how an error reads, and which word was probably meant."""

from __future__ import annotations

import pytest

from slipway.errors import Exit, SlipwayError, nearest


def test_an_error_says_where_what_and_what_to_do() -> None:
    error = SlipwayError(Exit.DATA, "is no number", where="file.yaml:3:1", remedy="write one")
    assert str(error) == "file.yaml:3:1: is no number\n  write one"
    assert error.code == 65


def test_an_error_without_place_or_remedy_is_one_line() -> None:
    assert str(SlipwayError(Exit.WORDS, "unknown step 'x'")) == "unknown step 'x'"


@pytest.mark.parametrize(
    ("word", "known", "said"),
    [
        ("trian", ["train", "model"], "did you mean 'train'?"),
        ("tiyn", {"tiny": 1, "default": 2}, "did you mean 'tiny'?"),
        ("zzz", ["train", "model", "model"], "known: model, train"),
        ("zzz", [], "none is known here"),
    ],
)
def test_the_nearest_word_or_all_of_them(word: str, known: list[str], said: str) -> None:
    assert nearest(word, known) == said


def test_exit_codes_are_those_of_the_design() -> None:
    assert {e.name: e.value for e in Exit} == {
        "OK": 0, "DIFFERS": 1, "WORDS": 64, "DATA": 65, "NO_INPUT": 66, "UNAVAILABLE": 69, "INTERNAL": 70,
        "CANNOT_WRITE": 73, "TRY_AGAIN": 75, "NOT_MET": 76, "NOT_PERMITTED": 77, "CONFIG": 78,
    }  # fmt: skip

"""launcher/engines/polling.py: waiting for the end of a run by asking."""

from __future__ import annotations

import pytest

from launcher.engines import polling


@pytest.mark.parametrize("seconds", [None, 30])
def test_it_asks_until_the_run_has_ended(seconds: float | None) -> None:
    answers = [False, False, True]
    assert polling.wait(lambda: answers.pop(0), 0, seconds)
    assert not answers


def test_a_run_that_goes_on_is_left_in_time() -> None:
    asked: list[bool] = []
    assert not polling.wait(lambda: bool(asked.append(True)), 0, 0)
    assert asked
    assert polling.wait(lambda: True, 0, 0)

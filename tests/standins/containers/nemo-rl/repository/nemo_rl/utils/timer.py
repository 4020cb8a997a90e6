"""Stands for the class by which NeMo RL knows when to save: it counts from when it is made."""

from __future__ import annotations

import time


class TimeoutChecker:
    def __init__(self, timeout: str = "00:03:45:00", fit_last_save_time: bool = False) -> None:
        days, hours, minutes, seconds = map(int, timeout.split(":"))
        self.last_save_time = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        self.start_time = time.time()
        self.fit_last_save_time = fit_last_save_time

"""Seconds of stages: each counts its own."""

import time
from types import SimpleNamespace

from mocli.tasks.run.run import Run


def test_a_stage_within_another_is_not_counted_twice():
    run = Run.__new__(Run)
    run.report, run._threads, run._within = SimpleNamespace(timing={}), None, []
    begun = time.monotonic()
    with run.timed("evaluate"):
        time.sleep(0.01)
        for _ in range(2):
            with run.timed("draw"):
                time.sleep(0.03)
    whole = time.monotonic() - begun
    timing = run.report.timing
    assert timing["draw_s"] >= 0.06
    assert 0.01 <= timing["evaluate_s"] < 0.06
    assert abs(sum(timing.values()) - whole) < 0.01

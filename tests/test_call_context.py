"""A call while it runs, seen from plain Python; `test_host` has it beside an event loop."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dalle2.runs import Run, Siblings, WasTaken, current_run
from tests.loopback import verdicts


@pytest.mark.parametrize(("fails", "delivered"), [(False, True), (True, False)])
def test_a_call_from_plain_python_is_a_run_of_its_own(fails: bool, delivered: bool) -> None:
    over: list[WasTaken | None] = []
    try:
        with current_run() as run:
            run.when_over(over.append)
            run.say("nobody sees this")
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert verdicts(over) == [delivered]


def test_what_is_to_happen_when_a_run_is_over_happens_also_when_it_is_said_too_late() -> None:
    over: list[WasTaken | None] = []
    with current_run() as run:
        pass
    run.when_over(over.append)
    assert verdicts(over) == [True]


def test_the_line_tells_what_is_done_and_for_how_long_unless_something_else_is_to_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    run = Run()
    lines: list[str] = []

    def look_at(*moments_s: float) -> None:
        for clock[0] in moments_s:
            lines.append(run.line)

    run.begin("Waiting for gpt-image-2")
    look_at(100.2, 101.4, 112.0)
    run.say("Rate limited, trying again in 4 s", 4)
    look_at(112.0, 115.9, 116.0)
    run.say("1 picture, 16.0 s")
    look_at(116.0)
    assert lines == [
        "Waiting for gpt-image-2, 0 s",
        "Waiting for gpt-image-2, 1 s",
        "Waiting for gpt-image-2, 12 s",
        "Rate limited, trying again in 4 s",
        "Rate limited, trying again in 4 s",
        "Waiting for gpt-image-2, 16 s",
        "1 picture, 16.0 s",
    ]


def test_the_calls_of_one_node_count_their_steps_and_tell_their_outcomes_together() -> None:
    siblings = Siblings()
    first, second = Run(siblings), Run(siblings)
    for run, steps in ((first, 2), (second, 1)):
        run.expect(steps)
    shown: list[Any] = []
    for run in (first, second, first):
        run.step("a preview")
        shown += run.steps()
    assert shown == [(1, 3, "a preview"), (2, 3, "a preview"), (3, 3, "a preview")]
    assert [first.outcomes("one")[0], second.outcomes("two")[0]] == [["one"], ["one", "two"]]

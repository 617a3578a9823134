"""A short fuzz run; `python dev.py fuzz` makes a long one."""

from __future__ import annotations

import random

import pytest

from development import fuzz


def test_no_mutated_input_ends_in_anything_but_our_own_errors() -> None:
    figures = fuzz.fuzz(6000, seed=7)
    assert figures.total() == 6000
    for target in fuzz.targets():
        assert figures[target.name, True] > 20  # else it would only try what nobody takes


def test_a_third_of_the_samples_or_more_is_taken_as_it_is() -> None:
    for target in fuzz.targets():
        taken = [target.feed(sample) for sample in target.samples]
        assert sum(taken) >= len(taken) // 3


def test_the_same_seed_makes_the_same_inputs() -> None:
    samples = fuzz.answers()
    first, second = (
        [fuzz.mutated(samples[0], samples, random.Random(f"3 {number}")) for number in range(50)]  # noqa: S311
        for _ in range(2)
    )
    assert first == second


def test_a_crash_says_how_to_get_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(data: bytes) -> bool:
        raise KeyError("data")

    monkeypatch.setattr(fuzz, "targets", lambda: [fuzz.Target("answers", [b"abc"], stumble)])
    with pytest.raises(fuzz.Crash, match=r"input 0 of seed 5 \(answers\): KeyError"):
        fuzz.fuzz(1, seed=5)

"""A short soak; `python dev.py soak` makes a long one."""

from __future__ import annotations

import pytest

from development import soak


def test_twenty_workflows_against_a_server_that_fails_at_random() -> None:
    figures, paid, warm, end = soak.soak(20, seed=3)
    assert figures.outcomes["pictures"] == 20
    assert figures.runs > 25
    assert paid == figures.delivered + figures.lost
    assert figures.delivered >= 20
    assert soak.report(figures, paid, warm, end)


CALM = soak.Load(threads=10, sockets=0, mib=500)


@pytest.mark.parametrize(
    ("paid", "end", "words"),
    [
        (6, CALM, "paid for: 6, delivered: 4, said to be lost: 1"),
        (5, soak.Load(20, 0, 500), "20 threads, after 10"),
        (5, soak.Load(10, 1, 500), "when all is over: 1"),
        (5, soak.Load(10, 0, 900), "900 MiB, after 500"),
    ],
)
def test_a_broken_promise_is_found(paid: int, end: soak.Load, words: str) -> None:
    figures = soak.Figures(delivered=4, lost=1)
    soak.check_totals(figures, 5, CALM, CALM)
    with pytest.raises(soak.PromiseBroken, match=words):
        soak.check_totals(figures, paid, CALM, end)


@pytest.mark.parametrize(
    ("kind", "message", "is_fine"),
    [
        ("OpenAIDalle2.StatusError", "Rate Limit Exceeded: wait. Nothing was charged.", True),
        ("OpenAIDalle2.StatusError", "It went wrong.", False),
        ("KeyError", "'data'. Nothing was charged.", False),
        ("OpenAIDalle2.StatusError", f"The key is {soak.KEY}. Nothing was charged.", False),
    ],
)
def test_an_error_that_is_not_ours_or_hides_the_money_or_shows_the_key_breaks_a_promise(
    kind: str, message: str, is_fine: bool
) -> None:
    entry = {"status": {"messages": [["execution_error", {"exception_type": kind, "exception_message": message}]]}}
    if is_fine:
        assert soak.kind_of(entry, message) == "StatusError"
        return
    with pytest.raises(soak.PromiseBroken):
        soak.kind_of(entry, message)

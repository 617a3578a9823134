"""A short soak; `python dev.py soak` makes a long one."""

from __future__ import annotations

import pytest

from development import soak


def test_workflows_succeed_against_a_server_that_fails_at_random() -> None:
    made = soak.soak(20, seed=3)
    assert made.outcomes["pictures"] == 20
    assert made.outcomes.total() > 25


def test_a_picture_that_was_paid_for_and_is_gone_breaks_a_promise() -> None:
    soak.check_money("all", 5, 4, 1)
    with pytest.raises(soak.PromiseBroken, match="paid for: 6, delivered: 4, said to be lost: 1"):
        soak.check_money("all", 6, 4, 1)


@pytest.mark.parametrize("end", [soak.Load(20, 0, 500), soak.Load(10, 1, 500), soak.Load(10, 0, 900)])
def test_a_load_that_grows_breaks_a_promise(end: soak.Load) -> None:
    warm = soak.Load(threads=10, sockets=0, mib=500)
    soak.check_load(warm, warm)
    with pytest.raises(soak.PromiseBroken):
        soak.check_load(warm, end)


@pytest.mark.parametrize(
    ("kind", "message", "is_fine"),
    [
        ("RuntimeError", "Rate Limit Exceeded: wait. Nothing was charged.", True),
        ("RuntimeError", "It went wrong.", False),
        ("KeyError", "'data'. Nothing was charged.", False),
        ("RuntimeError", f"The key is {soak.KEY}. Nothing was charged.", False),
    ],
)
def test_only_an_own_error_that_names_the_cost_and_no_key_is_fine(kind: str, message: str, is_fine: bool) -> None:
    entry = {"status": {"messages": [["execution_error", {"exception_type": kind, "exception_message": message}]]}}
    if is_fine:
        assert soak.kind_of(entry, message) == "RuntimeError"
        return
    with pytest.raises(soak.PromiseBroken):
        soak.kind_of(entry, message)

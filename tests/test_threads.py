"""Work side by side: in order, within the limit, in the caller's context, and never holding up the process."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextvars import ContextVar

import pytest

from dalle2 import threads
from dalle2.threads import side_by_side
from tests.loopback import LONG_S


def test_results_come_in_the_order_of_the_items_whichever_is_done_first() -> None:
    second_is_done = threading.Event()

    def work(item: str) -> str:
        if item == "first":
            assert second_is_done.wait(LONG_S)
        else:
            second_is_done.set()
        return item.upper()

    assert side_by_side(work, ["first", "second"], limit=2) == ["FIRST", "SECOND"]


def test_as_many_run_at_once_as_the_limit_says() -> None:
    all_here = threading.Barrier(3)
    assert side_by_side(lambda _: all_here.wait(LONG_S) >= 0, range(6), limit=3) == [True] * 6


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
def test_never_more_run_at_once_than_the_limit(limit: int) -> None:
    before = threading.active_count()
    at_work: list[int] = []
    counted = threading.Event()

    def count() -> None:
        at_work.append(threading.active_count() - before + 1)
        counted.set()

    first = threading.Barrier(min(limit, 20), action=count)

    def work(item: int) -> int:
        (first if item < first.parties else counted).wait(LONG_S)  # no thread ends before they are counted
        return item

    assert side_by_side(work, range(20), limit=limit) == list(range(20))
    assert len(at_work) == 1
    assert at_work[0] <= limit


@pytest.mark.parametrize("limit", [1, 4])
def test_nothing_to_do_is_done_at_once(limit: int) -> None:
    assert side_by_side(str, [], limit=limit) == []


def test_one_item_runs_in_the_thread_of_the_caller() -> None:
    assert side_by_side(lambda _: threading.get_ident(), ["only"], limit=4) == [threading.get_ident()]


def test_the_first_error_in_the_order_of_the_items_is_raised_after_all_have_been_worked_on() -> None:
    seen: list[int] = []

    def work(item: int) -> None:
        seen.append(item)
        if item in (2, 5):
            raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 2"):
        side_by_side(work, range(8), limit=3)
    assert sorted(seen) == list(range(8))


def test_nothing_more_is_begun_after_ctrl_c() -> None:
    begun = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        side_by_side(work, range(8), limit=1)
    assert begun == [0, 1]


def test_every_thread_sees_the_context_of_the_caller() -> None:
    name: ContextVar[str] = ContextVar("name")
    name.set("the caller's")
    both_here = threading.Barrier(2)

    def work(_: int) -> str:
        both_here.wait(LONG_S)
        return name.get()

    assert side_by_side(work, range(2), limit=2) == ["the caller's"] * 2


def test_nested_calls_do_not_wait_for_each_other() -> None:
    def outer(item: int) -> int:
        return sum(side_by_side(lambda inner: item * inner, range(4), limit=2))

    assert side_by_side(outer, range(10), limit=4) == [6 * item for item in range(10)]


def test_a_thread_that_hangs_does_not_keep_the_process_alive() -> None:
    # A copy of what matters, run where nothing has to be imported but the module itself.
    code = f"""
import importlib.util, threading
spec = importlib.util.spec_from_file_location("threads", {threads.__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
hung = threading.Event()
def hang(_):
    hung.set()
    threading.Event().wait()
threading.Thread(target=module.side_by_side, args=(hang, range(3)), kwargs=dict(limit=3), daemon=True).start()
hung.wait()
"""
    subprocess.run([sys.executable, "-c", code], timeout=LONG_S, check=True)


def test_the_number_of_workers_follows_the_cores_and_stays_small() -> None:
    assert 1 <= threads.WORKERS <= 4
    assert min(4, threads._cores()) == threads.WORKERS

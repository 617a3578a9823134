"""Work side by side in daemon threads, which never hold up the end of the process as those of a thread pool do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from typing import TypeVar

X = TypeVar("X")
Y = TypeVar("Y")


def start_thread(work: Callable[[], Y], name: str) -> Future[Y]:
    """Begin `work()`; whoever waits for it may leave at any time. Raises RuntimeError where no thread can be had."""
    outcome: Future[Y] = Future()
    outcome.set_running_or_notify_cancel()  # from here on nobody can cancel it

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as err:
            outcome.set_exception(err)

    threading.Thread(target=run, name=name, daemon=True).start()
    return outcome


def map_threads(work: Callable[[X], Y], items: Sequence[X], *, limit: int) -> list[Y]:
    """`[work(item) for item in items]`, up to `limit` at a time.

    Every item is worked on, whatever errors the others end in; then the first error, in the order of items, is raised.
    Raises RuntimeError where no thread can be had, and KeyboardInterrupt, when those that were begun have ended.
    """
    if len(items) == 1:
        return [work(items[0])]
    free = threading.Semaphore(limit)
    outcomes: list[Future[Y]] = []

    def work_on(item: X) -> Y:
        try:
            return work(item)
        finally:
            free.release()

    try:
        for item in items:
            free.acquire()
            outcomes.append(start_thread(partial(work_on, item), "openai-dalle-item"))
        wait(outcomes)
    except BaseException:  # Ctrl-C in plain Python, or there is no thread to be had: what was begun may be paid for
        wait(outcomes)
        raise
    return [outcome.result() for outcome in outcomes]

"""Work side by side in daemon threads, which never hold up the end of the process as those of a thread pool do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
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
    """
    results: dict[int, Y] = {}
    errors: dict[int, BaseException] = {}
    waiting = list(enumerate(items))
    lock = threading.Lock()

    def work_through() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                index, item = waiting.pop(0)
            try:
                results[index] = work(item)
            except BaseException as err:
                errors[index] = err
                if not isinstance(err, Exception):  # Ctrl-C in plain Python: nothing more is begun
                    with lock:
                        waiting.clear()

    helpers: list[threading.Thread] = []
    with suppress(RuntimeError):  # there are too many threads already: fewer do the work
        for _ in range(min(limit, len(items)) - 1):
            helper = threading.Thread(target=work_through, daemon=True)
            helper.start()
            helpers.append(helper)
    work_through()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[min(errors)]
    return [results[index] for index in range(len(items))]

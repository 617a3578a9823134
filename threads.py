"""Work side by side in daemon threads: ones that never hold up the end of the process."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import TypeVar

X = TypeVar("X")
Y = TypeVar("Y")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # the cores of this process, where they can be less than the machine's
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# How many threads are worth starting for work that computes: one a core. More than 4 would take memory and the cores
# of the rest of ComfyUI for what is short already.
WORKERS = min(4, _cores())


def side_by_side(work: Callable[[X], Y], items: Sequence[X], *, limit: int) -> list[Y]:
    """`[work(item) for item in items]`, up to `limit` at a time, in the context of the caller.

    Every item is worked on, whatever errors the others end in; then the first, in the order of items, is raised.
    """
    results: dict[int, Y] = {}
    errors: dict[int, BaseException] = {}
    waiting = enumerate(items)  # each next() is one step for Python's lock, and so safe to share between threads

    def worker() -> None:
        for index, item in waiting:
            try:
                results[index] = work(item)
            except BaseException as err:
                errors[index] = err
                if not isinstance(err, Exception):  # Ctrl-C in plain Python: nothing more is begun
                    deque(waiting, maxlen=0)

    start_and_join(worker, min(limit, len(items)) - 1)
    if errors:
        raise errors[min(errors)]
    return [results[index] for index in range(len(items))]


def start_and_join(worker: Callable[[], None], helpers: int) -> None:
    """Run `worker` in this thread and in so many more, and wait for all of them."""
    threads = [threading.Thread(target=copy_context().run, args=(worker,), daemon=True) for _ in range(helpers)]
    for thread in threads:
        thread.start()
    worker()
    for thread in threads:
        thread.join()

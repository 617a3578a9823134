"""A call of the node while it runs: what it shows, whether somebody waits for it, and what becomes of its result.

Worker threads, the retries and the drawing know it; `host` shows it in ComfyUI. From plain Python nobody looks.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar

# Whether ComfyUI took what a node returned; None while that is open.
WasTaken = Callable[[], bool | None]


class Run:
    """One call. Its methods may be called from any thread."""

    def __init__(self, siblings: Siblings | None = None) -> None:
        self.cancelled = threading.Event()
        self._siblings = siblings or Siblings()
        self._activity: tuple[str, float | None] = ("", None)
        self._aside: tuple[str, float] = ("", 0.0)
        self._previews: deque[Any] = deque()
        self._when_over: list[Callable[[WasTaken | None], None]] = []
        self._was_taken: WasTaken | None = None
        self._over = False
        self._lock = threading.Lock()
        self._finished = False

    def pause(self, seconds: float) -> bool:
        """Sleep, and return whether the user has cancelled meanwhile (which ends the sleep)."""
        return self.cancelled.wait(seconds)

    def begin(self, activity: str) -> None:
        """Show on the node what it is doing from now on, and for how long."""
        self._activity = (activity, time.monotonic())

    def say(self, text: str, for_s: float | None = None) -> None:
        """Show a line on the node, for so many seconds if they are given."""
        if for_s is None:
            self._activity = (text, None)
        else:
            self._aside = (text, time.monotonic() + for_s)

    @property
    def line(self) -> str:
        """What the node is to show at this moment."""
        text, began_s = self._activity
        aside, until_s = self._aside
        if began_s is None:
            return text
        now_s = time.monotonic()
        return aside if now_s < until_s else f"{text}, {now_s - began_s:.0f} s"

    def expect(self, total: int) -> None:
        """How many steps there will be in this call."""
        self._siblings.expect(total)

    def step(self, preview: Any) -> None:
        """One step is done; `preview` is a PIL image to show for it."""
        self._previews.append(preview)

    def steps(self) -> Iterator[tuple[int, int, Any]]:
        """For each step that was not shown yet: how many of the node's are done, of how many, and its preview."""
        while self._previews:
            yield (*self._siblings.step(), self._previews.popleft())

    def outcomes(self, outcome: Any) -> tuple[list[Any], float]:
        """The outcomes of the node's calls that have ended so far, this one's included, and the seconds they took."""
        return self._siblings.outcomes(outcome)

    def when_over(self, action: Callable[[WasTaken | None], None]) -> None:
        """Have `action(was_taken)` called once, when the run is over; with None if nobody will take its result."""
        with self._lock:
            if not self._over:
                self._when_over.append(action)
                return
        action(self._was_taken)

    def finish(self) -> None:
        """The call itself has ended; called by the thread that made it."""
        self._finished = True
        if self.cancelled.is_set():
            self._settle(None)

    def end(self, was_taken: WasTaken | None) -> None:
        """The node is done with the call, which may still be running if nobody will take its result (None)."""
        if was_taken is not None:
            self._settle(was_taken)
            return
        self.cancelled.set()
        if self._finished:
            self._settle(None)

    def _settle(self, was_taken: WasTaken | None) -> None:
        with self._lock:
            if self._over:
                return
            self._over, self._was_taken = True, was_taken
        for action in self._when_over:
            action(was_taken)


class Siblings:
    """The calls that one node makes in one prompt (a list input makes several).

    They have one progress bar and tell their outcome together. ComfyUI drops the results of all of them when one fails,
    so they are delivered together or not at all.
    """

    _groups: ClassVar[dict[Hashable, Siblings]] = {}

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._total = 0
        self._done = 0
        self._outcomes: list[Any] = []
        self._active = 0
        self._left: list[Run] = []
        self._delivered = True
        self._lock = threading.Lock()

    @classmethod
    def join(cls, key: Hashable) -> Siblings:
        """The group of a call that begins, by what names its node and prompt."""
        group = cls._groups.setdefault(key, cls())
        group._active += 1
        return group

    def leave(self, key: Hashable, run: Run, was_taken: WasTaken | None) -> None:
        """A call has ended, with None if its result will not be delivered; the last one ends the runs of all."""
        self._left.append(run)
        if was_taken is None:
            self._delivered = False
            run.cancelled.set()
        self._active -= 1
        if not self._active:
            del self._groups[key]
            for each in self._left:
                each.end(was_taken if self._delivered else None)

    def expect(self, total: int) -> None:
        """So many steps more there will be."""
        with self._lock:
            self._total += total

    def step(self) -> tuple[int, int]:
        """Count a step that is done, and return how many are, and of how many."""
        self._done += 1
        return self._done, max(self._total, self._done)

    def outcomes(self, outcome: Any) -> tuple[list[Any], float]:
        """Add an outcome; return all so far, and the seconds since the first call began."""
        with self._lock:
            self._outcomes.append(outcome)
            return list(self._outcomes), time.monotonic() - self._began_s


_current: ContextVar[Run] = ContextVar("dalle2_run")


def become_current(run: Run) -> None:
    """Let the rest of this context belong to a run."""
    _current.set(run)


@contextmanager
def current_run() -> Iterator[Run]:
    """The run that this call belongs to; a call from plain Python is a run of its own."""
    if run := _current.get(None):
        yield run
        return
    run, delivered = Run(), False
    try:
        yield run
        delivered = True
    finally:
        run.finish()
        run.end((lambda: True) if delivered else None)

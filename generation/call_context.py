"""One call of a node while it runs: what the node shows, whether the user cancelled, what becomes of its answers.

Worker threads and the retries know it; `comfyui` shows it in the editor. In plain Python nobody sees it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import CallCancelled
from .answer_cache import AnswerCache, CachedAnswer

PREVIEW_SIDE_PX = 512
MAX_ASKED_AT_ONCE = 4  # by one node: more would run into the rate limits of a new account
POLL_S = 0.05  # how often a call that waits for others looks whether it was cancelled


class CallGroup:
    """The calls that one node makes in one prompt: a list as input makes several.

    They share a progress bar and the line about their outcome. ComfyUI drops the results of all of them when one fails,
    so their answers count as delivered together or not at all.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.results: list[Any] = []
        self.slots = threading.BoundedSemaphore(MAX_ASKED_AT_ONCE)
        self._began_s = time.monotonic()
        self._total = 0
        self._done = 0
        self._active = 0
        self._has_failed = False
        self._returned: list[CallContext] = []

    @property
    def seconds(self) -> float:
        """The time since the first call began."""
        return time.monotonic() - self._began_s

    def expect(self, total: int) -> None:
        """Add `total` expected steps to the progress bar."""
        with self._lock:
            self._total += total

    def step(self) -> tuple[int, int]:
        """Count a step as done; returns how many are, and of how many."""
        with self._lock:
            self._done += 1
            return self._done, max(self._total, self._done)

    def join(self) -> None:
        """A call begins."""
        with self._lock:
            self._active += 1

    def leave(self, call: CallContext, *, delivered: bool) -> bool:
        """A call has ended for the node; returns whether it was the last.

        A result that was returned counts once all calls have ended. The answers of a failed call are free at once:
        another call of the group may be waiting for one of them.
        """
        if not delivered:
            call.settle(delivered=False)
        with self._lock:
            self._active -= 1
            if delivered:
                self._returned.append(call)
            else:
                self._has_failed = True
            if self._active:
                return False
            returned, self._returned = self._returned, []
        for each in returned:
            each.settle(delivered=not self._has_failed)
        return True


class CallContext:
    """One call. Its methods may be called from any thread.

    Two sides end it: the thread that works (`finish`) and the node that waits (`settle`, through its group). After a
    cancel the thread goes on until it has the answer that is on its way, and `finish` comes last.
    """

    def __init__(self, cache: AnswerCache, group: CallGroup | None = None) -> None:
        self.cancelled = threading.Event()
        self.group = group or CallGroup()
        self._cache = cache
        self._entries: list[CachedAnswer] = []
        self._has_finished = False
        self._activity: tuple[str, float | None] = ("", None)
        self._aside: tuple[str, float] = ("", 0.0)
        self._previews: deque[Any] = deque()

    def pause(self, seconds: float) -> None:
        """Sleep, until the user cancels at the latest."""
        self.cancelled.wait(seconds)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold one of the node's slots for a request to the API; waits for it. Raises CallCancelled."""
        while not self.group.slots.acquire(timeout=POLL_S):
            if self.cancelled.is_set():
                raise CallCancelled("Cancelled before the request was sent.")
        try:
            yield
        finally:
            self.group.slots.release()

    def begin(self, activity: str) -> None:
        """Show on the node what it is doing from now on, and for how long."""
        self._activity = (activity, time.monotonic())

    def say(self, text: str, for_s: float | None = None) -> None:
        """Show a line on the node: for `for_s` seconds, or until the next one."""
        if for_s is None:
            self._activity = (text, None)
        else:
            self._aside = (text, time.monotonic() + for_s)

    @property
    def line(self) -> str:
        """The text for the node at this moment."""
        text, began_s = self._activity
        if began_s is None:
            return text
        aside, until_s = self._aside
        now_s = time.monotonic()
        return aside if now_s < until_s else f"{text}, {now_s - began_s:.0f} s"

    def step(self, preview: Any) -> None:
        """One step is done; `preview` is a Pillow image to show for it."""
        self._previews.append(preview)

    def new_steps(self) -> Iterator[tuple[int, int, Any]]:
        """For each step that was not shown yet: how many of the node's are done, of how many, and its preview."""
        while self._previews:
            done, total = self.group.step()
            yield done, total, self._previews.popleft()

    def use(self, entry: CachedAnswer) -> None:
        """The call uses an answer of the cache, and gives it back when it ends."""
        self._entries.append(entry)

    def finish(self) -> None:
        """The thread has ended."""
        self._has_finished = True
        self._give_back()

    def settle(self, *, delivered: bool) -> None:
        """The node has returned the result, or it will not."""
        if delivered:
            for entry in self._entries:
                self._cache.discard(entry)
            return
        self.cancelled.set()
        self._give_back()

    def _give_back(self) -> None:
        """Of an undelivered call whose thread has ended, return the answers to the cache; a second time is harmless."""
        if self._has_finished and self.cancelled.is_set():
            for entry in self._entries:
                self._cache.checkin(entry, self.cancelled)


@contextmanager
def single_call(cache: AnswerCache) -> Iterator[CallContext]:
    """A call in plain Python, whose result is delivered when the block ends without an error."""
    call = CallContext(cache)
    call.group.join()
    delivered = False
    try:
        yield call
        delivered = True
    finally:
        call.finish()
        call.group.leave(call, delivered=delivered)

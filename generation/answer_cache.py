"""Answers that were paid for and whose images have not been delivered yet.

An answer is kept from the moment the API gave it until the node has returned its images. When something comes between
(a download fails, the user cancels), the next run of the same call takes it from here and pays nothing. A run that
starts while a cancelled one still waits for its answer waits for it, too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from ..api_client import Answer

log = logging.getLogger("openai-dalle")

MAX_AGE_S = 3600.0  # the URLs in an answer do not live longer either
MAX_FREE_BYTES = 256 * 2**20  # of the answers that no call uses


@dataclass(eq=False)
class CachedAnswer:
    """The answer to one job, from before it is there.

    `key` names the job. `user_cancelled` is set when the call that uses the entry is cancelled; None: no call does.
    `downloads` are the images that were downloaded so far, by their index. `is_reused`: an earlier run paid for it.
    `failed_runs`: how many runs have missed images of it, without those that missed all for a reason that may pass.
    """

    key: str
    user_cancelled: threading.Event | None
    answer: Answer | None = None
    downloads: dict[int, bytes] = field(default_factory=dict)
    is_reused: bool = False
    failed_runs: int = 0
    kept_since_s: float = 0.0

    @property
    def size_bytes(self) -> int:
        """The memory that its images take."""
        size = sum(map(len, list(self.downloads.values())))  # a copy: other threads may be adding to it
        if self.answer is not None:
            size += sum(len(picture.b64_json or b"") for picture in self.answer.pictures)
        return size


class AnswerCache:
    """The answers of this process, each used by one call at a time; safe to use from any thread.

    A call takes an entry with `checkout` or `reserve`, and ends with `discard` (its images were delivered, or never can
    be) or `checkin` (the next run may have it).
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        max_age_s: float = MAX_AGE_S,
        max_free_bytes: int = MAX_FREE_BYTES,
    ) -> None:
        self._clock = clock
        self._max_age_s = max_age_s
        self._max_free_bytes = max_free_bytes
        self._lock = threading.Lock()
        self._entries: list[CachedAnswer] = []  # oldest first
        self._timer: threading.Timer | None = None

    def checkout(self, key: str, cancelled: threading.Event) -> CachedAnswer | None:
        """The oldest answer to the same call that no other call needs, used by the caller from now on."""
        with self._lock:
            self._drop_old()
            for entry in self._entries:
                # A cancelled call needs its answer no more, although one of its downloads may still hang.
                is_left = entry.answer is not None and entry.user_cancelled is not cancelled and _is_cancelled(entry)
                if entry.key == key and (entry.user_cancelled is None or is_left):
                    entry.user_cancelled = cancelled
                    entry.is_reused = True
                    return entry
        return None

    def reserve(self, key: str, cancelled: threading.Event) -> CachedAnswer:
        """A new entry for the answer that the caller is about to ask for."""
        entry = CachedAnswer(key, cancelled, kept_since_s=self._clock())
        with self._lock:
            self._entries.append(entry)
        return entry

    def is_coming(self, key: str) -> bool:
        """Whether a call that was cancelled still waits for the same answer."""
        with self._lock:
            for entry in self._entries:
                if entry.key == key and entry.answer is None and _is_cancelled(entry):
                    return True
        return False

    def checkin(self, entry: CachedAnswer, cancelled: threading.Event) -> None:
        """The caller is done with an entry whose images were not delivered."""
        if entry.answer is None:
            self.discard(entry)
            return
        with self._lock:
            if entry.user_cancelled is not cancelled:  # another call has taken it meanwhile
                return
            entry.user_cancelled = None
            entry.kept_since_s = self._clock()
            self._drop_old()
            self._drop_excess()
            self._start_timer()

    def discard(self, entry: CachedAnswer) -> None:
        """The caller is done with an entry that nobody needs any more: its answer is gone."""
        entry.answer = None
        with self._lock:
            if entry in self._entries:
                self._entries.remove(entry)

    def _free(self) -> list[CachedAnswer]:
        return [entry for entry in self._entries if entry.user_cancelled is None]

    def _drop_old(self) -> None:
        oldest_s = self._clock() - self._max_age_s
        for entry in self._free():
            if entry.kept_since_s <= oldest_s:
                self._entries.remove(entry)

    def _drop_excess(self) -> None:
        free = self._free()
        excess = sum(entry.size_bytes for entry in free) - self._max_free_bytes
        for entry in free:
            if excess <= 0:
                return
            excess -= entry.size_bytes
            self._entries.remove(entry)
            log.warning(
                "A paid answer was dropped: more than %d MiB of such answers were waiting.",
                self._max_free_bytes // 2**20,
            )

    def _start_timer(self) -> None:
        """See to it that memory is given back after `max_age_s`, whether or not the node runs again."""
        free = self._free()
        if self._timer is not None or not free:
            return
        oldest_s = min(entry.kept_since_s for entry in free)
        timer = threading.Timer(max(0.0, oldest_s + self._max_age_s - self._clock()), self._on_timer)
        timer.daemon = True
        with suppress(RuntimeError):  # there are too many threads: the next answer that is kept starts one
            timer.start()
            self._timer = timer

    def _on_timer(self) -> None:
        with self._lock:
            self._timer = None
            self._drop_old()
            self._start_timer()


def _is_cancelled(entry: CachedAnswer) -> bool:
    return entry.user_cancelled is not None and entry.user_cancelled.is_set()

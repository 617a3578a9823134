"""Answers that were paid for and whose pictures have not been delivered yet.

An answer is kept from the moment the API gave it until a node has returned its pictures. When something comes in
between (a download fails, the user cancels), the next run of the same call takes it from here and pays nothing. A run
that comes while a cancelled one still waits for its answer waits with it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from .api_client import Answer
from .runs import WasTaken

MAX_AGE_S = 3600.0  # the URLs in an answer do not live longer either
MAX_BYTES = 256 * 2**20


@dataclass(eq=False)
class KeptAnswer:
    """An answer on its way: what was asked (`key`), what came, and the pictures downloaded so far, by their index.

    `abandoned`: whether the run that uses it was cancelled. `is_old`: it is an earlier run's. `failed`: a run has said
    which of its pictures could not be had. `was_taken`: once they were delivered, tells whether they arrived.
    """

    key: str
    answer: Answer
    downloads: dict[int, bytes] = field(default_factory=dict)
    in_use: bool = True
    abandoned: threading.Event = field(default_factory=threading.Event)
    is_old: bool = False
    failed: bool = False
    was_taken: WasTaken | None = None
    kept_at_s: float = 0.0

    @property
    def size_bytes(self) -> int:
        """The memory that its pictures take."""
        inline = sum(len(picture.b64_json or b"") for picture in self.answer.pictures)
        return inline + sum(map(len, list(self.downloads.values())))  # a copy: other threads are adding to it


class KeptAnswers:
    """The answers of this process, each used by one run at a time; safe to use from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: list[KeptAnswer] = []  # oldest first
        self._asked: list[tuple[str, threading.Event]] = []

    @contextmanager
    def asking(self, key: str, abandoned: threading.Event) -> Iterator[None]:
        """Within this block the caller waits for an answer, also when it is `abandoned` meanwhile."""
        asked = (key, abandoned)
        self._asked.append(asked)
        try:
            yield
        finally:
            self._asked.remove(asked)

    def is_coming(self, key: str) -> bool:
        """Whether a run that was cancelled still waits for an answer to the same call, or is about to release it."""
        with self._lock:
            in_use = [(kept.key, kept.abandoned) for kept in self._kept if kept.in_use]
            return any(other == key and abandoned.is_set() for other, abandoned in [*self._asked, *in_use])

    def keep(self, key: str, answer: Answer, abandoned: threading.Event | None = None) -> KeptAnswer:
        """Keep a new answer, in use by the caller until that is over or `abandoned`."""
        kept = KeptAnswer(key, answer, abandoned=abandoned or threading.Event(), kept_at_s=self._clock())
        with self._lock:
            self._kept.append(kept)
            self._tidy()
        return kept

    def take(self, key: str, abandoned: threading.Event | None = None) -> KeptAnswer | None:
        """The oldest answer to the same call that nobody uses, from now on in use by the caller."""
        with self._lock:
            self._tidy()
            for kept in self._kept:
                if kept.key == key and not kept.in_use and kept.was_taken is None:
                    kept.in_use = kept.is_old = True
                    kept.abandoned = abandoned or threading.Event()
                    return kept
        return None

    def release(self, kept: KeptAnswer, was_taken: WasTaken | None = None) -> None:
        """The caller is done with it. The next run may take it; if it was delivered, once `was_taken` says no."""
        with self._lock:
            kept.in_use, kept.was_taken = False, was_taken
            self._tidy()

    def forget(self, kept: KeptAnswer) -> None:
        """The caller has found that it can never be delivered."""
        with self._lock:
            if kept in self._kept:
                self._kept.remove(kept)

    def _tidy(self) -> None:
        for kept in list(self._kept):
            arrived = kept.was_taken() if kept.was_taken else None
            if arrived:
                self._kept.remove(kept)
            elif arrived is False:
                kept.was_taken = None
        oldest = self._clock() - MAX_AGE_S
        self._kept = [kept for kept in self._kept if kept.in_use or kept.kept_at_s > oldest]
        excess = sum(kept.size_bytes for kept in self._kept) - MAX_BYTES
        for kept in [kept for kept in self._kept if not kept.in_use]:
            if excess <= 0:
                break
            excess -= kept.size_bytes
            self._kept.remove(kept)

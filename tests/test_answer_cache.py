"""Which answers are kept that were paid for, for whom, and for how long."""

from __future__ import annotations

import logging
import threading
import time
import weakref

import pytest

from dalle2.api_client import Answer
from dalle2.generation.answer_cache import MAX_AGE_S, AnswerCache, CachedAnswer
from dalle2.models import Picture
from tests.loopback import ANSWER, refuse_threads, wait_for

LIMIT_BYTES = 100
CALL = threading.Event()  # never cancelled


class Cache(AnswerCache):
    """A cache whose time is a number, and whose limit is small."""

    def __init__(self) -> None:
        self.now_s = 0.0
        super().__init__(clock=lambda: self.now_s, max_free_bytes=LIMIT_BYTES)

    def add(self, key: str = "a", size: int = 1) -> CachedAnswer:
        """Keep an answer of that many bytes, which no call uses."""
        entry = used(self, key, size)
        self.checkin(entry, CALL)
        return entry

    def take(self, key: str = "a") -> CachedAnswer | None:
        """What a new call gets."""
        return self.checkout(key, threading.Event())


def used(cache: AnswerCache, key: str = "a", size: int = 1) -> CachedAnswer:
    """An answer of that many bytes, which a call uses."""
    entry = cache.reserve(key, CALL)
    entry.answer = Answer(ANSWER.request, (Picture(b64_json=bytes(size)),))
    return entry


def test_only_the_same_call_gets_an_answer_and_the_oldest_first() -> None:
    cache = Cache()
    first, second = cache.add(), cache.add()
    assert cache.take("b") is None
    assert [cache.take(), cache.take(), cache.take()] == [first, second, None]


@pytest.mark.parametrize(("age_s", "there"), [(MAX_AGE_S - 1, True), (MAX_AGE_S, False)])
def test_an_answer_is_kept_for_an_hour_from_when_the_call_gives_it_back(age_s: float, there: bool) -> None:
    cache = Cache()
    entry = used(cache)
    cache.now_s = 2 * MAX_AGE_S
    cache.add("b")
    cache.checkin(entry, CALL)
    cache.now_s += age_s
    assert (cache.take() is entry) == there


def test_the_memory_of_an_answer_is_freed_without_any_further_call() -> None:
    cache = AnswerCache(max_age_s=0.1)
    entries: list[weakref.ref[CachedAnswer]] = []
    for _ in range(2):
        later_s = time.monotonic() + 0.05
        wait_for(lambda moment_s=later_s: time.monotonic() > moment_s)  # type: ignore[misc]
        entry = used(cache)
        entries.append(weakref.ref(entry))
        cache.checkin(entry, CALL)
        del entry
    wait_for(lambda: entries[0]() is None)
    wait_for(lambda: entries[1]() is None)


def test_an_answer_is_kept_also_when_no_timer_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_threads(monkeypatch)
    cache = AnswerCache()
    entry = used(cache)
    cache.checkin(entry, CALL)
    assert cache.checkout("a", threading.Event()) is entry


def test_above_the_limit_the_oldest_is_dropped_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache()
    for key in "abcd":
        cache.add(key, LIMIT_BYTES // 4)
    assert not caplog.records
    cache.add("e", 1)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "A paid answer was dropped" in caplog.text
    assert [key for key in "abcde" if cache.take(key)] == ["b", "c", "d", "e"]


def test_what_was_downloaded_counts() -> None:
    cache = Cache()
    entry = cache.reserve("a", CALL)
    entry.answer = Answer(ANSWER.request, (Picture(url="https://example.com/a.png"),))
    entry.downloads[0] = bytes(LIMIT_BYTES + 1)
    cache.checkin(entry, CALL)
    assert cache.take() is None


def test_only_an_answer_that_a_cancelled_call_still_waits_for_is_coming() -> None:
    cache, cancelled = Cache(), threading.Event()
    entry = cache.reserve("a", cancelled)
    assert not cache.is_coming("a")
    cancelled.set()
    assert cache.is_coming("a") and not cache.is_coming("b") and cache.take() is None
    entry.answer = ANSWER
    assert not cache.is_coming("a") and cache.take() is entry


def test_an_answer_that_the_next_call_has_taken_is_not_given_back_by_the_cancelled_one() -> None:
    cache, cancelled = Cache(), threading.Event()
    entry = cache.reserve("a", cancelled)
    entry.answer = ANSWER
    cancelled.set()
    assert cache.checkout("a", cancelled) is None
    assert cache.checkout("a", CALL) is entry
    cache.checkin(entry, cancelled)
    assert cache.take() is None
    cache.checkin(entry, CALL)
    assert cache.take() is entry

"""What is kept of answers that were paid for, for whom, and for how long."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial

import pytest

from dalle2.api_client import Answer
from dalle2.kept_answers import MAX_AGE_S, MAX_BYTES, KeptAnswer, KeptAnswers
from dalle2.models import ImageRequest, Picture

REQUEST = ImageRequest(prompt="a", model="m", n=1, size="256x256")


class Shelf(KeptAnswers):
    """Kept answers whose time is a number."""

    def __init__(self) -> None:
        self.now_s = 0.0
        super().__init__(clock=lambda: self.now_s)

    def add(self, key: str = "a", size: int = 1) -> KeptAnswer:
        """Keep an answer of that many bytes, which nobody uses."""
        kept = self.keep(key, Answer(REQUEST, (Picture(b64_json=bytes(size)),)))
        self.release(kept)
        return kept


def test_an_answer_is_its_run_s_until_that_is_over() -> None:
    shelf = Shelf()
    kept = shelf.keep("a", Answer(REQUEST, ()))
    assert shelf.take("a") is None
    shelf.release(kept)
    assert shelf.take("a") is kept
    assert shelf.take("a") is None


def test_an_answer_is_used_once() -> None:
    shelf = Shelf()
    shelf.add()
    kept = shelf.take("a")
    assert kept
    shelf.forget(kept)
    assert shelf.take("a") is None
    shelf.forget(kept)


def test_what_was_delivered_is_kept_until_it_is_known_to_have_arrived() -> None:
    shelf = Shelf()
    arrived: dict[str, bool | None] = {"a": None, "b": None}
    for key in arrived:
        kept = shelf.keep(key, Answer(REQUEST, (Picture(b64_json=b"x"),)))
        shelf.release(kept, partial(arrived.get, key))
    assert [shelf.take("a"), shelf.take("b")] == [None, None]
    arrived |= {"a": True, "b": False}
    assert shelf.take("a") is None
    taken = shelf.take("b")
    assert taken and taken.is_old and shelf._kept == [taken]
    shelf.release(taken, lambda: True)
    assert shelf._kept == []


def test_a_run_that_is_cancelled_with_an_answer_of_an_earlier_one_still_has_it() -> None:
    shelf, cancelled = Shelf(), threading.Event()
    shelf.add()
    kept = shelf.take("a", cancelled)
    cancelled.set()
    assert kept and shelf.is_coming("a")


def test_a_run_knows_that_an_answer_is_an_earlier_one_s() -> None:
    shelf = Shelf()
    assert not shelf.add().is_old
    kept = shelf.take("a")
    assert kept
    assert kept.is_old


def test_only_the_same_call_gets_it_and_the_oldest_first() -> None:
    shelf = Shelf()
    first, second = shelf.add(), shelf.add()
    assert shelf.take("b") is None
    assert [shelf.take("a"), shelf.take("a"), shelf.take("a")] == [first, second, None]


@pytest.mark.parametrize(("age_s", "there"), [(MAX_AGE_S - 1, True), (MAX_AGE_S, False), (MAX_AGE_S + 1, False)])
def test_it_is_forgotten_after_an_hour(age_s: float, there: bool) -> None:
    shelf = Shelf()
    shelf.add()
    shelf.now_s = age_s
    assert (shelf.take("a") is not None) == there


def test_an_answer_in_use_is_never_forgotten_and_an_old_one_goes_when_it_is_released() -> None:
    shelf = Shelf()
    kept = shelf.keep("a", Answer(REQUEST, (Picture(b64_json=bytes(10)),)))
    shelf.now_s = MAX_AGE_S + 1
    shelf.add("b")
    assert kept in shelf._kept
    shelf.release(kept)
    assert shelf.take("a") is None


def test_no_more_than_the_limit_is_kept_and_the_oldest_goes_first() -> None:
    shelf = Shelf()
    quarter = MAX_BYTES // 4
    for key in "abcd":
        shelf.add(key, quarter)
    assert len(shelf._kept) == 4
    shelf.add("e", 1)
    assert [kept.key for kept in shelf._kept] == ["b", "c", "d", "e"]


def test_what_was_downloaded_counts() -> None:
    shelf = Shelf()
    kept = shelf.keep("a", Answer(REQUEST, (Picture(url="https://example.com/a.png"),)))
    assert kept.size_bytes == 0
    kept.downloads[0] = bytes(MAX_BYTES + 1)
    shelf.release(kept)
    assert shelf.take("a") is None


def test_many_threads_never_share_an_answer() -> None:
    shelf = Shelf()
    for _ in range(200):
        shelf.add()
    taken: list[KeptAnswer] = []

    def take() -> None:
        while kept := shelf.take("a"):
            kept.downloads[len(kept.downloads)] = b"x"
            taken.append(kept)
            shelf.forget(kept)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(map(id, taken))) == 200


def test_an_answer_that_a_cancelled_run_still_waits_for_is_coming() -> None:
    shelf, cancelled = KeptAnswers(), threading.Event()
    with shelf.asking("a", cancelled):
        assert not shelf.is_coming("a")
        cancelled.set()
        assert shelf.is_coming("a") and not shelf.is_coming("b")
        kept = shelf.keep("a", Answer(REQUEST, ()), cancelled)
    assert shelf.is_coming("a") and shelf.take("a") is None
    shelf.release(kept)
    assert not shelf.is_coming("a") and shelf.take("a") is kept


def test_an_answer_that_never_came_is_not_coming() -> None:
    shelf, cancelled = KeptAnswers(), threading.Event()
    cancelled.set()
    with suppress(ZeroDivisionError), shelf.asking("a", cancelled):
        raise ZeroDivisionError
    assert not shelf.is_coming("a")

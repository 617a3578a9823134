"""A call in plain Python, and several calls of one node; `test_comfyui` has them beside an event loop."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from dalle2.errors import CallCancelled
from dalle2.generation.answer_cache import AnswerCache
from dalle2.generation.call_context import MAX_ASKED_AT_ONCE, CallContext, CallGroup, single_call
from tests.loopback import is_kept, pay


@pytest.mark.parametrize("fails", [False, True])
def test_in_plain_python_an_answer_is_kept_when_the_call_fails(fails: bool, cache: AnswerCache) -> None:
    with suppress(KeyboardInterrupt), single_call(cache) as call:
        pay(call, cache)
        if fails:
            raise KeyboardInterrupt
    assert is_kept(cache) == fails


def test_the_answer_of_a_failed_call_is_free_before_its_group_has_ended(cache: AnswerCache) -> None:
    group = CallGroup()
    failed, other = CallContext(cache, group), CallContext(cache, group)
    group.join()
    group.join()
    pay(failed, cache)
    failed.finish()
    group.leave(failed, delivered=False)
    assert not cache.is_coming("a")  # the other one would wait for it for ever
    assert cache.checkout("a", other.cancelled)


def test_a_pause_ends_at_once_when_the_call_is_cancelled(cache: AnswerCache) -> None:
    call = CallContext(cache)
    call.cancelled.set()
    began_s = time.monotonic()
    call.pause(60)
    assert time.monotonic() - began_s < 10


def test_the_line_says_what_is_done_and_for_how_long(cache: AnswerCache, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    call = CallContext(cache)

    def line_at(now_s: float) -> str:
        clock[0] = now_s
        return call.line

    call.begin("Waiting for gpt-image-2")
    assert line_at(100.2) == "Waiting for gpt-image-2, 0 s"
    assert line_at(112.0) == "Waiting for gpt-image-2, 12 s"
    call.say("Rate limited, trying again in 4 s", 4)
    assert line_at(112.0) == line_at(115.9) == "Rate limited, trying again in 4 s"
    assert line_at(116.0) == "Waiting for gpt-image-2, 16 s"
    call.say("done")
    assert line_at(116.0) == "done"


def test_a_call_that_waits_for_its_turn_can_be_cancelled() -> None:
    group = CallGroup()
    call = CallContext(AnswerCache(), group)
    call.cancelled.set()
    for _ in range(MAX_ASKED_AT_ONCE):
        group.slots.acquire()
    with pytest.raises(CallCancelled), call.slot():
        pytest.fail("there was no free slot")

"""A call beside the event loop, outside of ComfyUI; `test_in_comfyui` has the rest."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from dalle2 import host
from dalle2.runs import Siblings, WasTaken, current_run
from tests.loopback import LONG_S, verdicts, wait_beside_loop, wait_for


def test_the_result_of_the_call_is_returned() -> None:
    assert asyncio.run(host.run_beside_loop(lambda: 42, "1")) == 42


def test_an_error_of_the_call_is_raised_after_the_first_await() -> None:
    async def look() -> bool:
        task = asyncio.ensure_future(host.run_beside_loop(lambda: 1 // 0, "1"))
        await asyncio.sleep(0)
        was_pending = not task.done()
        with pytest.raises(ZeroDivisionError):
            await task
        return was_pending

    assert asyncio.run(look())


def test_the_event_loop_is_free_while_the_call_blocks() -> None:
    began, release = threading.Event(), threading.Event()

    def block() -> bool:
        began.set()
        return release.wait(LONG_S)

    async def look() -> bool:
        task = asyncio.ensure_future(host.run_beside_loop(block, "1"))
        await wait_beside_loop(began.is_set)
        release.set()
        return await task

    assert asyncio.run(look())


def test_a_prompt_that_ends_early_is_not_held_up_by_the_call() -> None:
    began, release, ended = threading.Event(), threading.Event(), threading.Event()

    def block() -> None:
        began.set()
        release.wait(LONG_S)
        ended.set()

    async def end_early() -> None:
        asyncio.ensure_future(host.run_beside_loop(block, "1"))  # noqa: RUF006 - left behind on purpose
        await wait_beside_loop(began.is_set)

    asyncio.run(end_early())
    assert not ended.is_set()
    release.set()


def test_the_call_knows_its_run_and_hears_of_a_cancel() -> None:
    heard: list[bool] = []
    began = threading.Event()

    def call() -> None:
        with current_run() as run:
            began.set()
            heard.append(run.pause(LONG_S))

    async def cancel() -> None:
        task = asyncio.ensure_future(host.run_beside_loop(call, "1"))
        await wait_beside_loop(began.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    wait_for(lambda: bool(heard))
    assert heard == [True]


def test_a_run_is_over_as_delivered_when_its_result_was_taken() -> None:
    over: list[WasTaken | None] = []

    def call() -> None:
        with current_run() as run:
            run.when_over(over.append)
        assert over == []

    asyncio.run(host.run_beside_loop(call, "1"))
    assert verdicts(over) == [True]


def test_a_run_that_is_left_behind_is_over_once_its_call_ends() -> None:
    over: list[WasTaken | None] = []
    began, release = threading.Event(), threading.Event()

    def call() -> None:
        with current_run() as run:
            run.when_over(over.append)
            began.set()
            release.wait(LONG_S)

    async def cancel() -> None:
        task = asyncio.ensure_future(host.run_beside_loop(call, "1"))
        await wait_beside_loop(began.is_set)
        task.cancel()

    asyncio.run(cancel())
    assert over == []
    release.set()
    wait_for(lambda: bool(over))
    assert verdicts(over) == [False]


def test_the_calls_of_one_node_are_delivered_together_or_not_at_all() -> None:
    over: list[WasTaken | None] = []
    fail = threading.Event()

    def good() -> None:
        with current_run() as run:
            run.when_over(over.append)

    def bad() -> None:
        fail.wait(LONG_S)
        raise ValueError("no")

    async def both() -> None:
        calls = [asyncio.ensure_future(host.run_beside_loop(call, "1")) for call in (good, bad)]
        await calls[0]
        assert over == []
        fail.set()
        with pytest.raises(ValueError, match="no"):
            await calls[1]

    asyncio.run(both())
    assert verdicts(over) == [False]


def test_nodes_do_not_share_their_fate() -> None:
    over: list[WasTaken | None] = []

    def good() -> None:
        with current_run() as run:
            run.when_over(over.append)

    async def both() -> None:
        calls = [host.run_beside_loop(good, "1"), host.run_beside_loop(lambda: 1 // 0, "2")]
        await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(both())
    assert verdicts(over) == [True]


def test_outside_of_comfyui_the_base_is_comfy_orgs_and_no_node_is_shadowed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        host.warn_if_shadowed("OpenAIDalle2")
    assert host.comfy_api_base() == "https://api.comfy.org"
    assert not caplog.records


def test_a_thread_that_cannot_be_started_is_an_error_after_the_first_await(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def look() -> bool:
        task = asyncio.ensure_future(host.run_beside_loop(lambda: 1, "1"))
        await asyncio.sleep(0)
        was_pending = not task.done()
        with pytest.raises(RuntimeError, match="new thread"):
            await task
        return was_pending

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert asyncio.run(look())
    assert not Siblings._groups

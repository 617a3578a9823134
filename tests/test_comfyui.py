"""A call beside the event loop, and what ComfyUI is told of it; `test_in_comfyui` has the real one."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from dalle2 import comfyui
from dalle2.comfyui import NodeRunner, replace_built_in
from dalle2.errors import ImagesApiError
from dalle2.generation.answer_cache import AnswerCache
from dalle2.generation.call_context import CallContext
from tests.loopback import LONG_S, is_kept, pay, refuse_threads, wait_beside_loop, wait_for


@pytest.fixture
def runner(cache: AnswerCache) -> NodeRunner:
    return NodeRunner(cache)


async def run(runner: NodeRunner, call: Callable[[CallContext], Any], node_id: str | None = "1") -> Any:
    return await runner.run_beside_loop(call, node_id)


def test_a_thread_that_cannot_be_started_is_an_error_and_leaves_nothing(
    runner: NodeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look() -> None:
        task = asyncio.create_task(run(runner, lambda context: 1))
        await asyncio.sleep(0)
        assert not task.done()  # with an error that comes before the first await, ComfyUI would publish every input
        with pytest.raises(RuntimeError, match="new thread"):
            await task

    with monkeypatch.context() as patch:
        refuse_threads(patch)
        asyncio.run(look())
    assert asyncio.run(run(runner, lambda context: context.group.step())) == (1, 1)  # a group of its own


def test_a_cancelled_call_that_fails_later_leaves_no_complaint(
    runner: NodeRunner, cache: AnswerCache, caplog: pytest.LogCaptureFixture
) -> None:
    began, release = threading.Event(), threading.Event()

    def fail_late(context: CallContext) -> None:
        pay(context, cache)
        began.set()
        release.wait(LONG_S)
        raise ImagesApiError("too late")

    async def cancel() -> None:
        task = asyncio.create_task(run(runner, fail_late))
        await wait_beside_loop(began.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()
        await wait_beside_loop(lambda: is_kept(cache))
        await asyncio.sleep(0.05)  # the loop hears of the end of the thread

    asyncio.run(cancel())
    wait_for(lambda: not any(thread.name == "openai-dalle" for thread in threading.enumerate()))
    gc.collect()  # asyncio complains of an error that nobody asked for when it is collected
    assert not caplog.records


def test_another_node_s_failure_does_not_matter(runner: NodeRunner, cache: AnswerCache) -> None:
    async def both() -> None:
        calls = [run(runner, lambda context: pay(context, cache)), run(runner, lambda context: 1 // 0, "2")]
        await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(both())
    assert not is_kept(cache)


class FakeComfyUI:
    """Stands in for the modules of a running ComfyUI that steps and settings need. `steps` were shown on nodes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[int, int, str, str]] = []
        for module in ("comfy.model_management", "comfy.utils", "folder_paths"):
            monkeypatch.setitem(sys.modules, module, self)

    def processing_interrupted(self) -> bool:
        return False

    def get_system_user_directory(self, name: str) -> str:
        return f"/user/__{name}"

    def ProgressBar(self, total: int, node_id: str) -> Any:
        def update(done: int, preview: tuple[str, Image.Image, int]) -> None:
            self.steps.append((done, total, preview[0], node_id))

        return SimpleNamespace(update_absolute=update)


def test_a_preview_with_transparency_is_sent_as_png(runner: NodeRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(context: CallContext) -> None:
        context.group.expect(2)
        context.step(Image.new("RGB", (8, 8)))
        context.step(Image.new("RGBA", (8, 8)))

    fake = FakeComfyUI(monkeypatch)
    asyncio.run(run(runner, call, "7"))
    assert fake.steps == [(1, 2, "JPEG", "7"), (2, 2, "PNG", "7")]


def test_settings_are_in_the_folder_that_comfyui_hands_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeComfyUI(monkeypatch)
    assert comfyui.settings_folder() == Path("/user/__openai_dalle")


def test_outside_of_comfyui_nothing_is_replaced(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_in = SimpleNamespace(RELATIVE_PYTHON_MODULE="comfy_api_nodes.nodes_openai")
    namesake = SimpleNamespace(NODE_CLASS_MAPPINGS={"OpenAIDalle2": built_in})
    monkeypatch.setitem(sys.modules, "nodes", namesake)  # any program may have a module of that name
    with caplog.at_level(logging.DEBUG):
        replace_built_in("OpenAIDalle2", object, "OpenAI DALL·E 2")
    assert namesake.NODE_CLASS_MAPPINGS["OpenAIDalle2"] is built_in
    assert comfyui.comfy_api_base() == "https://api.comfy.org"
    assert comfyui.settings_folder() is None
    assert not caplog.records

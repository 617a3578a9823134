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
from dalle2.settings import SettingsError
from tests.loopback import LONG_S, is_kept, pay, refuse_threads, wait_beside_loop, wait_for


@pytest.fixture
def runner(cache: AnswerCache) -> NodeRunner:
    return NodeRunner(cache)


class FakeComfyUI:
    """What the node touches of a running ComfyUI: the texts and steps on nodes, its settings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[tuple[str, str]] = []
        self.steps: list[tuple[int, int, str, str]] = []
        server = SimpleNamespace(send_progress_text=lambda text, node_id: self.texts.append((text, node_id)))
        modules = {
            "comfy.model_management": SimpleNamespace(processing_interrupted=lambda: False),
            "comfy.utils": SimpleNamespace(ProgressBar=self._bar),
            "comfy.cli_args": SimpleNamespace(args=SimpleNamespace(comfy_api_base="https://staging.example")),
            "server": SimpleNamespace(PromptServer=SimpleNamespace(instance=server)),
            "folder_paths": SimpleNamespace(get_system_user_directory=lambda name: f"/user/__{name}"),
        }
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    def _bar(self, total: int, node_id: str) -> Any:
        def update(done: int, preview: tuple[str, Image.Image, int]) -> None:
            self.steps.append((done, total, preview[0], node_id))

        return SimpleNamespace(update_absolute=update)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeComfyUI:
    return FakeComfyUI(monkeypatch)


class Blocked:
    """A call that has an answer, blocks until it is released, and fails."""

    def __init__(self, cache: AnswerCache, error: Exception) -> None:
        self.began, self.release = threading.Event(), threading.Event()
        self._cache = cache
        self._error = error

    def __call__(self, context: CallContext) -> None:
        pay(context, self._cache)
        self.began.set()
        self.release.wait(LONG_S)
        raise self._error


async def run(runner: NodeRunner, call: Callable[[CallContext], Any], node_id: str | None = "1") -> Any:
    return await runner.run_beside_loop(call, node_id)


@pytest.mark.parametrize(
    ("error", "shown"),
    [(ImagesApiError("no images"), RuntimeError), (SettingsError("no key"), ValueError), (KeyError("x"), KeyError)],
)
def test_an_error_comes_after_the_first_await_and_without_a_module_path(
    error: Exception, shown: type[Exception], runner: NodeRunner, cache: AnswerCache
) -> None:
    call = Blocked(cache, error)
    call.release.set()

    async def look() -> Exception:
        task = asyncio.create_task(run(runner, call))
        await asyncio.sleep(0)
        assert not task.done()
        with pytest.raises(shown) as caught:
            await task
        return caught.value

    raised = asyncio.run(look())
    assert type(raised) is shown
    assert str(raised) == str(error)
    assert is_kept(cache)


def test_a_thread_that_cannot_be_started_is_an_error_and_leaves_nothing(
    runner: NodeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="new thread"):
        refuse_threads(patch)
        asyncio.run(run(runner, lambda context: 1))
    assert asyncio.run(run(runner, lambda context: context.group.step())) == (1, 1)  # a group of its own


def test_a_cancelled_call_that_fails_later_leaves_no_complaint(
    runner: NodeRunner, cache: AnswerCache, caplog: pytest.LogCaptureFixture
) -> None:
    async def cancel() -> None:
        call = Blocked(cache, ImagesApiError("too late"))
        task = asyncio.create_task(run(runner, call))
        await wait_beside_loop(call.began.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        call.release.set()
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


def test_lines_and_steps_are_shown_on_the_node(runner: NodeRunner, fake: FakeComfyUI) -> None:
    def call(context: CallContext) -> None:
        context.group.expect(2)
        context.begin("Waiting for gpt-image-2")
        wait_for(lambda: bool(fake.texts))
        context.step(Image.new("RGB", (8, 8)))
        context.step(Image.new("RGBA", (8, 8)))
        context.say("2 pictures")

    asyncio.run(run(runner, call, "7"))
    assert fake.texts == [("Waiting for gpt-image-2, 0 s", "7"), ("2 pictures", "7")]
    assert fake.steps == [(1, 2, "JPEG", "7"), (2, 2, "PNG", "7")]


def test_the_base_of_comfy_org_and_the_folder_of_settings_are_comfyui_s(fake: FakeComfyUI) -> None:
    assert comfyui.comfy_api_base() == "https://staging.example"
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

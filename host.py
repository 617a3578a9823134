"""The ComfyUI around the node: interrupts, progress, text on the node, and a blocking call beside its event loop.

The only module that knows ComfyUI's own. Outside of ComfyUI everything here works and shows nothing.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from .runs import Run, Siblings, become_current

log = logging.getLogger("comfyui-openai-dalle2")

T = TypeVar("T")

POLL_S = 0.05  # how often a waiting node looks whether it was cancelled, and shows what is new
PREVIEW_SIDE_PX = 512
COMFY_ORG_URL = "https://api.comfy.org"


async def run_beside_loop(call: Callable[[], T], node_id: str | None) -> T:
    """`call()`, made in a daemon thread, while ComfyUI's event loop stays free.

    A cancelled prompt ends within a moment as *interrupted*, and leaves the call to itself: a thread of the loop's own
    pool would be waited for. Nothing is raised before the first await: ComfyUI would publish every input with it.
    """
    loop = asyncio.get_running_loop()
    was_taken = partial(_was_taken, getattr(_server(), "last_prompt_id", None), node_id)
    siblings = Siblings.join((loop, node_id))  # ComfyUI runs each prompt in a loop of its own
    run, outcome, delivered = Run(siblings), loop.create_future(), False
    show = _Display(node_id)
    try:
        _start(call, run, loop, outcome)
        await asyncio.sleep(0)
        while not outcome.done():
            await asyncio.wait({outcome}, timeout=POLL_S)
            _raise_if_interrupted()  # before anything is shown: ComfyUI's progress bar would clear the flag
            show(run)
        result: T = outcome.result()
        delivered = True
        return result
    finally:
        siblings.leave((loop, node_id), run, was_taken if delivered else None)


class _Display:
    """Shows on a node what is new about a run."""

    def __init__(self, node_id: str | None) -> None:
        self._node_id = node_id
        self._shown = ""

    def __call__(self, run: Run) -> None:
        if not self._node_id:
            return
        line = run.line
        if line != self._shown:
            self._shown = line
            _send_text(line, self._node_id)
        for done, total, preview in run.steps():
            _send_step(done, total, preview, self._node_id)


def _start(call: Callable[[], T], run: Run, loop: asyncio.AbstractEventLoop, outcome: asyncio.Future[T]) -> None:
    def settle(set_outcome: Callable[[Any], None], value: Any) -> None:
        if not outcome.done():
            set_outcome(value)

    def work() -> None:
        become_current(run)
        try:
            settled: tuple[Any, Any] = (outcome.set_result, call())
        except BaseException as err:
            settled = (outcome.set_exception, err)
        run.finish()
        with suppress(RuntimeError):  # the prompt has ended, and its loop with it
            loop.call_soon_threadsafe(settle, *settled)

    try:
        threading.Thread(target=copy_context().run, args=(work,), name="OpenAIDalle2", daemon=True).start()
    except RuntimeError as err:  # there are too many threads
        run.finish()
        outcome.set_exception(err)


def comfy_api_base() -> str:
    """The base of Comfy.org's API: `--comfy-api-base`, by default Comfy.org itself."""
    args = getattr(_module("comfy.cli_args"), "args", None)
    return str(getattr(args, "comfy_api_base", None) or COMFY_ORG_URL)


def warn_if_shadowed(node_id: str) -> None:
    """Say so in the log when ComfyUI has a node of this id itself, and therefore ignores this one."""
    if node_id in getattr(_module("nodes"), "NODE_CLASS_MAPPINGS", {}):
        log.warning(
            "This ComfyUI still has its own node %s, which no longer works, and ignores the one of this package. "
            "Update ComfyUI to 0.34.6 or later, or start it with --disable-api-nodes (then with a key of your own, as "
            "nobody can sign in).",
            node_id,
        )


def _module(name: str) -> Any:
    """A module of the running ComfyUI, None outside of it."""
    return sys.modules.get(name) if "comfy.model_management" in sys.modules else None


def _raise_if_interrupted() -> None:
    management = _module("comfy.model_management")
    # Only looks: throw_exception_if_processing_interrupted would clear the flag, and other nodes would miss it.
    if management is not None and management.processing_interrupted():
        raise management.InterruptProcessingException


def _server() -> Any:
    """ComfyUI's server, None outside of it."""
    return getattr(getattr(_module("server"), "PromptServer", None), "instance", None)


def _was_taken(prompt_id: str | None, node_id: str | None) -> bool | None:
    """Whether ComfyUI took what a node returned in a prompt; None while the prompt is running.

    It takes what is ready one by one. When one of them is an error, it drops the others, and its history names the
    nodes whose results it has. What the history no longer knows counts as taken.
    """
    server = _server()
    if server is None or prompt_id is None:
        return True
    entry = server.prompt_queue.get_history(prompt_id=prompt_id).get(prompt_id)
    if entry is None:
        return None if server.last_prompt_id == prompt_id else True
    messages = (entry.get("status") or {}).get("messages", ())
    broken_off = [data for kind, data in messages if kind in ("execution_error", "execution_interrupted")]
    return all(node_id in data.get("executed", [node_id]) for data in broken_off)


def _send_text(text: str, node_id: str) -> None:
    server = _server()
    if hasattr(server, "send_progress_text"):
        server.send_progress_text(text, node_id)


def _send_step(done: int, total: int, preview: Any, node_id: str) -> None:
    bar = getattr(_module("comfy.utils"), "ProgressBar", None)
    if bar is not None:
        kind = "JPEG" if preview.mode == "RGB" else "PNG"  # as PNG, a photo takes several times the bytes
        bar(total, node_id=node_id).update_absolute(done, preview=(kind, preview, PREVIEW_SIDE_PX))

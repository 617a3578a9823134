"""The ComfyUI around the node: interrupts, progress, text on the node, and a blocking call beside its event loop.

The only module that knows ComfyUI's own. Outside of ComfyUI everything here works and shows nothing.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, ClassVar, TypeVar

log = logging.getLogger("comfyui-openai-dalle2")

T = TypeVar("T")
# Whether ComfyUI took what a node returned; None while that is open.
WasTaken = Callable[[], bool | None]

POLL_S = 0.05  # how often a waiting node looks whether it was cancelled, and shows what is new
PREVIEW_SIDE_PX = 512
COMFY_ORG_URL = "https://api.comfy.org"


class Run:
    """One call of the node: what it shows, whether it was cancelled, and what is to happen when it is over.

    Worker threads use it freely; only `publish` and `end` belong to the thread of the event loop.
    """

    def __init__(self, node_id: str | None = None, siblings: _Siblings | None = None) -> None:
        self.cancelled = threading.Event()
        self._node_id = node_id
        self._siblings = siblings or _Siblings()
        self._activity: tuple[str, float | None] = ("", None)
        self._aside: tuple[str, float] = ("", 0.0)
        self._shown = ""
        self._steps: deque[Any] = deque()
        self._when_over: list[Callable[[WasTaken | None], None]] = []
        self._was_taken: WasTaken | None = None
        self._over = False
        self._lock = threading.Lock()
        self._finished = False

    def pause(self, seconds: float) -> bool:
        """Sleep, and return whether the user has cancelled meanwhile (which ends the sleep)."""
        return self.cancelled.wait(seconds)

    def begin(self, activity: str) -> None:
        """Show on the node what it is doing from now on, and for how long."""
        self._activity = (activity, time.monotonic())

    def say(self, text: str, for_s: float | None = None) -> None:
        """Show a line on the node, for so many seconds if they are given."""
        if for_s is None:
            self._activity = (text, None)
        else:
            self._aside = (text, time.monotonic() + for_s)

    def expect(self, total: int) -> None:
        """How many steps there will be in this call."""
        self._siblings.expect(total)

    def step(self, preview: Any) -> None:
        """One step is done; `preview` is a PIL image to show for it."""
        self._steps.append(preview)

    def outcomes(self, outcome: Any) -> tuple[list[Any], float]:
        """The outcomes of the node's calls that have ended so far, this one's included, and the seconds they took."""
        return self._siblings.outcomes(outcome)

    def when_over(self, action: Callable[[WasTaken | None], None]) -> None:
        """Have `action(was_taken)` called once, when the run is over; with None if nobody will take its result."""
        with self._lock:
            if not self._over:
                self._when_over.append(action)
                return
        action(self._was_taken)

    def publish(self) -> None:
        """Show in ComfyUI what is new."""
        if not self._node_id:
            return
        text = self._line(time.monotonic())
        if text != self._shown:
            self._shown = text
            _send_text(text, self._node_id)
        while self._steps:
            _send_step(*self._siblings.step(), self._steps.popleft(), self._node_id)

    def _line(self, now_s: float) -> str:
        text, began_s = self._activity
        aside, until_s = self._aside
        if began_s is None:
            return text
        return aside if now_s < until_s else f"{text}, {now_s - began_s:.0f} s"

    def finish(self) -> None:
        """The call itself has ended; called by the thread that made it."""
        self._finished = True
        if self.cancelled.is_set():
            self._settle(None)

    def end(self, was_taken: WasTaken | None) -> None:
        """The node is done with the call, which may still be running if nobody will take its result (None)."""
        if was_taken is not None:
            self._settle(was_taken)
            return
        self.cancelled.set()
        if self._finished:
            self._settle(None)

    def _settle(self, was_taken: WasTaken | None) -> None:
        with self._lock:
            if self._over:
                return
            self._over, self._was_taken = True, was_taken
        for action in self._when_over:
            action(was_taken)


_current: ContextVar[Run] = ContextVar("dalle2_run")


@contextmanager
def current_run() -> Iterator[Run]:
    """The run that this call belongs to; a call from plain Python is a run of its own."""
    if run := _current.get(None):
        yield run
        return
    run, delivered = Run(), False
    try:
        yield run
        delivered = True
    finally:
        run.finish()
        run.end((lambda: True) if delivered else None)


async def run_beside_loop(call: Callable[[], T], node_id: str | None) -> T:
    """`call()`, made in a daemon thread, while ComfyUI's event loop stays free.

    A cancelled prompt ends within a moment as *interrupted*, and leaves the call to itself: a thread of the loop's own
    pool would be waited for. Nothing is raised before the first await: ComfyUI would publish every input with it.
    """
    loop = asyncio.get_running_loop()
    siblings = _Siblings.join(loop, node_id)
    run, outcome = Run(node_id, siblings), loop.create_future()
    delivered = False
    try:
        _start(call, run, loop, outcome)
        await asyncio.sleep(0)
        while not outcome.done():
            await asyncio.wait({outcome}, timeout=POLL_S)
            _raise_if_interrupted()  # before `publish`, whose progress bar would clear the flag
            run.publish()
        result: T = outcome.result()
        delivered = True
        return result
    finally:
        siblings.leave(run, delivered=delivered)


def _start(call: Callable[[], T], run: Run, loop: asyncio.AbstractEventLoop, outcome: asyncio.Future[T]) -> None:
    def settle(set_outcome: Callable[[Any], None], value: Any) -> None:
        if not outcome.done():
            set_outcome(value)

    def work() -> None:
        _current.set(run)
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


class _Siblings:
    """The calls that one node makes in one prompt (a list input makes several).

    They have one progress bar and tell their outcome together. ComfyUI drops the results of all of them when one fails,
    so they are delivered together or not at all.
    """

    _groups: ClassVar[dict[tuple[asyncio.AbstractEventLoop, str | None], _Siblings]] = {}

    def __init__(self, key: tuple[asyncio.AbstractEventLoop, str | None] | None = None) -> None:
        self._key = key
        self._prompt_id = getattr(_server(), "last_prompt_id", None)
        self._began_s = time.monotonic()
        self._total = 0
        self._done = 0
        self._outcomes: list[Any] = []
        self._active = 0
        self._left: list[Run] = []
        self._delivered = True
        self._lock = threading.Lock()

    @classmethod
    def join(cls, loop: asyncio.AbstractEventLoop, node_id: str | None) -> _Siblings:
        """The group of a call that begins; ComfyUI runs each prompt in a loop of its own."""
        group = cls._groups.setdefault((loop, node_id), cls((loop, node_id)))
        group._active += 1
        return group

    def expect(self, total: int) -> None:
        with self._lock:
            self._total += total

    def step(self) -> tuple[int, int]:
        """Count a step that is done, and return how many are, and of how many."""
        self._done += 1
        return self._done, max(self._total, self._done)

    def outcomes(self, outcome: Any) -> tuple[list[Any], float]:
        with self._lock:
            self._outcomes.append(outcome)
            return list(self._outcomes), time.monotonic() - self._began_s

    def leave(self, run: Run, *, delivered: bool) -> None:
        """A call has ended; the last one ends the runs of all."""
        self._left.append(run)
        self._delivered &= delivered
        if not delivered:
            run.cancelled.set()
        self._active -= 1
        if not self._active:
            if self._key:
                del self._groups[self._key]
            was_taken = partial(_was_taken, self._prompt_id, self._key and self._key[1])
            for each in self._left:
                each.end(was_taken if self._delivered else None)


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
    messages = (entry["status"] or {}).get("messages", ())
    broken_off = [data for kind, data in messages if kind in ("execution_error", "execution_interrupted")]
    return all(node_id in data["executed"] for data in broken_off)


def _send_text(text: str, node_id: str) -> None:
    server = _server()
    if hasattr(server, "send_progress_text"):
        server.send_progress_text(text, node_id)


def _send_step(done: int, total: int, preview: Any, node_id: str) -> None:
    bar = getattr(_module("comfy.utils"), "ProgressBar", None)
    if bar is not None:
        kind = "JPEG" if preview.mode == "RGB" else "PNG"  # a photo takes several times as much as PNG
        bar(total, node_id=node_id).update_absolute(done, preview=(kind, preview, PREVIEW_SIDE_PX))

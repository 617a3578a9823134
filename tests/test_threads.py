"""Work side by side: in order, within the limit, and never holding up the end of the process."""

from __future__ import annotations

import _thread
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from dalle2 import threads
from dalle2.threads import map_threads
from tests.loopback import LONG_S


def test_after_all_items_the_first_error_in_their_order_is_raised() -> None:
    seen: list[int] = []

    def work(item: int) -> None:
        seen.append(item)
        if item in (2, 5):
            raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 2"):
        map_threads(work, range(8), limit=3)
    assert sorted(seen) == list(range(8))


def test_where_no_more_threads_can_be_had_those_that_were_begun_end_first(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    done: list[int] = []
    has_failed = threading.Event()

    def start_two(thread: threading.Thread) -> None:
        if len(started) == 2:
            has_failed.set()
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    def work(item: int) -> None:
        has_failed.wait(LONG_S)
        done.append(item)

    started: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(RuntimeError, match="new thread"):
        map_threads(work, range(4), limit=3)
    assert sorted(done) == [0, 1]


@pytest.fixture
def _hears_ctrl_c() -> Iterator[None]:
    """A shell starts what runs in its background with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_hears_ctrl_c")
def test_ctrl_c_is_raised_when_those_that_were_begun_have_ended() -> None:
    pressed = threading.Event()
    done: list[int] = []

    def work(item: int) -> None:
        if item == 1:
            _thread.interrupt_main()
            pressed.set()
            return
        pressed.wait(LONG_S)
        threading.Event().wait(0.2)
        done.append(item)

    with pytest.raises(KeyboardInterrupt):
        map_threads(work, range(2), limit=2)
    assert done == [0]


def test_a_thread_that_hangs_does_not_keep_the_process_alive() -> None:
    # The module alone, in a process that imports nothing else.
    code = f"""
import importlib.util, threading
spec = importlib.util.spec_from_file_location("threads", {threads.__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
hung = threading.Event()
def hang(_):
    hung.set()
    threading.Event().wait()
threading.Thread(target=module.map_threads, args=(hang, range(3)), kwargs=dict(limit=3), daemon=True).start()
hung.wait()
"""
    subprocess.run([sys.executable, "-c", code], timeout=LONG_S, check=True)

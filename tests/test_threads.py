"""Work side by side: in order, within the limit, and never holding up the end of the process."""

from __future__ import annotations

import subprocess
import sys
import threading

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


def test_nothing_more_is_begun_after_ctrl_c() -> None:
    begun = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        map_threads(work, range(8), limit=1)
    assert begun == [0, 1]


@pytest.mark.parametrize("possible", [0, 1])
def test_where_threads_cannot_be_started_fewer_do_the_work(possible: int, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def start_few(thread: threading.Thread) -> None:
        if len(started) == possible:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_few)
    assert map_threads(str, range(4), limit=3) == ["0", "1", "2", "3"]
    assert not any(thread.is_alive() for thread in started)


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

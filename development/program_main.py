"""Starts a program for `development.program`: `python program_main.py SCRIPT [arguments]`, or `-m MODULE` for a script.

Unlike the program by itself, it ends when the pipe on its standard input is closed, that is when whoever started it is
gone, however that came about; and it obeys Ctrl-C in the background too. Any Python runs this, with nothing installed.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import sys
import threading


def _end_with_parent() -> None:
    """End this process when the other side of standard input closes.

    The pipe moves to a descriptor of its own: on Windows a child process that inherited a standard input with
    a read pending on it would hang.
    """
    pipe = os.dup(0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(pipe, 1024):
                pass
        os._exit(1)

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()


def _obey_ctrl_c() -> None:
    """Let Ctrl-C stop the program: in the background it may be ignored, and on Windows it comes as a break."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, signal.default_int_handler)


def main() -> None:
    _end_with_parent()
    _obey_ctrl_c()
    # This script's folder has modules with common names, which must not stand in the way of anybody else's.
    sys.path.pop(0)
    sys.argv.pop(0)
    if sys.argv[0] == "-m":
        sys.argv.pop(0)
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()

"""Starts LiteLLM's proxy for `tools.gateway`: `python litellm_main.py [LiteLLM's arguments]`.

Run by the Python of LiteLLM's own environment. Unlike the command `litellm`, it ends when the pipe on its standard
input is closed, that is when whoever started it is gone.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import threading


def _end_with_parent() -> None:
    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1024):
                pass
        os._exit(1)

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()


def main() -> None:
    _end_with_parent()
    # This script's folder has modules with common names, which must not stand in the way of anybody else's.
    sys.path.pop(0)
    runpy.run_module("litellm.proxy.proxy_cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

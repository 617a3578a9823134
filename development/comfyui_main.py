"""Starts ComfyUI for the tests and the demo: `python comfyui_main.py FOLDER [ComfyUI's arguments]`.

Unlike `python main.py`, it ends when the pipe on its standard input is closed, that is when whoever started it is gone,
however that came about; it obeys Ctrl-C in the background too; it does not read the file of paths to models that may
lie beside it; and torchvision may be of another build than torch. A CUDA build of torchvision beside a CPU build of
torch does not find its compiled operators and refuses to be imported. ComfyUI never calls those operators here, so
declaring them is enough.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import runpy
import shutil
import signal
import sys
import threading
from pathlib import Path

OPERATORS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def end_with_parent() -> None:
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


def obey_ctrl_c() -> None:
    """Let Ctrl-C stop ComfyUI: in the background it may be ignored, and on Windows it comes as a break."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, signal.default_int_handler)


def import_torchvision() -> None:
    """Import torchvision; where that fails because operators are missing, declare them and try again."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library = importlib.import_module("torch.library")
        for name, schema in OPERATORS.items():
            library.define(name, schema)
        importlib.import_module("torchvision")


def main() -> None:
    end_with_parent()
    obey_ctrl_c()
    folder = Path(sys.argv[1])
    # In place of this script's folder, whose modules have common names.
    sys.path[0] = str(folder)
    if (folder / "comfy").is_dir():  # some tests start another program in ComfyUI's place
        # Before ComfyUI, which then warns that torch is there too early; that matters to GPUs alone.
        import_torchvision()
    # What is not beside it, it does not find.
    copy = shutil.copy(folder / "main.py", "main.py")
    sys.argv = [copy, *sys.argv[2:]]
    runpy.run_path(copy, run_name="__main__")


if __name__ == "__main__":
    main()

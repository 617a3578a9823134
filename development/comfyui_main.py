"""Starts ComfyUI for the tests and the demo: `python comfyui_main.py FOLDER [ComfyUI's arguments]`.

Unlike `python main.py`, it does not read the file of paths to models that may lie beside it, and torchvision may be of
another build than torch. A CUDA build of torchvision beside a CPU build of torch does not find its compiled operators
and refuses to be imported. ComfyUI never calls those operators here, so declaring them is enough.
"""

from __future__ import annotations

import importlib
import runpy
import shutil
import sys
from pathlib import Path

OPERATORS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


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
    folder = Path(sys.argv[1])
    if (folder / "comfy").is_dir():  # some tests start another program in ComfyUI's place
        # Before ComfyUI, which then warns that torch is there too early; that matters to GPUs alone.
        import_torchvision()
    # What is not beside it, it does not find.
    copy = shutil.copy(folder / "main.py", "main.py")
    sys.argv = [copy, *sys.argv[2:]]
    sys.path.insert(0, str(folder))
    runpy.run_path(copy, run_name="__main__")


if __name__ == "__main__":
    main()

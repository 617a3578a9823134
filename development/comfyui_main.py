"""Starts ComfyUI for the tests and the demo: `python comfyui_main.py FOLDER [ComfyUI's arguments]`.

One thing differs from `python main.py`: torchvision may be of another build than torch. A CUDA build of torchvision
beside a CPU build of torch does not find its compiled operators and refuses to be imported. ComfyUI never calls those
operators here, so declaring them is enough.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

OPERATORS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


class _TorchvisionLoader(importlib.abc.Loader):
    """Imports torchvision; where that fails for want of an operator, declares it and tries again."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            self._loader.exec_module(module)
        except RuntimeError as err:
            if "torchvision::" not in str(err):
                raise
            for name in [name for name in sys.modules if name.startswith("torchvision.")]:
                del sys.modules[name]
            _declare_operators()
            self._loader.exec_module(module)


class TorchvisionFinder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "torchvision":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _TorchvisionLoader(spec.loader)
        return spec


def _declare_operators() -> None:
    # Imported here because ComfyUI complains when torch is there before its own settings for it.
    import torch.library

    for name, schema in OPERATORS.items():
        torch.library.define(name, schema)


def main() -> None:
    folder = Path(sys.argv[1])
    sys.meta_path.insert(0, TorchvisionFinder())
    sys.argv = [str(folder / "main.py"), *sys.argv[2:]]
    sys.path.insert(0, str(folder))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()

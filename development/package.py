"""This repository as a ComfyUI package: loaded under one fixed name, copied and packed as an installation holds it.

That is what the registry's command line packs: every file that git tracks, less what `.comfyignore` names in the
language of `.gitignore`.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ALIAS = "dalle2"
NAME = "openai-dalle"  # in the registry, and of the folder in custom_nodes
NOT_ARCHIVED = "--exclude-from=.comfyignore"


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


def archived_files(root: Path = ROOT) -> list[str]:
    """The paths of the archive, with forward slashes. Raises CalledProcessError outside of a git repository."""
    ignored = git_files(root, "--cached", "--ignored", NOT_ARCHIVED)
    return [path for path in git_files(root, "--cached") if path not in ignored]


def modules() -> list[Path]:
    """The package's own modules."""
    return [ROOT / path for path in archived_files() if path.endswith(".py")]


def write_archive(archive: Path) -> Path:
    """Write the archive and return its path."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in archived_files():
            file.write(ROOT / path, path)
    return archive


def copy_package(destination: Path, root: Path = ROOT) -> Path:
    """Copy to `destination` what an installation holds, and return `destination`.

    New files come along before git tracks them; what git ignores, such as a `.env` with somebody's key, never does.
    """
    new = git_files(root, "--others", "--exclude-standard", NOT_ARCHIVED)
    for path in [*archived_files(root), *new]:
        if (root / path).is_file():  # git tracks what was deleted until that is committed
            (destination / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / path, destination / path)
    return destination


def git_files(root: Path, *options: str) -> list[str]:
    """What `git ls-files` lists."""
    command = ["git", "ls-files", "-z", *options]
    listed = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE)
    return [path for path in listed.stdout.decode().split("\0") if path]

"""`python dev.py lint`: ruff, ruff's format, and mypy for every system, all of them even when one complains.

mypy wants a package's folder to be an identifier, which a checkout's need not be. So its modules are
copied to a folder `dalle2`, with everything that imports them beside it, and checked there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from development.package import ALIAS, DEVELOPMENT_SCRIPTS, ROOT, modules

FOLDERS = ("development", "tests")
PLATFORMS = ("linux", "win32", "darwin")  # what this machine is not is at least read with its eyes


def main() -> int:
    # Kept between runs, so that mypy finds what it remembers of unchanged files.
    folder = Path(sys.prefix) / "typecheck"
    copy_sources(folder)
    codes = [
        run("ruff", "check", cwd=ROOT),
        run("ruff", "format", "--check", cwd=ROOT),
        *(run("mypy", "--strict", "--platform", platform, ".", cwd=folder) for platform in PLATFORMS),
    ]
    return max(codes)


def copy_sources(folder: Path) -> None:
    """Make in `folder` the tree that mypy is to check."""
    for old in (ALIAS, *FOLDERS):
        shutil.rmtree(folder / old, ignore_errors=True)
    (folder / ALIAS).mkdir(parents=True)
    for module in modules():
        shutil.copy2(module, folder / ALIAS)
    for name in ("pyproject.toml", *DEVELOPMENT_SCRIPTS):
        shutil.copy2(ROOT / name, folder)
    for name in FOLDERS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


def run(*command: str, cwd: Path) -> int:
    print(f"--- {' '.join(command)}", flush=True)
    return subprocess.run([sys.executable, "-m", *command], cwd=cwd, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

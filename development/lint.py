"""`python dev.py lint`: ruff, ruff's format, and mypy for every system, all of them even when one complains.

mypy wants a package's folder to be an identifier, which a checkout's need not be. So its modules are
copied to a folder `dalle2`, with everything that imports them beside it, and checked there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from development.package import ALIAS, ROOT, copy_package

# In the checkout, because several checkouts can share an environment. It is kept between runs, so that mypy finds what
# it remembers of unchanged files.
COPY = ROOT / ".mypy_cache" / "typecheck"
FOLDERS = ("development", "tests")
PLATFORMS = ("linux", "win32", "darwin")


def main() -> int:
    copy_sources(COPY)
    codes = [run("ruff", "check", cwd=ROOT), run("ruff", "format", "--check", cwd=ROOT)]
    for platform in PLATFORMS:
        codes.append(run("mypy", "--strict", "--platform", platform, ".", cwd=COPY))
    return max(codes)


def copy_sources(folder: Path) -> None:
    """Make in `folder` the tree that mypy is to check."""
    for name in (ALIAS, *FOLDERS):
        shutil.rmtree(folder / name, ignore_errors=True)
    copy_package(folder / ALIAS)
    for name in ("pyproject.toml", "dev.py"):
        shutil.copy2(ROOT / name, folder)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


def run(*command: str, cwd: Path) -> int:
    print(f"--- {' '.join(command)}", flush=True)
    return subprocess.run([sys.executable, "-m", *command], cwd=cwd, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

"""Runs the project's development sessions on a machine that has Python and nothing else.

    python dev.py               lists the sessions
    python dev.py NAME [ARGS]   runs one and hands ARGS on to it

Makes `.venv` beside this file for nox, which does the rest as development/noxfile.py says.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
NOX = "nox==2026.10.20"


def prepare() -> None:
    """Make `.venv` with nox in it, unless it is there. Exits with a sentence where that cannot be."""
    if sys.version_info < (3, 10):  # noqa: UP036 (whoever runs this may have an older one)
        sys.exit(f"dev.py: Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")
    if has_nox():
        return
    if not all(map(importlib.util.find_spec, ("venv", "ensurepip"))):
        sys.exit("dev.py: This Python cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv")
    print(f"dev.py: installing {NOX} into {VENV} (once) ...", flush=True)
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", NOX]
    for command in ([sys.executable, "-m", "venv", "--clear", str(VENV)], pip):
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"dev.py: could not make {VENV}; the reason is above.")


def has_nox() -> bool:
    """Whether `.venv` holds the pinned nox and still works: its Python may have been removed since."""
    check = f"import importlib.metadata as m, sys; sys.exit('nox==' + m.version('nox') != {NOX!r})"
    try:
        return subprocess.run([PYTHON, "-c", check], stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False


def run_nox(arguments: list[str]) -> int:
    """Run nox and return its exit code."""
    command = [str(PYTHON), "-m", "nox", "--noxfile", str(ROOT / "development" / "noxfile.py"), *arguments]
    if os.name != "nt":
        os.execv(command[0], command)  # noqa: S606 (it takes this process's place, so that signals reach it)
    with subprocess.Popen(command) as nox:
        while True:
            try:
                return nox.wait()
            except KeyboardInterrupt:
                continue  # nox had it too, and is stopping its session


def main(arguments: list[str]) -> int:
    prepare()
    return run_nox(["--session", arguments[0], "--", *arguments[1:]] if arguments else ["--list"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

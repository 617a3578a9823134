"""Runs the project's development sessions on a machine that has Python and nothing else.

    python dev.py               lists the sessions
    python dev.py NAME [ARGS]   runs one and hands ARGS on to it

Makes `.venv` beside this file for nox, which does the rest as noxfile.py says.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
NOX = "nox==2026.10.20"
OLDEST_PYTHON = (3, 10)


def missing() -> str | None:
    """What this Python lacks, as a sentence for its user; None if it has all."""
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        return f"Python {wanted} or newer is needed; this is {sys.version.split()[0]}."
    if any(importlib.util.find_spec(name) is None for name in ("venv", "ensurepip")):
        return "This Python cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv"
    return None


def venv_python() -> Path:
    """The Python of `.venv`."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def has_nox() -> bool:
    """Whether `.venv` holds the pinned nox and still works: its Python may have been removed since."""
    name, version = NOX.split("==")
    check = f"import importlib.metadata as m, sys; sys.exit(m.version({name!r}) != {version!r})"
    try:
        answer = subprocess.run([venv_python(), "-c", check], stderr=subprocess.DEVNULL, check=False)
    except OSError:
        return False
    return answer.returncode == 0


def prepare() -> None:
    """Make `.venv` with nox in it, unless it is there. Raises subprocess.CalledProcessError."""
    if has_nox():
        return
    print(f"dev.py: installing {NOX} into {VENV} (once) ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
    pip = [str(venv_python()), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", NOX]
    subprocess.run(pip, check=True)


def run_nox(arguments: list[str]) -> int:
    """Run nox in the repository and return its exit code."""
    command = [str(venv_python()), "-m", "nox", "--noxfile", str(ROOT / "noxfile.py"), *arguments]
    os.chdir(ROOT)
    if os.name != "nt":
        # Nox takes this process's place, so that a signal for it reaches nox.
        os.execv(command[0], command)  # noqa: S606 (no shell is wanted)
    with subprocess.Popen(command) as nox:
        while True:
            try:
                return nox.wait()
            except KeyboardInterrupt:
                continue  # nox had it too, and is stopping its session


def main(arguments: list[str]) -> int:
    complaint = missing()
    if complaint:
        print(f"dev.py: {complaint}", file=sys.stderr)
        return 1
    try:
        prepare()
    except subprocess.CalledProcessError as err:
        print(f"dev.py: could not make {VENV}: {err}. What went wrong is said above.", file=sys.stderr)
        return 1
    if not arguments:
        return run_nox(["--list"])
    name, *rest = arguments
    return run_nox(["--session", name, "--", *rest])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)

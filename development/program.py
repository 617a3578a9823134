"""A server on loopback, in a Python process of its own: it writes to a log file and never outlives its caller."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import requests

HOST = "127.0.0.1"
STOP_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 5.0
POLL_INTERVAL_S = 0.02
LAUNCHER = Path(__file__).with_name("program_main.py")


class ProgramFailed(RuntimeError):
    """A program did not start or ended by itself; the message ends with the last lines of its log."""


class Program:
    """Runs in `folder`, where its log is, with `env` as its whole environment; messages call it `name`."""

    def __init__(self, name: str, python: Path, folder: Path, env: Mapping[str, str]) -> None:
        self.log_file = folder / f"{name.lower()}.log"
        self._name = name
        self._python = python
        self._folder = folder
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Its process, also when that has ended. Raises RuntimeError before the start."""
        if self._process is None:
            raise RuntimeError(f"{self._name} was not started: use it in a `with` block.")
        return self._process

    def start(self, arguments: Sequence[str], url: str, timeout_s: float) -> None:
        """Run a script, or a module after `-m`, and wait until it answers at `url`.

        Raises ProgramFailed and TimeoutError, and leaves nothing running then.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._process = self._launch(arguments)
        try:
            self.wait_until(lambda: _answers(url), timeout_s, "answer")
        except BaseException:
            self.stop()
            raise

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> float:
        """End it and return the seconds it took; SIGINT stands for Ctrl-C. It is killed after 5 s."""
        process = self._process
        if process is None:
            return 0.0
        start_s = time.monotonic()
        try:
            if process.poll() is None:
                _send(process, sig)
                process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
        finally:
            # Whatever else happens, a closed pipe ends it.
            if process.stdin is not None:
                process.stdin.close()
        process.wait()
        return time.monotonic() - start_s

    def wait_until(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait until it has done `what`. Raises TimeoutError, and ProgramFailed when it ended instead."""
        end_s = time.monotonic() + timeout_s
        while not done():
            if self.process.poll() is not None:
                code = self.process.returncode
                raise ProgramFailed(f"{self._name} ended with code {code} before it could {what}.\n{self._tail()}")
            if time.monotonic() > end_s:
                raise TimeoutError(f"{self._name} did not {what} within {timeout_s:g} s.\n{self._tail()}")
            time.sleep(POLL_INTERVAL_S)

    def log(self) -> str:
        """What it wrote to its log so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace") if self.log_file.exists() else ""

    def _launch(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        # In a process group of its own, so that Ctrl-C reaches only the caller, who then stops it in order.
        group = 0
        if sys.platform == "win32":
            group = subprocess.CREATE_NEW_PROCESS_GROUP
        with self.log_file.open("wb") as log:
            try:
                return subprocess.Popen(
                    [str(self._python), str(LAUNCHER), *arguments],
                    cwd=self._folder,
                    env=self._env,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    creationflags=group,
                    start_new_session=True,
                )
            except OSError as err:
                raise ProgramFailed(f"Cannot run {self._python}: {err}") from err

    def _tail(self, lines: int = 30) -> str:
        return "\n".join(self.log().splitlines()[-lines:])


def local_request(method: str, url: str, **content: Any) -> requests.Response:
    """One HTTP exchange on loopback, where a proxy from the environment has no business."""
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, **content)


def free_port(preferred: int = 0) -> int:
    """A TCP port on loopback that nothing listens on: the preferred one, if it is free."""
    with socket.socket() as probe:
        if sys.platform != "win32":
            # A port whose last owner has just gone is free. On Windows the option means something else.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, preferred))
        except OSError:
            return free_port()
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        return local_request("GET", url, timeout=PROBE_TIMEOUT_S).ok
    except requests.RequestException:
        return False


def _send(process: subprocess.Popen[bytes], sig: signal.Signals) -> None:
    if sys.platform == "win32" and sig == signal.SIGINT:
        process.send_signal(signal.CTRL_BREAK_EVENT)
    else:
        process.send_signal(sig)

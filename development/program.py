"""A server on loopback, in a process of its own, which writes to a log file."""

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
from typing_extensions import Self

from development.console import Failed

HOST = "127.0.0.1"
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 15.0
PROBE_TIMEOUT_S = 5.0
POLL_INTERVAL_S = 0.02


class Program:
    """Runs within a `with` block, in `folder`, where its log is; messages call it `name`.

    `env` is the whole environment. It has started when it answers at `url`. A program that reads its standard input
    ends there when its caller is gone.
    """

    process: subprocess.Popen[bytes]

    def __init__(self, name: str, folder: Path, command: Sequence[str], url: str, env: Mapping[str, str]) -> None:
        self.log_file = folder / f"{name.lower()}.log"
        self._name = name
        self._folder = folder
        self._command = command
        self._url = url
        self._env = env

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises Failed and TimeoutError, with the last lines of its log, and leaves nothing running then.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("wb") as log:
            # In a process group of its own, so that Ctrl-C reaches only the caller, who then stops it in order.
            self.process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                start_new_session=True,
            )
        try:
            self.wait_until(self._answers, START_TIMEOUT_S, "answer")
        except BaseException:
            self.stop()
            raise

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> float:
        """End it and return the seconds it took; SIGINT stands for Ctrl-C. It is killed after `STOP_TIMEOUT_S`."""
        start_s = time.monotonic()
        if sys.platform == "win32" and sig == signal.SIGINT:
            sig = signal.CTRL_BREAK_EVENT
        with self.process as process:  # which closes its pipe at the end: that ends it, whatever else happens
            process.send_signal(sig)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
        return time.monotonic() - start_s

    def wait_until(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait until it has done `what`. Raises TimeoutError, and Failed when it ended instead."""
        end_s = time.monotonic() + timeout_s
        while not done():
            if self.process.poll() is not None:
                code = self.process.returncode
                raise Failed(f"{self._name} ended with code {code} before it could {what}.\n{self._tail()}")
            if time.monotonic() > end_s:
                raise TimeoutError(f"{self._name} did not {what} within {timeout_s:g} s.\n{self._tail()}")
            time.sleep(POLL_INTERVAL_S)

    def log(self) -> str:
        """What it wrote to its log so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def _tail(self) -> str:
        return "\n".join(self.log().splitlines()[-30:])

    def _answers(self) -> bool:
        try:
            return local_request("GET", self._url, timeout=PROBE_TIMEOUT_S).ok
        except requests.RequestException:
            return False


def local_request(method: str, url: str, **content: Any) -> requests.Response:
    """One HTTP exchange on loopback, where a proxy from the environment has no business."""
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, **content)


def free_port() -> int:
    """A TCP port on loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])

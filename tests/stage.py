"""What the tests in a real ComfyUI share: the stage they play on, and ways to look at the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from development.comfyui import ComfyUI, comfyui_source, problem
from development.emulator import Emulator, RequestRecord
from development.events import Listener
from development.workflows import Workflow

KEY = "sk-emulated-1234567890"
TOKEN = "comfy-account-token-0123456789"
ACCOUNT_KEY = "comfyui-0123456789abcdef"
# What the editor sends along for a user who is logged in to Comfy.org.
TOKENS = {"auth_token_comfy_org": TOKEN, "api_key_comfy_org": ACCOUNT_KEY}
SAVED_WORKFLOW = Path(__file__).with_name("workflows") / "saved-inpainting.json"

# Of a custom node that writes down the level of each line that this package logs: ComfyUI's own log does not tell it.
# ComfyUI runs this file before it loads any node.
LOG_WATCHER = """
import logging
from pathlib import Path

handler = logging.FileHandler(Path(__file__).with_name("levels.log"), encoding="utf-8")
handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
logging.getLogger("openai-dalle").addHandler(handler)
"""


@dataclass(frozen=True)
class Stage:
    """A running ComfyUI with the package in its custom_nodes, and the emulator that it talks to.

    `loading` is what the package logged while ComfyUI started, each line behind its level.
    """

    comfyui: ComfyUI
    emulator: Emulator
    loading: tuple[str, ...] = ()

    def pictures(self, workflow: Workflow, **options: Any) -> list[NDArray[np.uint8]]:
        """Run a workflow, which has to succeed, and return what its SaveImage nodes saved, `[H,W,C]` each."""
        entry = self.comfyui.run(workflow, **options)
        assert problem(entry) is None, problem(entry)
        return [np.asarray(Image.open(path)) for path in self.comfyui.pictures(entry)]

    def paid(self) -> list[RequestRecord]:
        """The requests that cost something."""
        return [record for record in self.emulator.posts if record.billed]


def has_nodes_of_its_own() -> bool:
    """Whether the ComfyUI that is tested is one from before the two nodes were removed."""
    file = comfyui_source() / "comfy_api_nodes" / "nodes_openai.py"
    return file.is_file() and "OpenAIDalle2" in file.read_text(encoding="utf-8")


def outcome(entry: Mapping[str, Any], node_id: str = "1") -> str:
    """The line about the outcome that the history keeps of a node."""
    (line,) = entry["outputs"][node_id]["openai_dalle"]
    return str(line)


def told(listener: Listener, node_id: str) -> list[str]:
    """The texts that a node has shown in a run, once all of them have arrived."""
    assert listener.wait_for(lambda event: event.kind == "execution_success")
    return listener.texts(node_id)

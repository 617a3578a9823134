"""What the tests in a real ComfyUI share: the stage they play on, and looks at what came of it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from development.comfyui import ComfyUI, problem
from development.emulator import Emulator, RequestRecord
from development.events import Listener
from development.workflows import Workflow

KEY = "sk-emulated-1234567890"
SAVED_WORKFLOW = Path(__file__).with_name("workflows") / "saved-inpainting.json"


@dataclass(frozen=True)
class Stage:
    """A running ComfyUI with the package in its custom_nodes, and the emulator that it talks to."""

    comfyui: ComfyUI
    emulator: Emulator

    def clean(self) -> Iterator[Stage]:
        """The stage for one test: an empty log before, and every knob back in its place after."""
        self.emulator.reset()
        try:
            yield self
        finally:
            self.emulator.reset()

    def pictures(self, workflow: Workflow, **options: Any) -> list[NDArray[np.uint8]]:
        """Run a workflow, which has to succeed, and return what its SaveImage nodes saved, `[H,W,C]` each."""
        entry = self.comfyui.run(workflow, **options)
        assert problem(entry) is None, problem(entry)
        return [np.asarray(Image.open(path)) for path in self.comfyui.pictures(entry)]

    def paid(self) -> list[RequestRecord]:
        """The requests that cost something."""
        return [record for record in self.emulator.posts if record.billed]


def told(listener: Listener, node_id: str, runs: int = 1) -> list[str]:
    """The texts that a node has shown in so many runs, once all of them have arrived."""
    ends = ("execution_success", "execution_error", "execution_interrupted")
    assert listener.wait_for(lambda _: sum(event.kind in ends for event in list(listener.events)) >= runs)
    return listener.texts(node_id)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """An image file of `[H,W,3|4]`."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def as_queued(saved: dict[str, Any], object_info: dict[str, dict[str, Any]]) -> Workflow:
    """A saved workflow as the frontend queues it: widget values by their position, links before them."""
    links = {link[0]: [str(link[1]), link[2]] for link in saved["links"]}
    graph: Workflow = {}
    for node in saved["nodes"]:
        values = iter(node["widgets_values"])
        inputs = {item["name"]: links[item["link"]] for item in node["inputs"] if item["link"] is not None}
        for name, spec in _specs(object_info[node["type"]]):
            if spec[0] in ("IMAGE", "MASK"):
                continue
            inputs.setdefault(name, next(values))
            if len(spec) > 1 and spec[1].get("control_after_generate"):
                next(values)
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def _specs(info: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for group in ("required", "optional"):
        yield from info["input"].get(group, {}).items()


def saved_workflow() -> dict[str, Any]:
    """A graph with the node, as the editor saved it when the node was still ComfyUI's own."""
    saved: dict[str, Any] = json.loads(SAVED_WORKFLOW.read_text(encoding="utf-8"))
    return saved

"""The errors that users meet most, for the tests of the editor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from development.comfyui import ComfyUI
from development.emulator import Emulator, Fault
from development.workflows import EXAMPLES, SAVED


@dataclass(frozen=True)
class Failure:
    """How to make a run fail."""

    fault: Fault | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    prompt: str = "A road that leads nowhere"
    workflow: Path = EXAMPLES / "OpenAI DALL-E 2 Text to Image.json"

    def prepare(self, comfyui: ComfyUI, emulator: Emulator) -> None:
        """Let the next run of the workflow with the prompt fail."""
        if self.settings:
            comfyui.set_up(**self.settings)
        if self.fault is not None:
            emulator.fail(self.fault)


FAILURES = {
    "no-key": Failure(settings={"DALLE2_BACKEND": "openai"}),
    "wrong-key": Failure(Fault("unauthorized", times=None)),
    "blank-prompt": Failure(prompt="  "),
    "image-without-mask": Failure(workflow=SAVED / "image-without-mask.json"),
    "moderation": Failure(Fault("moderation")),
    "rate-limit": Failure(Fault("rate_limit", times=None, retry_after_s=600)),
}

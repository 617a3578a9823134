"""The node's face, and the order of its steps."""

from __future__ import annotations

import logging
import re
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from . import host
from .api_client import ImagesClient
from .backends import Backend, Settings, SettingsError, choose_backend
from .drawing import as_batch, describe, draw
from .inpainting import edits_of
from .retry import Retrier
from .runs import Run, current_run
from .stand_ins import Order

log = logging.getLogger("comfyui-openai-dalle2")

NODE_ID = "OpenAIDalle2"
SIZES = ("256x256", "512x512", "1024x1024")
MAX_SEED = 2**31 - 1
MAX_PICTURES = 8

EMPTY_PROMPT = "Field 'prompt' cannot be empty."
SURROGATE = re.compile("[\ud800-\udfff]")  # what no encoding takes


class _UsesAccount:
    """A class attribute that is true exactly when the settings of this moment choose Comfy.org's proxy."""

    def __get__(self, instance: object, owner: type) -> bool:
        try:
            return Settings.read().backend == "comfy"
        except SettingsError:  # said when the node runs; the editor has to open all the same
            return False


class OpenAIDalle2:
    """Draws pictures from a prompt, or paints the white part of a mask anew, as OpenAI's DALL·E 2 did."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:
        return {
            "required": {
                "prompt": ("STRING", {"multiline": True, "default": "", "tooltip": "What to draw, in words."}),
            },
            "optional": {
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": MAX_SEED,
                        "step": 1,
                        "display": "number",
                        "control_after_generate": True,
                        "tooltip": "Another number makes the node run again. It is not sent to the model, so the same "
                        "number does not bring the same picture back.",
                    },
                ),
                "size": (
                    list(SIZES),
                    {
                        "default": "1024x1024",
                        "tooltip": "Width x height of each picture; for an edit, the length of its longer side. "
                        "OpenAI's models of today draw 1024x1024; smaller pictures are scaled down from that, at the "
                        "same price.",
                    },
                ),
                "n": (
                    "INT",
                    {
                        "default": 1,
                        "min": 1,
                        "max": MAX_PICTURES,
                        "step": 1,
                        "display": "number",
                        "tooltip": "How many pictures to draw, of each image if there are several. Each is paid for.",
                    },
                ),
                "image": (
                    "IMAGE",
                    {"tooltip": "A picture to change a part of. Needs a mask; without both, a new picture is drawn."},
                ),
                "mask": (
                    "MASK",
                    {
                        "tooltip": "Where to change the image: white is painted anew, black stays as it is. It must "
                        "have the image's size; one mask serves all images of a batch."
                    },
                ),
            },
            "hidden": {
                "auth_token": "AUTH_TOKEN_COMFY_ORG",
                "comfy_api_key": "API_KEY_COMFY_ORG",
                "unique_id": "UNIQUE_ID",
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, prompt: str | None = None) -> bool | str:
        # None comes over a link and is not known yet, or is missing, which ComfyUI says itself.
        return EMPTY_PROMPT if prompt is not None and not prompt.strip() else True

    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("All pictures as one batch, those of the first image first.",)
    FUNCTION = "run"
    CATEGORY = "api node/image/openai"
    DESCRIPTION = (
        "Draws pictures from a prompt, or paints the white part of a mask anew, as DALL·E 2 did. OpenAI has shut that "
        "model down; one of today stands in for it. Runs with your Comfy.org account, your own OpenAI key, or any "
        "server that speaks the OpenAI Images API."
    )
    API_NODE: ClassVar[Any] = _UsesAccount()
    SEARCH_ALIASES: ClassVar[list[str]] = ["DALL-E", "dalle", "inpaint", "OpenAI", "gpt-image"]

    async def run(self, unique_id: str | None = None, **inputs: Any) -> tuple[Tensor]:
        return await host.run_beside_loop(partial(self.api_call, unique_id=unique_id, **inputs), unique_id)

    def api_call(
        self,
        prompt: str,
        seed: int = 0,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        n: int = 1,
        size: str = "1024x1024",
        auth_token: str | None = None,
        comfy_api_key: str | None = None,
        unique_id: str | None = None,
    ) -> tuple[Tensor]:
        """One call, start to finish, in this thread; works outside of ComfyUI too.

        `image` is `[B,H,W,3|4]`, `mask` `[B|1,H,W]`, both floating point, 0..1; `seed` and `unique_id` are ComfyUI's
        and change nothing here. Returns an IMAGE `[B x n,H,W,C]`, float32, 0..1. Raises ValueError for inputs and
        settings that cannot work, before anything is paid for, and ImagesApiError (see `api_client`) for what goes
        wrong on the way.
        """
        check(prompt, size, n)
        side = int(size.partition("x")[0])
        edits = edits_of(image, mask, side)
        orders = [Order(prompt, n, side, edit) for edit in edits] or [Order(prompt, n, side)]
        backend = choose_backend(
            Settings.read(),
            comfy_api_base=host.comfy_api_base(),
            auth_token=auth_token,
            comfy_api_key=comfy_api_key,
        )
        with current_run() as run, connect(backend, run) as client:
            drawn = draw(orders, client, backend, run)
            outcome = describe(*run.outcomes(drawn))
            log.info("%s: %s", NODE_ID, outcome)
            run.say(outcome)
            return (as_batch(drawn),)


def connect(backend: Backend, run: Run) -> ImagesClient:
    """A client for the backend that shows on the node why it waits, and stops waiting when the user cancels."""
    connect_timeout_s, read_timeout_s = backend.timeouts_s
    return ImagesClient(
        backend.base_url,
        headers=backend.headers,
        params=backend.params,
        signed_in=backend.name == "comfy",
        connect_timeout_s=connect_timeout_s,
        read_timeout_s=read_timeout_s,
        retrier=Retrier(run.pause, run.say),
    )


def check(prompt: str, size: str, n: int) -> None:
    """Raise ValueError for a prompt, size or count that the node does not take; over a link anything can come."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(EMPTY_PROMPT)
    if not prompt.isascii() and SURROGATE.search(prompt):
        raise ValueError("Field 'prompt' holds half a character, as damaged text does. Type it anew.")
    if size not in SIZES:
        raise ValueError(f"Field 'size' is {size!r}; it must be one of {', '.join(SIZES)}.")
    if type(n) is not int or not 1 <= n <= MAX_PICTURES:
        raise ValueError(f"Field 'n' is {n!r}; it must be a whole number from 1 to {MAX_PICTURES}.")


NODE_CLASS_MAPPINGS = {NODE_ID: OpenAIDalle2}
NODE_DISPLAY_NAME_MAPPINGS = {NODE_ID: "OpenAI DALL·E 2"}

host.warn_if_shadowed(NODE_ID)

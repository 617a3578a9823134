"""The nodes as ComfyUI sees them: their inputs and outputs, and the order of the steps of a call."""

from __future__ import annotations

import hashlib
import logging
import numbers
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from . import comfyui, editor
from .api_client import ImagesClient
from .backends import Account, DalleRequest, choose_backend
from .errors import Charge
from .generation.answer_cache import AnswerCache
from .generation.call_context import CallContext, single_call
from .generation.fallback import Job, ServerMemory
from .generation.inpainting import edits_of
from .generation.pipeline import Generator, as_batch, summary
from .models import shortened
from .net.retry import Retrier
from .settings import Settings, SettingsError, SettingsFiles, read_settings

log = logging.getLogger("openai-dalle")

MAX_SEED = 2**31 - 1
DALLE_2_SIZES = ("256x256", "512x512", "1024x1024")
DALLE_2_MAX_N = 8
DALLE_3_SIZES = ("1024x1024", "1024x1792", "1792x1024")
DALLE_3_QUALITIES = ("standard", "hd")
DALLE_3_STYLES = ("natural", "vivid")

EMPTY_PROMPT = "Field 'prompt' cannot be empty."
BROKEN_PROMPT = "The prompt contains a broken character. Please type it again."

HIDDEN_INPUTS = {
    "auth_token": "AUTH_TOKEN_COMFY_ORG",
    "comfy_api_key": "API_KEY_COMFY_ORG",
    "unique_id": "UNIQUE_ID",
}
PROMPT_INPUT = ("STRING", {"multiline": True, "default": "", "tooltip": "What the image shows, in words."})
SEED_INPUT = (
    "INT",
    {
        "default": 0,
        "min": 0,
        "max": MAX_SEED,
        "step": 1,
        "display": "number",
        "control_after_generate": True,
        "tooltip": "Another number makes the node run again. It is not sent to the model, so the same number does not "
        "bring the same image back.",
    },
)


def _settings_files() -> SettingsFiles:
    folder = comfyui.settings_folder()
    return SettingsFiles(editor=folder / "settings.json" if folder else None)


class _UsesAccount:
    """A class attribute that is true exactly when the settings of this moment choose Comfy.org's proxy.

    Where it is true, the editor lets nobody run the node without signing in, a user with a key of their own included.
    """

    def __get__(self, instance: object, owner: type[DalleNode]) -> bool:
        try:
            return owner.settings().backend == "comfy"
        except SettingsError:  # reported when the node runs; the editor must still load
            return False


class DalleNode:
    """What the nodes of this package share."""

    # All that outlives a call. A test replaces it as a whole.
    memory: ClassVar[ServerMemory] = ServerMemory()
    cache: ClassVar[AnswerCache] = AnswerCache()
    runner: ClassVar[comfyui.NodeRunner] = comfyui.NodeRunner(cache)
    settings_files: ClassVar[SettingsFiles] = _settings_files()

    FOLLOWS_QUALITY_SETTING: ClassVar[bool] = True  # False where the node has an input for it

    # Turns the inputs of a node into jobs. Raises ValueError for inputs that cannot work.
    jobs: ClassVar[Callable[..., list[Job]]]

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "partner/image/OpenAI"
    API_NODE: ClassVar[Any] = _UsesAccount()

    @classmethod
    def settings(cls) -> Settings:
        """The settings of this moment. Raises SettingsError."""
        return read_settings(cls.settings_files)

    @classmethod
    def VALIDATE_INPUTS(cls, prompt: str | None = None) -> bool | str:
        # None comes over a link and is not known yet, or is missing, which ComfyUI says itself.
        return EMPTY_PROMPT if prompt is not None and is_blank(prompt) else True

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> str:
        """A fingerprint of the settings that count for an image: when one changes, the same inputs run again."""
        try:
            settings = cls.settings()
        except SettingsError:
            return ""
        quality = settings.dalle2_quality if cls.FOLLOWS_QUALITY_SETTING else None
        chosen = (settings.backend, settings.openai_base_url, settings.dalle2_model, quality)
        return hashlib.sha256(repr(chosen).encode()).hexdigest()

    async def run(
        self,
        auth_token: str | None = None,
        comfy_api_key: str | None = None,
        unique_id: str | None = None,
        **inputs: Any,
    ) -> dict[str, Any]:
        """What ComfyUI calls: one call beside its event loop. The line about the outcome stays on the node."""
        account = Account(auth_token, comfy_api_key)
        images, line = await self.runner.run_beside_loop(lambda call: self.generate(call, account, inputs), unique_id)
        return {"ui": {"openai_dalle": [line]}, "result": (images,)}

    def generate(self, call: CallContext, account: Account, inputs: Mapping[str, Any]) -> tuple[Tensor, str]:
        """One call, start to finish: the images as one IMAGE, and a line about them."""
        jobs = self.jobs(**inputs)
        backend = choose_backend(self.settings(), account, comfy_api_base=comfyui.comfy_api_base())
        retrier = Retrier(call.cancelled.is_set, call.pause, call.say)
        client = ImagesClient(backend, retrier)
        results = Generator(client, backend, self.memory, self.cache, call).run(jobs)
        call.group.results.append(results)
        line = summary(call.group.results, call.group.seconds)
        log.info("%s: %s", type(self).__name__, line)
        call.say(line)
        return as_batch(results), line

    def _call_in_plain_python(self, account: Account, **inputs: Any) -> tuple[Tensor]:
        with single_call(self.cache) as call:
            images, _ = self.generate(call, account, inputs)
        return (images,)


class OpenAIDalle2(DalleNode):
    """Makes images from a prompt, or repaints the white part of a mask, as OpenAI's DALL·E 2 did."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:
        return {
            "required": {"prompt": PROMPT_INPUT},
            "optional": {
                "seed": SEED_INPUT,
                "size": (
                    list(DALLE_2_SIZES),
                    {
                        "default": "1024x1024",
                        "tooltip": "Width x height of each image; for an edit, the length of its longer side. Today's "
                        "models make 1024x1024; smaller images are scaled down from that, at the same price.",
                    },
                ),
                "n": (
                    "INT",
                    {
                        "default": 1,
                        "min": 1,
                        "max": DALLE_2_MAX_N,
                        "step": 1,
                        "display": "number",
                        "tooltip": "How many images to make, of each input image if there are several. You pay for "
                        "each.",
                    },
                ),
                "image": (
                    "IMAGE",
                    {"tooltip": "An image to change a part of. Needs a mask; without both, a new image is made."},
                ),
                "mask": (
                    "MASK",
                    {
                        "tooltip": "Where to change the image: white is repainted, black stays as it is. It must have "
                        "the image's size; one mask serves all images of a batch."
                    },
                ),
            },
            "hidden": dict(HIDDEN_INPUTS),
        }

    OUTPUT_TOOLTIPS = ("All images as one batch, those of the first input image first.",)
    DESCRIPTION = (
        "Makes images from a prompt, or repaints the white part of a mask, as DALL·E 2 did. OpenAI has shut that model "
        "down; a current model replaces it. Runs with your Comfy.org account, your own OpenAI key, or any server that "
        "speaks the OpenAI Images API."
    )
    SEARCH_ALIASES: ClassVar[list[str]] = ["DALL-E", "dalle", "inpaint", "OpenAI", "gpt-image"]

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
        """One call in this thread, as the original node had it; works without ComfyUI.

        `image` is `[B,H,W,3|4]`, `mask` `[B|1,H,W]`, both floating point, 0..1; `seed` and `unique_id` are ComfyUI's
        and change nothing here. Returns an IMAGE `[B x n,H,W,C]`, float32, 0..1. Raises ValueError for inputs and
        settings that cannot work, before anything is paid for, and ImagesApiError for what goes wrong on the way.
        """
        account = Account(auth_token, comfy_api_key)
        return self._call_in_plain_python(account, prompt=prompt, image=image, mask=mask, n=n, size=size)

    @staticmethod
    def jobs(
        prompt: str,
        seed: int = 0,
        size: str = "1024x1024",
        n: int = 1,
        image: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> list[Job]:
        check_prompt(prompt)
        check_choice("size", size, DALLE_2_SIZES)
        check_count("n", n, DALLE_2_MAX_N)
        width, height = parsed_size(size)
        request = DalleRequest("dall-e-2", prompt, int(n), (width, height))
        edits = edits_of(image, mask, max(width, height))
        return [Job(request, edit) for edit in edits] or [Job(request)]


class OpenAIDalle3(DalleNode):
    """Makes one image from a prompt, as OpenAI's DALL·E 3 did."""

    FOLLOWS_QUALITY_SETTING = False

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:
        return {
            "required": {"prompt": PROMPT_INPUT},
            "optional": {
                "seed": SEED_INPUT,
                "quality": (
                    list(DALLE_3_QUALITIES),
                    {
                        "default": "standard",
                        "tooltip": "With today's models standard is low quality and hd is medium, so an image costs no "
                        "more than it did.",
                    },
                ),
                "style": (
                    list(DALLE_3_STYLES),
                    {
                        "default": "natural",
                        "tooltip": "With today's models vivid adds a sentence to the prompt, which asks for hyper-real "
                        "and dramatic images. Natural adds nothing.",
                    },
                ),
                "size": (list(DALLE_3_SIZES), {"default": "1024x1024", "tooltip": "Width x height of the image."}),
            },
            "hidden": dict(HIDDEN_INPUTS),
        }

    OUTPUT_TOOLTIPS = ("The image.",)
    DESCRIPTION = (
        "Makes an image from a prompt, as DALL·E 3 did. OpenAI has shut that model down; a current model replaces it. "
        "Runs with your Comfy.org account, your own OpenAI key, or any server that speaks the OpenAI Images API."
    )
    SEARCH_ALIASES: ClassVar[list[str]] = ["DALL-E", "dalle", "OpenAI", "gpt-image"]

    def api_call(
        self,
        prompt: str,
        seed: int = 0,
        style: str = "natural",
        quality: str = "standard",
        size: str = "1024x1024",
        auth_token: str | None = None,
        comfy_api_key: str | None = None,
        unique_id: str | None = None,
    ) -> tuple[Tensor]:
        """One call in this thread, as the original node had it; works without ComfyUI.

        Returns an IMAGE `[1,H,W,C]`, float32, 0..1. Raises what `OpenAIDalle2.api_call` does.
        """
        account = Account(auth_token, comfy_api_key)
        return self._call_in_plain_python(account, prompt=prompt, style=style, quality=quality, size=size)

    @staticmethod
    def jobs(
        prompt: str, seed: int = 0, style: str = "natural", quality: str = "standard", size: str = "1024x1024"
    ) -> list[Job]:
        check_prompt(prompt)
        check_choice("quality", quality, DALLE_3_QUALITIES)
        check_choice("style", style, DALLE_3_STYLES)
        check_choice("size", size, DALLE_3_SIZES)
        return [Job(DalleRequest("dall-e-3", prompt, 1, parsed_size(size), quality, style))]


def is_blank(prompt: str) -> bool:
    """Whether there is nothing to read in a prompt: only white space, control characters and zero-width ones."""
    return all(char.isspace() or unicodedata.category(char) in ("Cc", "Cf") for char in prompt)


# A link can carry any value, so the limits of the widgets are checked again.


def check_prompt(prompt: object) -> None:
    """Raise ValueError unless this is text that can be sent."""
    if not isinstance(prompt, str):
        raise ValueError(f"Field 'prompt' is of the type {type(prompt).__name__}; connect a text. {Charge.NO.value}")
    if is_blank(prompt):
        raise ValueError(EMPTY_PROMPT)
    if any("\ud800" <= char <= "\udfff" for char in prompt):  # half a character, which no encoding takes
        raise ValueError(f"{BROKEN_PROMPT} {Charge.NO.value}")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(
            f"Field '{name}' is {shortened(repr(value), 80)}; it must be one of {', '.join(choices)}. {Charge.NO.value}"
        )


def check_count(name: str, value: object, most: int) -> None:
    """Raise ValueError unless the value is a whole number from 1 to `most`, numpy's included."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or not 1 <= int(value) <= most:  # type: ignore[call-overload]
        raise ValueError(
            f"Field '{name}' is {shortened(repr(value), 80)}; it must be a whole number from 1 to {most}. "
            f"{Charge.NO.value}"
        )


def parsed_size(size: str) -> tuple[int, int]:
    """Width and height of a size such as "1024x1792"."""
    width, _, height = size.partition("x")
    return int(width), int(height)


# ComfyUI-Manager scans this source file, and finds the nodes by their ids in quotation marks.
NODE_CLASS_MAPPINGS = {"OpenAIDalle2": OpenAIDalle2, "OpenAIDalle3": OpenAIDalle3}
NODE_DISPLAY_NAME_MAPPINGS = {"OpenAIDalle2": "OpenAI DALL·E 2", "OpenAIDalle3": "OpenAI DALL·E 3"}

for node_id, node in NODE_CLASS_MAPPINGS.items():
    comfyui.replace_built_in(node_id, node, NODE_DISPLAY_NAME_MAPPINGS[node_id])

comfyui.add_routes(editor.routes(lambda: DalleNode.settings_files))

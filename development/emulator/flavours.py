"""How the servers that speak the OpenAI Images API differ, as one table.

A flavour is data only; the rules for the fields of a request are in `rules`, chosen by `rules_for`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .rules import DALLE_2, FIXED_SIZES, FREE_SIZES, LENIENT, Rules

# Unix times of the models' releases: a client that wants the newest one has to compare them.
RELEASES: Mapping[str, int] = {
    "dall-e-2": 1698798177,
    "gpt-image-1-mini": 1758845821,
    "gpt-image-1.5": 1764030620,
    "gpt-image-2": 1776643200,
    "gpt-image-2.5-flare": 1788825600,
    "gpt-image-2.5-sunburst": 1788825601,
    "gpt-image-2.6-flare": 1793750400,
    "gpt-image-2.6-sunburst": 1793750401,
}


@dataclass(frozen=True)
class Flavour:
    """One kind of server.

    `base_path`: what its base URL ends in. `models`: the names it takes, none meaning any.
    `models_owner`: whose they are, as its list of models says.
    `strict`: it knows its models' rules and every field; the others let unknown fields pass.
    `null_status`: what it answers to a JSON null, if it minds.
    `auth`: "bearer", "api-key", "comfy" or "none". `error_shape`: a name of `errors.SHAPES`.
    `result`: how pictures come back by default: "b64", "url", "relative_url" or "file_path".
    `formats`: the values of `response_format` it obeys; the others it refuses if it `checks_format`.
    `mask_field`: the file it takes as mask, if any. `white_is_edit`: the mask is read from its luminance,
    and the alpha of mask and image is ignored. `refuses_auto_size`: for new pictures, not for edits.
    `extras`: what it adds to each item of `data`.
    """

    base_path: str = "/v1"
    models: tuple[str, ...] = ()
    models_owner: str = "system"
    auth: str = "bearer"
    error_shape: str = "openai"
    strict: bool = False
    null_status: int | None = None
    result: str = "b64"
    formats: tuple[str, ...] = ("b64_json", "url")
    checks_format: bool = True
    picture_path: str = "/pictures/{name}"
    picture_format: str = "PNG"
    edit_route: str = "edits"
    mask_field: str | None = "mask"
    white_is_edit: bool = False
    needs_mask: bool = False
    refuses_auto_size: bool = False
    needs_model: bool = False
    needs_api_version: bool = False
    default_size: tuple[int, int] = (1024, 1024)
    extras: Mapping[str, Any] = field(default_factory=dict)

    def result_for(self, asked: str | None) -> str:
        """Return how pictures come back when "b64", "url" or nothing was asked for."""
        # What a server calls a URL may be half of one, or a path on its disk.
        return self.result if asked == "url" and self.result != "b64" else asked or self.result


FLAVOURS: Mapping[str, Flavour] = {
    "openai": Flavour(
        models=tuple(name for name in RELEASES if name != "dall-e-2"),
        strict=True,
        null_status=400,
        needs_model=True,
    ),
    "comfy": Flavour(
        base_path="/proxy/openai",
        models=tuple(name for name in RELEASES if name not in ("dall-e-2", "gpt-image-1-mini")),
        auth="comfy",
        error_shape="comfy",
        strict=True,
        null_status=400,
        needs_model=True,
    ),
    "azure": Flavour(
        base_path="/openai/v1",
        models=("my-gpt-image",),
        auth="api-key",
        error_shape="azure",
        strict=True,
        null_status=400,
        needs_model=True,
        needs_api_version=True,
    ),
    "litellm": Flavour(error_shape="litellm", needs_model=True),
    "sdcpp": Flavour(
        auth="none",
        error_shape="string",
        null_status=500,
        formats=("b64_json",),
        checks_format=False,
        white_is_edit=True,
        default_size=(512, 512),
    ),
    "localai": Flavour(
        auth="none",
        error_shape="localai",
        result="url",
        picture_path="/generated-images/{name}",
        edit_route="inpainting",
        needs_mask=True,
        white_is_edit=True,
        needs_model=True,
        default_size=(512, 512),
        extras={"embedding": None},
    ),
    "vllm": Flavour(
        models=("Qwen/Qwen-Image",),
        models_owner="vllm",
        auth="none",
        error_shape="detail",
        formats=("b64_json",),
        mask_field="mask_image",
        white_is_edit=True,
        refuses_auto_size=True,
        extras={"url": None, "revised_prompt": None},
    ),
    "sglang": Flavour(
        auth="none",
        error_shape="detail",
        result="relative_url",
        picture_path="/v1/images/{name}/content",
        picture_format="JPEG",
        mask_field=None,
        extras={"revised_prompt": None},
    ),
    "xinference": Flavour(
        auth="none",
        error_shape="detail",
        result="file_path",
        picture_format="JPEG",
        white_is_edit=True,
    ),
}


def rules_for(flavour: Flavour, model: str) -> Rules:
    """Return what a request for `model` must look like: its generation's rules where the server is strict."""
    if not flavour.strict:
        return LENIENT
    if model.startswith("dall-e"):
        return DALLE_2
    return FIXED_SIZES if model.startswith("gpt-image-1") else FREE_SIZES

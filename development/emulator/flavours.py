"""The servers that speak the OpenAI Images API, in one table.

OpenAI and its twins are strict, by their documentation. Of the others, stable-diffusion.cpp, SGLang and Xinference were
started and asked (`tests/recordings.jsonl` holds their answers), and the rest is from documentation and sources.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from . import contract
from .job import Flavour, Job, Size, check_body, openai_error, refuse
from .wire import Call, Refusal

# Unix times of the models' releases: a client that wants the newest one has to compare them.
RELEASES: Mapping[str, int] = {
    "dall-e-3": 1698785189,
    "dall-e-2": 1698798177,
    "gpt-image-1.5": 1764030620,
    "gpt-image-2": 1776643200,
    "gpt-image-2.5-flare": 1788825600,
    "gpt-image-2.5-sunburst": 1788825601,
    "gpt-image-2.6-flare": 1793750400,
    "gpt-image-2.6-sunburst": 1793750401,
}
ALIVE = tuple(name for name in RELEASES if not name.startswith("dall-e"))
MODEL_MISSING = Refusal(400, "you must provide a model parameter", "model", "missing_required_parameter")


class OpenAI(Flavour):
    """OpenAI itself: every field is checked, and one that its model does not know is refused."""

    def check(self, call: Call, models: Collection[str], *, editing: bool) -> None:
        check_body(call, editing=editing)
        model = str(call.fields.get("model") or "")
        if not model:
            refuse(MODEL_MISSING)
        if models and model not in models:
            refuse(self.model_unknown, model, models)
        contract.check(call, model, editing=editing)

    def read(self, call: Call, models: Collection[str], *, editing: bool) -> Job:
        job = super().read(call, models, editing=editing)
        if job.model.startswith("dall-e") and "response_format" not in call.fields:
            return dataclasses.replace(job, result="url")
        return job

    def answer(self, job: Job, items: list[dict[str, Any]], size: Size) -> dict[str, Any]:
        body = super().answer(job, items, size)
        if job.model.startswith("dall-e"):
            return body
        more = {
            "background": "opaque",
            "output_format": job.picture_format.lower(),
            "quality": "low" if job.quality == "auto" else job.quality,
            "size": f"{size[0]}x{size[1]}",
            "usage": {"input_tokens": 10, "output_tokens": 200, "total_tokens": 210},
        }
        return {**body, **more}


def comfy_error(refusal: Refusal) -> dict[str, Any]:
    # The proxy speaks for itself about accounts and money, and hands OpenAI's own refusals through.
    if refusal.code is not None and refusal.status not in (401, 402):
        return openai_error(refusal)
    titles = {401: "Unauthorized", 402: "Payment Required", 404: "Not Found", 429: "Rate Limit Exceeded"}
    return {"error": titles.get(refusal.status, "Upstream Error"), "message": refusal.message}


def azure_error(refusal: Refusal) -> dict[str, Any]:
    codes = {"moderation_blocked": "contentFilter", "model_not_found": "DeploymentNotFound"}
    code = codes.get(refusal.code or "", refusal.code) or str(refusal.status)
    if refusal.status in (401, 404):
        return {"error": {"code": code, "message": refusal.message}}
    return {"error": {**openai_error(refusal)["error"], "code": code}}


def litellm_error(refusal: Refusal) -> dict[str, Any]:
    return {"error": {**openai_error(refusal)["error"], "param": str(refusal.param), "code": str(refusal.status)}}


def localai_error(refusal: Refusal) -> dict[str, Any]:
    return {"error": {"code": refusal.status, "message": refusal.message, "type": ""}}


def vllm_error(refusal: Refusal) -> dict[str, Any]:
    message, code = refusal.message, refusal.status
    return {"error": {"message": message, "type": "BadRequestError", "param": None, "code": code}}


def sdcpp_error(refusal: Refusal) -> dict[str, Any]:
    if refusal.status >= 500:
        return {"error": "server_error", "message": refusal.message}
    return {"error": refusal.message}


def fastapi_error(refusal: Refusal) -> dict[str, Any]:
    if refusal.status == 422 and refusal.param:
        entry = {"type": "missing", "loc": ["body", refusal.param], "msg": refusal.message, "input": None}
        return {"detail": [entry]}
    return {"detail": refusal.message}


def validation_error(name: str) -> Refusal:
    """Return Xinference's refusal of a request without a field."""
    error = f"1 validation error for TextToImageRequest\n{name}\n  field required (type=value_error.missing)"
    return Refusal(500, "", body=f"Internal Server Error: {error}")


# Where its errors come from, as it says at the beginning of most.
XINFERENCE_AT = "[address=127.0.0.1:9997, pid=1]"
FLAVOURS: Mapping[str, Flavour] = {
    "openai": OpenAI(models=ALIVE),
    "comfy": OpenAI(base_path="/proxy/openai", models=ALIVE, auth="comfy", error_body=comfy_error),
    "azure": OpenAI(base_path="/openai/v1", models=("my-gpt-image",), auth="api-key", error_body=azure_error),
    "litellm": Flavour(
        error_body=litellm_error,
        model_missing=MODEL_MISSING,
        model_unknown=Refusal(400, "Invalid model name passed in model={value}. Call `/v1/models` to view them."),
    ),
    "localai": Flavour(
        auth="none",
        error_body=localai_error,
        model_missing=MODEL_MISSING,
        mask_missing=Refusal(400, "missing mask file"),
        result="url",
        picture_path="/generated-images/{name}",
        edit_route="inpainting",
        edit_result="url",
        white_is_edit=True,
        default_size=(512, 512),
        item_extras={"embedding": None},
    ),
    "vllm": Flavour(
        auth="none",
        error_body=vllm_error,
        models=("Qwen/Qwen-Image",),
        listed={"owned_by": "vllm"},
        model_unknown=Refusal(400, "Model mismatch: request specifies '{value}' but server is running {models}."),
        size_invalid=Refusal(400, "Invalid size format: '{value}'. Expected format: 'WIDTHxHEIGHT'."),
        formats=("b64_json",),
        format_invalid=Refusal(400, "Only response_format 'b64_json' is supported now."),
        mask_field="mask_image",
        white_is_edit=True,
        item_extras={"url": None, "revised_prompt": None},
    ),
    "sdcpp": Flavour(
        auth="none",
        error_body=sdcpp_error,
        models=("sd-cpp-local",),
        listed={"owned_by": "local"},
        ignores_model=True,
        prompt_missing=Refusal(400, "prompt required"),
        image_missing=Refusal(400, "at least one image[] required"),
        file_invalid=None,
        formats=(),
        output_formats=("png", "jpeg"),
        white_is_edit=True,
        default_size=(512, 512),
        extras={"output_format": "png"},
    ),
    "sglang": Flavour(
        auth="none",
        error_body=fastapi_error,
        models=("/models/sd-turbo",),
        listed={"owned_by": "sglang", "parent": None, "task_type": "T2I", "supported_task_types": ["T2I"]},
        ignores_model=True,
        prompt_missing=Refusal(422, "Field required", "prompt"),
        image_missing=Refusal(422, "Field 'image' or 'url' is required"),
        file_invalid=Refusal(500, "", body="Internal Server Error"),
        size_invalid=Refusal(400, "size must be formatted as positive WIDTHxHEIGHT"),
        format_invalid=Refusal(400, "response_format={value} is not supported"),
        qualities=("exact", "lossless", "high", "extra-high"),
        quality_invalid=Refusal(
            400, "quality must be one of ['exact', 'lossless', 'high', 'extra-high'], got '{value}'"
        ),
        result="url",
        url_kind="relative_url",
        picture_path="/v1/images/{name}/content",
        picture_format="JPEG",
        mask_field=None,
        extras={"id": "e0e04e02", "inference_time_s": 0.1, "peak_memory_mb": 0.0, "usage": None},
        item_extras={
            "b64_json": None,
            "url": None,
            "revised_prompt": "a picture",
            "file_path": "/root/1.jpg",
            "resize": None,
        },
    ),
    "xinference": Flavour(
        auth="none",
        error_body=fastapi_error,
        models=("sd-turbo",),
        listed={"owned_by": "xinference", "model_type": "image", "model_ability": ["text2image", "inpainting"]},
        model_missing=validation_error("model"),
        model_unknown=Refusal(
            404,
            f"{XINFERENCE_AT} Model not found in the model list, uid: {{value}}. Available model uids: {{models}}",
        ),
        prompt_missing=validation_error("prompt"),
        image_missing=Refusal(400, "At least one image file is required"),
        file_invalid=Refusal(500, "cannot identify image file <_io.BytesIO object at 0x7fae1a6dffb0>"),
        size_invalid=Refusal(500, f"{XINFERENCE_AT} invalid literal for int() with base 10: ''"),
        format_invalid=Refusal(500, f"{XINFERENCE_AT} Unsupported response format: {{value}}"),
        result="url",
        edit_result="url",
        url_kind="file_path",
        picture_format="JPEG",
        output_formats=(),
        white_is_edit=True,
        item_extras={"url": None, "b64_json": None},
    ),
}

"""The servers that speak the OpenAI Images API, in one table.

OpenAI and its twins are strict, by their documentation. Of the others, stable-diffusion.cpp, SGLang and Xinference were
started and asked (`tests/recordings.jsonl` holds their answers), and the rest is from documentation and sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .job import Flavour, openai_error
from .openai import MODEL_MISSING, MODELS, OpenAI
from .wire import Refusal


def comfy_error(refusal: Refusal) -> dict[str, Any]:
    # The proxy speaks for itself about accounts and money, and hands OpenAI's own refusals through.
    if refusal.code is not None and refusal.status not in (401, 402):
        return openai_error(refusal)
    titles = {401: "Unauthorized", 402: "Payment Required"}
    return {"error": titles.get(refusal.status, "Upstream Error"), "message": refusal.message}


def azure_error(refusal: Refusal) -> dict[str, Any]:
    code = "DeploymentNotFound" if refusal.code == "model_not_found" else refusal.code
    return {"error": {**openai_error(refusal)["error"], "code": code}}


def litellm_error(refusal: Refusal) -> dict[str, Any]:
    return {"error": {**openai_error(refusal)["error"], "param": str(refusal.param), "code": str(refusal.status)}}


def status_error(refusal: Refusal) -> dict[str, Any]:
    return {"error": {"message": refusal.message, "type": "", "param": None, "code": refusal.status}}


def sdcpp_error(refusal: Refusal) -> dict[str, Any]:
    return {"error": refusal.message}


def fastapi_error(refusal: Refusal) -> dict[str, Any]:
    if refusal.status == 422 and refusal.param:
        entry = {"type": "missing", "loc": ["body", refusal.param], "msg": refusal.message, "input": None}
        return {"detail": [entry]}
    return {"detail": refusal.message}


def validation_error(name: str) -> Refusal:
    """Return Xinference's refusal of a request without a field."""
    error = f"1 validation error for TextToImageRequest\n{name}\n  field required (type=value_error.missing)"
    return Refusal(500, "", text=f"Internal Server Error: {error}")


NEITHER = {"b64_json": None, "url": None}
USAGE = {
    "usage": {
        "input_tokens": 10,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 10},
        "output_tokens": 200,
        "total_tokens": 210,
    }
}
SGLANG_QUALITIES = "quality must be one of ['exact', 'lossless', 'high', 'extra-high'], got '{value}'"
# Where Xinference's errors come from, as it says at the beginning of most.
XINFERENCE_AT = "[address=127.0.0.1:9997, pid=1] "
FLAVOURS: Mapping[str, Flavour] = {
    "openai": OpenAI(models=MODELS, extras=USAGE),
    "comfy": OpenAI(base_path="/proxy/openai", auth="comfy", error_body=comfy_error, models=MODELS, extras=USAGE),
    "azure": OpenAI(base_path="/openai/v1", auth="api-key", error_body=azure_error, models=("my-gpt-image",)),
    "litellm": Flavour(
        error_body=litellm_error,
        model_missing=MODEL_MISSING,
        model_unknown=Refusal(400, "Invalid model name passed in model={value}. Call `/v1/models` to view them."),
    ),
    # It edits at a route of its own, which the nodes do not know.
    "localai": Flavour(auth="none", error_body=status_error, edits=False, model_missing=MODEL_MISSING),
    "vllm": Flavour(
        auth="none",
        error_body=status_error,
        models=("Qwen/Qwen-Image",),
        listed={"owned_by": "vllm"},
        model_unknown=Refusal(400, "Model mismatch: request specifies '{value}' but server is running {models}."),
        mask_field="mask_image",
        white_is_edit=True,
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
        file_invalid=Refusal(500, "", text="Internal Server Error"),
        size_invalid=Refusal(400, "size must be formatted as positive WIDTHxHEIGHT"),
        format_invalid=Refusal(400, "response_format={value} is not supported"),
        quality_invalid=Refusal(400, SGLANG_QUALITIES),
        result="url",
        url_kind="relative_url",
        picture_path="/v1/images/{name}/content",
        picture_format="JPEG",
        mask_field=None,
        extras={"id": "e0e04e02", "inference_time_s": 0.1, "peak_memory_mb": 0.0, "usage": None},
        item_extras={**NEITHER, "revised_prompt": "a picture", "file_path": "/root/1.jpg", "resize": None},
    ),
    "xinference": Flavour(
        auth="none",
        error_body=fastapi_error,
        models=("sd-turbo",),
        listed={"owned_by": "xinference", "model_type": "image", "model_ability": ["text2image", "inpainting"]},
        model_missing=validation_error("model"),
        model_unknown=Refusal(
            404, XINFERENCE_AT + "Model not found in the model list, uid: {value}. Available model uids: {models}"
        ),
        prompt_missing=validation_error("prompt"),
        image_missing=Refusal(400, "At least one image file is required"),
        file_invalid=Refusal(500, "cannot identify image file <_io.BytesIO object at 0x7fae1a6dffb0>"),
        size_invalid=Refusal(500, XINFERENCE_AT + "invalid literal for int() with base 10: ''"),
        format_invalid=Refusal(500, XINFERENCE_AT + "Unsupported response format: {value}"),
        result="url",
        edit_result="url",
        url_kind="file_path",
        picture_format="JPEG",
        white_is_edit=True,
        item_extras=NEITHER,
    ),
}

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
    return {"detail": refusal.message}


NEITHER = {"b64_json": None, "url": None}
PARTS = {"image_tokens": 0, "text_tokens": 10}
USAGE = {"usage": {"input_tokens": 10, "input_tokens_details": PARTS, "output_tokens": 200, "total_tokens": 210}}
SGLANG_QUALITIES = "quality must be one of ['exact', 'lossless', 'high', 'extra-high'], got '{value}'"
XINFERENCE_HAS_NOT = (
    "[address=127.0.0.1:9997, pid=1] Model not found in the model list, uid: {value}. Available model uids: {models}"
)
XINFERENCE_WANTS_ONE = (
    "Internal Server Error: 1 validation error for TextToImageRequest\nmodel\n"
    "  field required (type=value_error.missing)"
)
FLAVOURS: Mapping[str, Flavour] = {
    "openai": OpenAI(auth="bearer", models=MODELS, extras=USAGE),
    "comfy": OpenAI(base_path="/proxy/openai", auth="comfy", error_body=comfy_error, models=MODELS, extras=USAGE),
    "azure": OpenAI(base_path="/openai/v1", auth="api-key", error_body=azure_error, models=("my-gpt-image",)),
    "litellm": Flavour(
        auth="bearer",
        error_body=litellm_error,
        model_missing=MODEL_MISSING,
        model_unknown=Refusal(400, "Invalid model name passed in model={value}. Call `/v1/models` to view them."),
    ),
    # It edits at a route of its own, which the nodes do not know.
    "localai": Flavour(error_body=status_error, edits=False, model_missing=MODEL_MISSING),
    "vllm": Flavour(
        error_body=status_error,
        models=("Qwen/Qwen-Image",),
        listed={"owned_by": "vllm"},
        model_unknown=Refusal(400, "Model mismatch: request specifies '{value}' but server is running {models}."),
        mask_field="mask_image",
        white_is_edit=True,
    ),
    "sdcpp": Flavour(
        error_body=sdcpp_error,
        models=("sd-cpp-local",),
        listed={"owned_by": "local"},
        ignores_model=True,
        white_is_edit=True,
        extras={"output_format": "png"},
    ),
    "sglang": Flavour(
        error_body=fastapi_error,
        models=("/models/sd-turbo",),
        listed={"owned_by": "sglang", "parent": None, "task_type": "T2I", "supported_task_types": ["T2I"]},
        ignores_model=True,
        quality_unknown=Refusal(400, SGLANG_QUALITIES),
        picture_format="JPEG",
        mask_field=None,
        extras={"id": "e0e04e02", "inference_time_s": 0.1, "peak_memory_mb": 0.0, "usage": None},
        item_extras={**NEITHER, "revised_prompt": "a picture", "file_path": "/root/1.jpg", "resize": None},
    ),
    "xinference": Flavour(
        error_body=fastapi_error,
        models=("sd-turbo",),
        listed={"owned_by": "xinference", "model_type": "image", "model_ability": ["text2image", "inpainting"]},
        model_missing=Refusal(500, "", text=XINFERENCE_WANTS_ONE),
        model_unknown=Refusal(404, XINFERENCE_HAS_NOT),
        picture_format="JPEG",
        white_is_edit=True,
        item_extras=NEITHER,
    ),
}

"""How the servers that speak the OpenAI Images API differ, as one table: OpenAI and its twins are strict, others lenient."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from . import contract
from .lenient import Flavour, Job, LiteLLM, LocalAI, SdCpp, SGLang, Size, Vllm, Xinference, check_body
from .wire import Call, Refusal

__all__ = ["FLAVOURS", "RELEASES", "Flavour"]

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


class OpenAI(Flavour):
    """OpenAI itself: every field is checked, and one that its model does not know is refused."""

    def check(self, call: Call, models: Collection[str], *, editing: bool) -> None:
        check_body(call, editing=editing)
        model = call.fields.get("model")
        if not model:
            message = "you must provide a model parameter"
            raise Refusal(400, message, "model", "missing_required_parameter")
        if not isinstance(model, str) or (models and model not in models):
            raise self.no_model(model, models)
        contract.check(call, contract.rules_for(model), editing=editing)

    def read(self, call: Call, models: Collection[str], *, editing: bool) -> Job:
        job = super().read(call, models, editing=editing)
        if job.model.startswith("dall-e") and "response_format" not in call.fields:
            return dataclasses.replace(job, result="url")
        return job

    def item(self, b64: str | None, url: str | None, job: Job, name: str) -> dict[str, Any]:
        more = {"revised_prompt": job.prompt} if job.model == "dall-e-3" else {}
        return {**more, **super().item(b64, url, job, name)}

    def answer(self, job: Job, items: list[dict[str, Any]], size: Size) -> dict[str, Any]:
        body = super().answer(job, items, size)
        if job.model.startswith("dall-e"):
            return body
        more = {
            "background": "transparent" if job.transparent else "opaque",
            "output_format": job.picture_format.lower(),
            "quality": "low" if job.quality == "auto" else job.quality,
            "size": f"{size[0]}x{size[1]}",
            "usage": {"input_tokens": 10, "output_tokens": 200 * len(items), "total_tokens": 10 + 200 * len(items)},
        }
        return {**body, **more}


class Comfy(OpenAI):
    """Comfy.org's proxy: it speaks for itself about accounts and money, and hands OpenAI's own refusals through."""

    def error_body(self, refusal: Refusal) -> dict[str, Any]:
        if refusal.code is not None and refusal.status not in (401, 402):
            return super().error_body(refusal)
        titles = {401: "Unauthorized", 402: "Payment Required", 404: "Not Found", 429: "Rate Limit Exceeded"}
        return {"error": titles.get(refusal.status, "Upstream Error"), "message": refusal.message}


class Azure(OpenAI):
    """Azure OpenAI: a model is the name of a deployment, and some errors have other codes."""

    def error_body(self, refusal: Refusal) -> dict[str, Any]:
        codes = {"moderation_blocked": "contentFilter", "model_not_found": "DeploymentNotFound"}
        code = codes.get(refusal.code or "", refusal.code) or str(refusal.status)
        if refusal.status in (401, 404):
            return {"error": {"code": code, "message": refusal.message}}
        return {"error": {**super().error_body(refusal)["error"], "code": code}}


FLAVOURS: Mapping[str, Flavour] = {
    "openai": OpenAI(models=ALIVE),
    "comfy": Comfy(base_path="/proxy/openai", models=ALIVE, auth="comfy"),
    "azure": Azure(base_path="/openai/v1", models=("my-gpt-image",), auth="api-key"),
    "litellm": LiteLLM(needs_model=True),
    "localai": LocalAI(
        auth="none",
        needs_model=True,
        result="url",
        picture_path="/generated-images/{name}",
        edit_route="inpainting",
        edit_result="url",
        white_is_edit=True,
        default_size=(512, 512),
        extras={"embedding": None},
    ),
    "vllm": Vllm(
        auth="none",
        models=("Qwen/Qwen-Image",),
        listed={"owned_by": "vllm"},
        mask_field="mask_image",
        white_is_edit=True,
        extras={"url": None, "revised_prompt": None},
    ),
    "sdcpp": SdCpp(
        auth="none",
        models=("sd-cpp-local",),
        ignores_model=True,
        formats=(),
        output_formats=("png", "jpeg"),
        white_is_edit=True,
        default_size=(512, 512),
    ),
    "sglang": SGLang(
        auth="none",
        models=("/models/sd-turbo",),
        listed={"owned_by": "sglang", "parent": None, "task_type": "T2I", "supported_task_types": ["T2I"]},
        ignores_model=True,
        result="url",
        url_kind="relative_url",
        picture_path="/v1/images/{name}/content",
        picture_format="JPEG",
        mask_field=None,
    ),
    "xinference": Xinference(
        auth="none",
        models=("sd-turbo",),
        listed={"owned_by": "xinference", "model_type": "image", "model_ability": ["text2image", "inpainting"]},
        result="url",
        edit_result="url",
        url_kind="file_path",
        picture_format="JPEG",
        output_formats=(),
        white_is_edit=True,
    ),
}

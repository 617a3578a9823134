"""Servers of one's own: they look at a few fields of a request, each in its way, and let the rest pass.

What LiteLLM, LocalAI and vLLM do is from their documentation and sources. The other three were started and asked:
`tests/recordings` holds what they answered.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from .records import FilePart
from .wire import Call, Refusal

Size = tuple[int, int]
MAX_PICTURES = 10
FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
SGLANG_QUALITIES = ["exact", "lossless", "high", "extra-high"]


@dataclass(frozen=True)
class Job:
    """Work to be done: `n` pictures of `size` (None: that of the image), for an edit with its files.

    `result` is "b64" or "url", `picture_format` one that Pillow knows.
    """

    model: str
    prompt: str
    n: int
    size: Size | None
    quality: str
    result: str
    picture_format: str
    transparent: bool
    image: FilePart | None
    mask: FilePart | None


@dataclass(frozen=True)
class Flavour:
    """One kind of server: its fields say what can be said in a word, its methods what it refuses and answers.

    `base_path`: what its base URL ends in. `auth`: "bearer", "api-key", "comfy" or "none".
    `models`: the names it takes, none meaning any; `listed`: what its list says of each.
    `result`, `edit_result`: how pictures come back by default, "b64" or "url"; `formats`: what `response_format` may be.
    `url_kind`: what it calls a URL: "url", "relative_url" or "file_path". `extras`: more of each item of `data`.
    `mask_field`: the file it takes as mask, if any; `white_is_edit`: it reads the mask's luminance, not its alpha.
    """

    base_path: str = "/v1"
    auth: str = "bearer"
    models: tuple[str, ...] = ()
    listed: Mapping[str, Any] = field(default_factory=lambda: {"owned_by": "system"})
    needs_model: bool = False
    ignores_model: bool = False
    result: str = "b64"
    edit_result: str = "b64"
    formats: tuple[str, ...] = ("b64_json", "url")
    url_kind: str = "url"
    extras: Mapping[str, Any] = field(default_factory=dict)
    default_size: Size = (1024, 1024)
    picture_format: str = "PNG"
    output_formats: tuple[str, ...] = ("png", "jpeg", "webp")
    picture_path: str = "/pictures/{name}"
    edit_route: str = "edits"
    mask_field: str | None = "mask"
    white_is_edit: bool = False

    def read(self, call: Call, models: Collection[str], *, editing: bool) -> Job:
        """Return what a request asks of a server that has `models` (none: any). Raises Refusal."""
        self.check(call, models, editing=editing)
        fields = call.fields
        own_model = next(iter(models), "its own model")
        result = fields.get("response_format")
        if result not in self.formats:
            result = self.edit_result if editing else self.result
        output = fields.get("output_format")
        return Job(
            model=own_model if self.ignores_model else str(fields.get("model") or own_model),
            prompt=str(fields.get("prompt", "")),
            n=min(MAX_PICTURES, max(1, int(fields.get("n", 1)))),
            size=self.size_of(fields.get("size")) or (None if editing else self.default_size),
            quality=str(fields.get("quality", "auto")),
            result=result.removesuffix("_json"),
            picture_format=FORMATS[output] if output in self.output_formats else self.picture_format,
            transparent=fields.get("background") == "transparent",
            image=call.file("image", "image[]") if editing else None,
            mask=call.file(self.mask_field) if editing else None,
        )

    def check(self, call: Call, models: Collection[str], *, editing: bool) -> None:
        """Raise Refusal for what this server refuses."""
        check_body(call, editing=editing)
        fields = call.fields
        model = fields.get("model")
        if not model and self.needs_model:
            message = "you must provide a model parameter"
            raise Refusal(400, message, "model", "missing_required_parameter")
        if model and models and model not in models:
            raise self.no_model(model, models)
        if not fields.get("prompt"):
            raise Refusal(400, "Missing required parameter: 'prompt'.", "prompt")
        if fields.get("size", "auto") != "auto" and self.size_of(fields["size"]) is None:
            raise Refusal(400, f"Invalid size format: '{fields['size']}'. Expected WIDTHxHEIGHT.", "size")
        if editing and not call.file("image", "image[]"):
            raise Refusal(400, "Missing required parameter: 'image'.", "image")

    def no_model(self, model: str, models: Collection[str]) -> Refusal:
        """Return the refusal of a model that the server does not have."""
        return Refusal(404, f"The model '{model}' does not exist.", "model", "model_not_found")

    def bad_file(self, part: FilePart) -> Refusal | None:
        """Return the refusal of a file that is no picture, None to go on without it."""
        message = f"Invalid image file or mode for image '{part.field}', please check your image file."
        return Refusal(400, message, part.field, "invalid_image_file")

    def no_route(self, method: str, path: str) -> Refusal:
        """Return the refusal of a path that is none."""
        return Refusal(404, f"Invalid URL ({method} {path})")

    def size_of(self, text: Any) -> Size | None:
        """Return width and height of a text such as "1024x1792", None if it is another."""
        match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", str(text))
        return (int(match[1]), int(match[2])) if match else None

    def item(self, b64: str | None, url: str | None, job: Job, name: str) -> dict[str, Any]:
        """Return one item of `data` for the picture of that name; one of `b64` and `url` is None."""
        return {**self.extras, **({"b64_json": b64} if b64 else {"url": url})}

    def answer(self, job: Job, items: list[dict[str, Any]], size: Size) -> dict[str, Any]:
        """Return the body of a good answer."""
        return {"created": int(time.time()), "data": items}

    def error_body(self, refusal: Refusal) -> dict[str, Any]:
        """Return the body of a refusal."""
        error = {"message": refusal.message, "type": refusal.kind, "param": refusal.param, "code": refusal.code}
        return {"error": error}

    def model_list(self, models: Mapping[str, int]) -> dict[str, Any]:
        """Return the body of the list of models, given with the times of their release."""
        items = [{"id": name, "object": "model", "created": time, **self.listed} for name, time in models.items()]
        return {"object": "list", "data": items}


def check_body(call: Call, *, editing: bool) -> None:
    """Raise Refusal for a body of another kind, or one that could not be read."""
    wanted = "multipart/form-data" if editing else "application/json"
    if call.content_type != wanted:
        message = f"Unsupported content type: '{call.content_type}'. This method only accepts '{wanted}' requests."
        raise Refusal(400, message, code="unsupported_content_type")
    if call.problem is not None:
        raise Refusal(400, f"We could not parse the body of your request: {call.problem}.")


class LiteLLM(Flavour):
    """The proxy: it hands on what it does not know."""

    def check(self, call: Call, models: Collection[str], *, editing: bool) -> None:
        if call.file("image") and call.file("image[]"):
            raise Refusal(422, "Send either 'image' or 'image[]', not both.", "image")
        super().check(call, models, editing=editing)

    def no_model(self, model: str, models: Collection[str]) -> Refusal:
        return Refusal(400, f"Invalid model name passed in model={model}. Call `/v1/models` to view them.")

    def error_body(self, refusal: Refusal) -> dict[str, Any]:
        error = super().error_body(refusal)["error"]
        return {"error": {**error, "param": str(refusal.param), "code": str(refusal.status)}}


class LocalAI(Flavour):
    """It has a route of its own for edits, and wants a mask there."""

    def check(self, call: Call, models: Collection[str], *, editing: bool) -> None:
        super().check(call, models, editing=editing)
        if editing and not call.file("mask"):
            raise Refusal(400, "missing mask file", "mask")

    def error_body(self, refusal: Refusal) -> dict[str, Any]:
        return {"error": {"code": refusal.status, "message": refusal.message, "type": ""}}


class Vllm(Flavour):
    """vLLM-Omni: one model, and base64 alone."""

    def check(self, call: Call, models: Collection[str], *, editing: bool) -> None:
        super().check(call, models, editing=editing)
        if call.fields.get("size") == "auto" and not editing:
            raise Refusal(400, "Invalid size format: 'auto'. Expected format: 'WIDTHxHEIGHT'.")
        if call.fields.get("response_format", "b64_json") != "b64_json":
            raise Refusal(400, "Only response_format 'b64_json' is supported now.")

    def no_model(self, model: str, models: Collection[str]) -> Refusal:
        running = next(iter(models))
        return Refusal(400, f"Model mismatch: request specifies '{model}' but server is running '{running}'.")

    def error_body(self, refusal: Refusal) -> dict[str, Any]:
        message, code = refusal.message, refusal.status
        return {"error": {"message": message, "type": "BadRequestError", "param": None, "code": code}}


class SdCpp(Flavour):
    """stable-diffusion.cpp's sd-server: it takes nearly everything, but what it reads must have the right type."""

    def check(self, call: Call, models: Collection[str], *, editing: bool) -> None:
        if editing and call.content_type != "multipart/form-data":
            raise Refusal(400, "Content-Type must be multipart/form-data")
        if call.is_empty:
            raise Refusal(400, "empty body")
        if call.problem is not None:
            raise Refusal(500, f"[json.exception.parse_error.101] parse error: {call.problem}")
        if not editing and not isinstance(call.fields.get("n", 1), int):
            raise Refusal(500, "[json.exception.type_error.302] type must be number, but is another")
        for name in ("prompt", "size", "output_format"):
            if not isinstance(call.fields.get(name, ""), str):
                raise Refusal(500, "[json.exception.type_error.302] type must be string, but is another")
        if not call.fields.get("prompt"):
            raise Refusal(400, "prompt required")
        if call.fields.get("output_format", "png") not in self.output_formats:
            raise Refusal(400, "invalid output_format, must be one of [png, jpeg]")
        if editing and not call.file("image", "image[]"):
            raise Refusal(400, "at least one image[] required")

    def bad_file(self, part: FilePart) -> Refusal | None:
        return None

    def no_route(self, method: str, path: str) -> Refusal:
        return Refusal(404, "", body="")

    def size_of(self, text: Any) -> Size | None:
        size = super().size_of(text)
        return (-(-size[0] // 8) * 8, -(-size[1] // 8) * 8) if size else None

    def answer(self, job: Job, items: list[dict[str, Any]], size: Size) -> dict[str, Any]:
        return {**super().answer(job, items, size), "output_format": job.picture_format.lower()}

    def error_body(self, refusal: Refusal) -> dict[str, Any]:
        if refusal.status >= 500:
            return {"error": "server_error", "message": refusal.message}
        return {"error": refusal.message}

    def model_list(self, models: Mapping[str, int]) -> dict[str, Any]:
        return {"data": [{"id": name, "object": "model", "owned_by": "local"} for name in models]}


class SGLang(Flavour):
    """SGLang's diffusion server: any model name, its own qualities, and sizes that must be right."""

    def check(self, call: Call, models: Collection[str], *, editing: bool) -> None:
        fields = call.fields
        if call.is_empty:
            raise missing_field("body", given=None)
        if call.problem is not None:
            entry = {"type": "json_invalid", "loc": ["body", 0], "msg": "JSON decode error", "input": {}}
            raise Refusal(422, "", body={"detail": [{**entry, "ctx": {"error": call.problem}}]})
        if fields.get("prompt") is None or (editing and call.content_type != "multipart/form-data"):
            raise missing_field("body", "prompt", given=None if editing else fields)
        if editing and not call.file("image", "image[]"):
            raise Refusal(422, "Field 'image' or 'url' is required")
        if fields.get("quality", "high") not in (None, *SGLANG_QUALITIES):
            raise Refusal(400, f"quality must be one of {SGLANG_QUALITIES}, got {fields['quality']!r}")
        if fields.get("response_format", "url") not in self.formats:
            raise Refusal(400, f"response_format={fields['response_format']} is not supported")
        size = self.size_of(fields.get("size", "8x8"))
        if size is None:
            raise Refusal(400, "size must be formatted as positive WIDTHxHEIGHT")
        if size[0] % 8 or size[1] % 8:
            raise Refusal(500, "", body="Internal Server Error")

    def bad_file(self, part: FilePart) -> Refusal | None:
        return Refusal(500, "", body="Internal Server Error")

    def item(self, b64: str | None, url: str | None, job: Job, name: str) -> dict[str, Any]:
        path = f"/root/outputs/{name}.{job.picture_format.lower()}"
        return {"b64_json": b64, "url": url, "revised_prompt": job.prompt, "file_path": path, "resize": None}

    def answer(self, job: Job, items: list[dict[str, Any]], size: Size) -> dict[str, Any]:
        more = {"id": "e0e04e02", "inference_time_s": 0.1, "peak_memory_mb": 0.0, "usage": None}
        return {**super().answer(job, items, size), **more}

    def error_body(self, refusal: Refusal) -> dict[str, Any]:
        return {"detail": refusal.message}


class Xinference(Flavour):
    """Xinference: one model that has to be named, and whatever its code raises for an error."""

    def check(self, call: Call, models: Collection[str], *, editing: bool) -> None:
        fields = call.fields
        if editing and call.content_type != "multipart/form-data":
            raise missing_field("body", "prompt", given=None)
        if call.problem is not None:
            raise Refusal(500, "", body=f"Internal Server Error: {call.problem}")
        for name in ("prompt",) if editing else ("model", "prompt"):
            if fields.get(name) is None:
                reason = "none is not an allowed value" if name in fields else "field required"
                error = f"1 validation error for TextToImageRequest\n{name}\n  {reason}"
                raise Refusal(500, "", body=f"Internal Server Error: {error}")
        if fields.get("model") and models and fields["model"] not in models:
            raise self._failed(f"Model not found in the model list, uid: {fields['model']}.", 404)
        if editing and not call.file("image", "image[]"):
            raise Refusal(400, "At least one image file is required")
        if int(fields.get("n", 1)) < 1:
            raise self._failed("cannot reshape tensor of 0 elements into shape [0, 77, -1]")
        if fields.get("response_format", "url") not in self.formats:
            raise self._failed(f"Unsupported response format: {fields['response_format']}")
        size = self.size_of(fields.get("size", "" if editing else "1024x1024"))
        if size is None:
            raise self._failed("invalid literal for int() with base 10: ''")
        if size[0] % 8 or size[1] % 8:
            raise self._failed(f"`height` and `width` have to be divisible by 8 but are {size[1]} and {size[0]}.")

    def _failed(self, message: str, status: int = 500) -> Refusal:
        return Refusal(status, f"[address=127.0.0.1:9997, pid=1] {message}")

    def bad_file(self, part: FilePart) -> Refusal | None:
        return Refusal(500, "cannot identify image file <_io.BytesIO object at 0x7fae1a6dffb0>")

    def no_route(self, method: str, path: str) -> Refusal:
        return Refusal(405, "Method Not Allowed")

    def item(self, b64: str | None, url: str | None, job: Job, name: str) -> dict[str, Any]:
        return {"url": url, "b64_json": b64}

    def error_body(self, refusal: Refusal) -> dict[str, Any]:
        return {"detail": refusal.message}


def missing_field(*place: str, given: Any) -> Refusal:
    """Return FastAPI's refusal of a request without a field; it repeats what was given."""
    return Refusal(422, "", body={"detail": [{"type": "missing", "loc": place, "msg": "Field required", "input": given}]})

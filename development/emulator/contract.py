"""The contract: whether a request is one that the server would serve, as strictly as it is published.

Each check raises Refusal with the documented error. What passes them all becomes a `Job`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from .errors import Refusal
from .flavours import Flavour, rules_for
from .records import FilePart
from .rules import Rules, Size
from .uploads import check_classic_files, check_files
from .wire import Call

MAX_PICTURES = 10
_FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
_LENIENT_FORMATS = {**_FORMATS, "jpg": "JPEG"}
_CHOICES = {
    "background": ("transparent", "opaque", "auto"),
    "moderation": ("low", "auto"),
    "input_fidelity": ("high", "low"),
    "response_format": ("b64_json", "url"),
}


@dataclass(frozen=True)
class Job:
    """Work to be done: `n` pictures of `size` (None: the server chooses), for an edit with its files."""

    model: str
    prompt: str
    n: int
    size: Size | None
    quality: str
    result: str | None = None
    picture_format: str | None = None
    transparent: bool = False
    image: FilePart | None = None
    mask: FilePart | None = None


def check(flavour: Flavour, route: str, call: Call, models: Collection[str]) -> Job:
    """Return what `call` asks of a server of that flavour that has `models` (none: any model)."""
    editing = route != "generations"
    _check_shape(flavour, editing, call)
    model = _check_model(flavour, call.fields, models)
    rules = rules_for(flavour, model)
    known = rules.edit_fields if editing else rules.fields
    _check_fields(known, call, editing=editing)
    image, mask = _pick_files(flavour, rules, call) if editing else (None, None)
    return Job(
        model=model,
        prompt=_check_prompt(call.fields, rules),
        n=_integer(call, "n", default=1, low=1, high=MAX_PICTURES),
        size=_check_size(flavour, rules, call.fields, editing=editing),
        quality=_check_quality(call.fields, rules),
        result=_check_result(flavour, rules, model, call.fields),
        picture_format=_check_output(call, strict=flavour.strict),
        transparent=call.fields.get("background") == "transparent",
        image=image,
        mask=mask,
    )


def _check_shape(flavour: Flavour, editing: bool, call: Call) -> None:
    wanted = "multipart/form-data" if editing else "application/json"
    if call.content_type != wanted:
        raise Refusal(
            400,
            f"Unsupported content type: '{call.content_type}'. This method only accepts '{wanted}' requests.",
            code="unsupported_content_type",
        )
    if call.fault is not None:
        raise call.fault
    for name in call.repeated:
        if name != "image[]":
            raise Refusal(400, f"Duplicate parameter: '{name}'.", param=name, code="duplicate_parameter")
    _check_nulls(flavour, call.fields)


def _check_nulls(flavour: Flavour, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        if value is None and flavour.null_status:
            message = f"Invalid type for '{name}': expected a value, but got null instead."
            raise Refusal(flavour.null_status, message, param=name, code="invalid_type")


def _check_model(flavour: Flavour, fields: dict[str, Any], models: Collection[str]) -> str:
    model = fields.get("model")
    if model is None or model == "":
        if flavour.needs_model:
            raise Refusal(400, "you must provide a model parameter", param="model", code="missing_required_parameter")
        return next(iter(models), "default")
    if not isinstance(model, str):
        raise _wrong_type("model", "a string", model)
    if models and model not in models:
        if flavour.error_shape == "detail":
            running = next(iter(models))
            raise Refusal(400, f"Model mismatch: request specifies '{model}' but server is running '{running}'.")
        if flavour.error_shape == "litellm":
            raise Refusal(400, f"Invalid model name passed in model={model}. Call `/v1/models` to view them.")
        raise Refusal(404, f"The model '{model}' does not exist.", param="model", code="model_not_found")
    return model


def _check_fields(known: frozenset[str] | None, call: Call, *, editing: bool) -> None:
    if known is None:
        return
    files = {"image", "image[]", "mask"} if editing else set()
    for name in [*call.fields, *(part.field for part in call.files)]:
        if name not in known and name not in files:
            raise Refusal(400, f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
    for name, allowed in _CHOICES.items():
        value = call.fields.get(name)
        if value is not None:
            _one_of(name, value, allowed)
    for part in call.files:
        if part.field not in files:
            raise _wrong_type(part.field, "a string", part.data)
    if not isinstance(call.fields.get("user", ""), str):
        raise _wrong_type("user", "a string", call.fields["user"])
    if call.fields.get("stream") not in (None, False, "false", True, "true"):
        raise _wrong_type("stream", "a boolean", call.fields["stream"])
    if call.fields.get("stream") in (True, "true"):
        raise Refusal(400, "Streaming is not part of this development server.", param="stream")
    _integer(call, "output_compression", default=100, low=0, high=100)
    _integer(call, "partial_images", default=0, low=0, high=3)


def _check_prompt(fields: dict[str, Any], rules: Rules) -> str:
    prompt = fields.get("prompt")
    if prompt is None:
        raise Refusal(400, "Missing required parameter: 'prompt'.", param="prompt", code="missing_required_parameter")
    if not isinstance(prompt, str):
        raise _wrong_type("prompt", "a string", prompt)
    if not prompt.strip():
        message = "Invalid 'prompt': empty string. Expected a string with minimum length 1."
        raise Refusal(400, message, param="prompt", code="empty_string")
    if not prompt.isascii() and re.search("[\ud800-\udfff]", prompt):
        raise Refusal(400, "Invalid 'prompt': it is no valid Unicode.", param="prompt", code="invalid_value")
    if len(prompt) > rules.max_prompt:
        message = (
            f"Invalid 'prompt': string too long. Expected a string with maximum length {rules.max_prompt}, "
            f"but got a string with length {len(prompt)} instead."
        )
        raise Refusal(400, message, param="prompt", code="string_above_max_length")
    return prompt


def _check_size(flavour: Flavour, rules: Rules, fields: dict[str, Any], *, editing: bool) -> Size | None:
    size = fields.get("size")
    if size is None:
        return None if editing and flavour.edit_route == "edits" else flavour.default_size
    if not isinstance(size, str):
        raise _wrong_type("size", "a string", size)
    if size == "auto" and flavour.refuses_auto_size and not editing:
        raise Refusal(400, "Invalid size format: 'auto'. Expected format: 'WIDTHxHEIGHT'.", param="size")
    return rules.check_size(size)


def _check_quality(fields: dict[str, Any], rules: Rules) -> str:
    quality = fields.get("quality", "auto")
    if rules.fields is not None:
        _one_of("quality", quality, (*rules.qualities,))
    return str(quality)


def _check_result(flavour: Flavour, rules: Rules, model: str, fields: dict[str, Any]) -> str | None:
    if not rules.chooses_format:
        return None
    # The archived contract answered with URLs unless it was told otherwise.
    asked = fields.get("response_format") or ("url" if flavour.strict and model.startswith("dall-e") else None)
    if asked is None or asked in flavour.formats:
        return {"b64_json": "b64", "url": "url"}.get(asked) if asked else None
    if not flavour.checks_format:
        return None
    names = " and ".join(f"'{name}'" for name in flavour.formats)
    raise Refusal(400, f"Only response_format {names} is supported now.", param="response_format")


def _check_output(call: Call, *, strict: bool) -> str | None:
    value = call.fields.get("output_format")
    if value is None:
        return None
    formats = _FORMATS if strict else _LENIENT_FORMATS
    _one_of("output_format", value, tuple(formats))
    return formats[value]


def _pick_files(flavour: Flavour, rules: Rules, call: Call) -> tuple[FilePart, FilePart | None]:
    names = [part.field for part in call.files]
    if "image" in names and "image[]" in names:
        status = 422 if flavour.error_shape == "litellm" else 400
        raise Refusal(status, "Send either 'image' or 'image[]', not both.", param="image", code="invalid_value")
    images = [part for part in call.files if part.field in ("image", "image[]")]
    if not images:
        hint = "expected a file, but got a string instead" if "image" in call.fields else "no file was sent"
        raise Refusal(400, f"Missing required parameter: 'image': {hint}.", param="image", code="invalid_type")
    if flavour.strict and "mask" in call.fields:
        raise _wrong_type("mask", "a file", call.fields["mask"])
    mask = next((part for part in call.files if part.field == flavour.mask_field), None)
    if mask is None and flavour.needs_mask:
        raise Refusal(400, "missing mask file", param="mask")
    if rules.classic_files:
        check_classic_files(images, mask)
    elif flavour.strict:
        check_files(images, mask)
    return images[0], mask


def _integer(call: Call, name: str, *, default: int, low: int, high: int) -> int:
    value = call.fields.get(name, default)
    if call.content_type == "multipart/form-data" and isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}", value):
        value = int(value)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong_type(name, "an integer", value)
    if not low <= value <= high:
        side = "below minimum" if value < low else "above maximum"
        raise Refusal(
            400,
            f"Invalid '{name}': integer {side} value. Expected {low} to {high}, but got {value}.",
            param=name,
            code=f"integer_{side.replace(' ', '_')}_value",
        )
    return value


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        names = ", ".join(f"'{item}'" for item in allowed)
        message = f"Invalid value: '{value}'. Supported values are: {names}."
        raise Refusal(400, message, param=name, code="invalid_value")


def _wrong_type(name: str, wanted: str, value: Any) -> Refusal:
    kinds = {
        str: "a string",
        bool: "a boolean",
        int: "an integer",
        float: "a decimal",
        list: "an array",
        bytes: "a file",
    }
    got = kinds.get(type(value), "null" if value is None else "an object")
    return Refusal(
        400,
        f"Invalid type for '{name}': expected {wanted}, but got {got} instead.",
        param=name,
        code="invalid_type",
    )

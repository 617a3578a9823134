"""From a request to a job: what a kind of server reads in it, and what it refuses."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from .wire import FilePart, Refusal, RequestRecord

Size = tuple[int, int]
IMAGE = ("image", "image[]")  # the fields in which clients send the image of an edit


@dataclass(frozen=True)
class Job:
    """Work to be done: `n` pictures of `size`, for an edit with its files."""

    model: str
    prompt: str
    n: int
    size: Size
    image: FilePart | None
    mask: FilePart | None


def openai_error(refusal: Refusal) -> dict[str, Any]:
    """Return the body of a refusal in OpenAI's shape."""
    error = {"message": refusal.message, "type": "invalid_request_error", "param": refusal.param, "code": refusal.code}
    return {"error": error}


MODEL_UNKNOWN = Refusal(404, "The model '{value}' does not exist.", "model", "model_not_found")


@dataclass(frozen=True)
class Flavour:
    """One kind of server. It looks at a few fields of a request, and lets the rest pass.

    `base_path`: what its base URL ends in. `auth`: "bearer", "api-key", "comfy" or "none". `error_body`: its errors.
    `models`: the names it takes, none meaning any; `listed`: what its list says of each. `edits`: whether it has them.
    `extras`, `item_extras`: what it adds to an answer, and to each picture in it.
    `mask_field`: the file it takes as mask, if any; `white_is_edit`: it reads the mask's luminance, not its alpha.
    The refusals say what it minds, with "{value}" for what it got and "{models}" for its models; where there is none,
    it does not mind.
    """

    base_path: str = "/v1"
    auth: str = "none"
    error_body: Callable[[Refusal], dict[str, Any]] = openai_error
    models: tuple[str, ...] = ()
    listed: Mapping[str, Any] = field(default_factory=lambda: {"owned_by": "system"})
    ignores_model: bool = False
    edits: bool = True
    picture_format: str = "PNG"
    extras: Mapping[str, Any] = field(default_factory=dict)
    item_extras: Mapping[str, Any] = field(default_factory=dict)
    mask_field: str | None = "mask"
    white_is_edit: bool = False
    model_missing: Refusal | None = None
    model_unknown: Refusal = MODEL_UNKNOWN
    quality_unknown: Refusal | None = None

    def read(self, request: RequestRecord, models: Collection[str], *, editing: bool) -> Job:
        """Return what a request asks of a server that has `models` (none: any). Raises Refusal."""
        self.check(request, models, editing=editing)
        fields = request.fields
        own_model = next(iter(models), "its own model")
        return Job(
            model=own_model if self.ignores_model else fields.get("model") or own_model,
            prompt=str(fields.get("prompt")),
            n=int(fields.get("n", 1)),
            size=parse_size(fields.get("size")) or (1024, 1024),
            image=request.find(*IMAGE) if editing else None,
            mask=request.find(self.mask_field) if editing else None,
        )

    def check(self, request: RequestRecord, models: Collection[str], *, editing: bool) -> None:
        """Raise Refusal for what this server refuses."""
        model = request.fields.get("model")
        if not model and not editing:
            refuse(self.model_missing)
        if model and models and model not in models and not self.ignores_model:
            refuse(self.model_unknown, model, models)
        if "quality" in request.fields:
            refuse(self.quality_unknown, request.fields["quality"])


def refuse(refusal: Refusal | None, value: Any = "", models: Collection[str] = ()) -> None:
    """Raise a refusal, if there is one, with the value and the models in its message."""
    if refusal is not None:
        message = refusal.message.replace("{value}", str(value)).replace("{models}", str(list(models)))
        raise dataclasses.replace(refusal, message=message)


def parse_size(text: Any) -> Size | None:
    """Return width and height of a text such as "1024x1792", None if it is another."""
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", str(text))
    return (int(match[1]), int(match[2])) if match else None

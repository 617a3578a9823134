"""The wire of the OpenAI Images API: requests, answers and error bodies.

Everything that crosses HTTP is one of these frozen pydantic models; nothing here does I/O or reads the environment.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MAX_DETAIL_CHARACTERS = 400  # of a server's own words in our messages: enough for a sentence, too little for a page


class Wire(BaseModel):
    """What all wire types share: immutable, and tolerant of fields that a server adds."""

    # Hidden input: a server may repeat our key in an answer that does not validate.
    model_config = ConfigDict(frozen=True, extra="ignore", val_json_bytes="base64", hide_input_in_errors=True)


class ImageRequest(Wire):
    """The text fields of `images/generations` and `images/edits`; a field that is None is not sent."""

    prompt: str
    model: str | None
    n: int
    size: str
    quality: str | None = None
    response_format: str | None = None

    def fields(self) -> dict[str, str | int]:
        """The fields to send: never a null, which some servers refuse."""
        return self.model_dump(exclude_none=True)

    def without(self, field: str) -> ImageRequest:
        """The same request less one optional field."""
        return self.model_copy(update={field: None})


class Picture(Wire):
    """One picture of an answer: its bytes, or where to download it."""

    b64_json: bytes | None = Field(default=None, repr=False)
    url: str | None = None


class ImagesResponse(Wire):
    """The body of a successful answer."""

    data: tuple[Picture, ...]

    @classmethod
    def parse(cls, body: bytes) -> ImagesResponse:
        """Read an answer's JSON, decoding base64 while parsing.

        Wrapped base64 and `data:` URLs, which that fast path refuses, take a second, lenient one.
        Raises ValueError (pydantic's ValidationError is one) for anything else.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError:
            return cls.model_validate(_with_decoded_pictures(json.loads(body)))


def _with_decoded_pictures(answer: Any) -> Any:
    if not isinstance(answer, dict) or not isinstance(answer.get("data"), list):
        return answer
    return {"data": [_decoded(item) if isinstance(item, dict) else item for item in answer["data"]]}


def _decoded(item: dict[str, Any]) -> dict[str, Any]:
    encoded = item.get("b64_json")
    url = item.get("url")
    if not encoded and isinstance(url, str) and url.startswith("data:"):
        encoded, url = url, None
    if not encoded:
        return {"url": url}
    if not isinstance(encoded, str):
        raise ValueError("b64_json is not text")
    try:
        packed = re.sub(r"\s", "", encoded.rpartition(",")[2])
        return {"b64_json": base64.b64decode(packed, validate=True)}
    except binascii.Error as err:
        raise ValueError(f"b64_json is not base64: {err}") from err


class ModelEntry(Wire):
    """One line of `GET models`."""

    id: str
    created: int = 0
    owned_by: str = ""


class ModelList(Wire):
    """The body of `GET models`."""

    data: tuple[ModelEntry, ...]


class ErrorDetail(Wire):
    """What a server said went wrong, in whichever shape it said it."""

    message: str = ""
    type: str = ""
    code: str = ""
    param: str = ""

    @classmethod
    def parse(cls, body: bytes) -> ErrorDetail:
        """Read an error body; never raises.

        Known shapes: OpenAI's `{"error": {message, type, code, param}}`, Comfy.org's `{"error": str, "message": str}`,
        stable-diffusion.cpp's `{"error": str}`, FastAPI's `{"detail": ...}`, and text or HTML.
        """
        try:
            answer = json.loads(body)
        except ValueError:
            return cls(message=shortened(_text_of(body)))
        return cls.from_json(answer)

    @classmethod
    def from_json(cls, answer: object) -> ErrorDetail:
        """The same for a body that is JSON already."""
        outer = answer if isinstance(answer, dict) else {"message": answer}
        inner = outer.get("error")
        fields = inner if isinstance(inner, dict) else outer
        message = fields.get("message") or outer.get("detail") or inner or ""
        return cls(
            message=shortened(message if isinstance(message, str) else json.dumps(message)),
            **{name: str(fields.get(name) or "") for name in ("type", "code", "param")},
        )


def _text_of(body: bytes) -> str:
    text = body.decode("utf-8", errors="replace")
    if "<" not in text:
        return text
    title = re.search(r"<title>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    return title.group(1) if title else re.sub(r"<[^>]*>", " ", text)


def shortened(text: str, limit: int = MAX_DETAIL_CHARACTERS) -> str:
    """One printable line of at most `limit` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"

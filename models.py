"""The wire of the OpenAI Images API: requests, answers and error bodies.

Everything that crosses HTTP is one of these frozen pydantic models; nothing here does I/O or reads the environment.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MAX_DETAIL_CHARACTERS = 400  # of a server's own words in our messages: enough for a sentence, too little for a page
MAX_COMMAS = 20_000  # of an answer: its pictures need a few, and millions would unfold to gigabytes of objects


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

        Wrapped base64 and `data:` URLs, which that fast path does not know, take a second, lenient one. There a picture
        that is broken comes out empty, and does not cost the user the others.
        Raises ValueError (pydantic's ValidationError is one) or RecursionError for anything else.
        """
        if body.count(b",") > MAX_COMMAS:
            raise ValueError("there is more in it than pictures")
        try:
            answer = cls.model_validate_json(body)
        except ValidationError:
            return cls.model_validate(_with_decoded_pictures(json.loads(body)))
        if any(_is_inline(picture.url) for picture in answer.data):
            return cls.model_validate(_with_decoded_pictures(json.loads(body)))
        return answer


def _with_decoded_pictures(answer: Any) -> Any:
    if not isinstance(answer, dict) or not isinstance(answer.get("data"), list):
        return answer
    return {"data": [_decoded(item) for item in answer["data"] if isinstance(item, dict)]}


def _decoded(item: dict[str, Any]) -> dict[str, Any]:
    encoded, url = item.get("b64_json"), item.get("url")
    if not isinstance(url, str):
        url = None
    if not encoded and _is_inline(url):
        encoded, url = url, None
    if not encoded or not isinstance(encoded, str):
        return {"url": url}
    try:
        packed = re.sub(r"\s", "", encoded.rpartition(",")[2])
        return {"b64_json": base64.b64decode(packed, validate=True)}
    except ValueError:  # binascii.Error is one; so is what text outside of ASCII raises
        return {"url": url}


def _is_inline(url: object) -> bool:
    return isinstance(url, str) and url.startswith("data:")


class ModelEntry(Wire):
    """One line of `GET models`."""

    id: str
    created: float | None = None
    owned_by: str | None = None


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
    def parse(cls, body: bytes, hide: Callable[[str], str] = str) -> ErrorDetail:
        """Read an error body; never raises. `hide` takes secrets out of a text, before that is cut.

        Known shapes: OpenAI's `{"error": {message, type, code, param}}`, Comfy.org's `{"error": str, "message": str}`,
        stable-diffusion.cpp's `{"error": str}`, FastAPI's `{"detail": ...}`, and text or HTML.
        """
        try:
            words = _words_of(json.loads(body))
        except (ValueError, RecursionError):
            words = {"message": _text_of(body)}
        return cls(**{name: shortened(hide(text)) for name, text in words.items()})


def _words_of(answer: object) -> dict[str, str]:
    outer = answer if isinstance(answer, dict) else {"detail": answer}
    inner = outer.get("error")
    fields = inner if isinstance(inner, dict) else outer
    words = {name: fields.get(name) for name in ("message", "type", "code", "param")}
    words["message"] = words["message"] or outer.get("detail") or inner
    return {name: _as_text(value) for name, value in words.items()}


def _as_text(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def _text_of(body: bytes) -> str:
    text = body.decode("utf-8", errors="replace").strip()
    if text.startswith(("{", "[")):
        return ""  # a piece of JSON tells nobody anything
    if "<" not in text:
        return text
    title = re.search(r"<title[^<>]*>([^<]*[^<\s])", text, re.IGNORECASE)
    return html.unescape(title.group(1) if title else re.sub(r"<[^<>]*>", " ", text))


def shortened(text: str, limit: int = MAX_DETAIL_CHARACTERS) -> str:
    """One printable line of at most `limit` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"

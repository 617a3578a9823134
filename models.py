"""The wire of the OpenAI Images API: requests, responses and error bodies. (The image models are in `image_models`.)

Everything that crosses HTTP is one of these frozen pydantic models; nothing here does I/O or reads the environment.
"""

from __future__ import annotations

import base64
import codecs
import html
import json
import re
from collections.abc import Callable
from typing import Any

import pydantic
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

if tuple(map(int, pydantic.VERSION.split(".")[:2])) < (2, 9):  # which would hand on base64 as if it were the image
    raise ImportError(
        f"openai-dalle needs pydantic 2.9 or later; this is {pydantic.VERSION}. Run ComfyUI's own Python with "
        "-m pip install --upgrade pydantic, and restart ComfyUI."
    )

MAX_DETAIL_CHARACTERS = 400  # of a server's own words in our messages: enough for a sentence, too little for a page
# Of a response. Its images need a few, and a prompt that is repeated with each has 32,000 characters at most; millions
# of them would unfold to gigabytes of objects.
MAX_COMMAS = 500_000
MAX_ESCAPES = 100_000  # of a response for json.loads; texts need a few, and images none
MAX_PICTURES = 1000  # of a response: each becomes an object, and a node asks for 8

URL_SAFE_TO_PLAIN = bytes.maketrans(b"-_", b"+/")  # the two alphabets of base64 (RFC 4648)


class Wire(BaseModel):
    """What all wire types share: immutable, and tolerant of fields that a server adds."""

    # Hidden input: a server may repeat our key in a response that does not validate.
    model_config = ConfigDict(frozen=True, extra="ignore", val_json_bytes="base64", hide_input_in_errors=True)


class ImageRequest(Wire):
    """The text fields of `images/generations` and `images/edits`; a field that is None is not sent."""

    prompt: str
    model: str | None
    n: int
    size: str
    quality: str | None = None
    style: str | None = None
    response_format: str | None = None

    def fields(self) -> dict[str, str | int]:
        """The fields to send: never a null, which some servers refuse."""
        return self.model_dump(exclude_none=True)

    def replacing(self, field: str, value: str | None) -> ImageRequest:
        """The same request with another value in one optional field; None leaves the field out."""
        return self.model_copy(update={field: value})


class Picture(Wire):
    """One image of a response: its bytes, or where to download it."""

    b64_json: bytes | None = Field(default=None, repr=False)
    url: str | None = None


class ImagesResponse(Wire):
    """The body of a successful response."""

    data: tuple[Picture, ...] = Field(max_length=MAX_PICTURES)

    @classmethod
    def parse(cls, body: bytes | bytearray) -> ImagesResponse:
        """Read a response's JSON, decoding base64 while parsing.

        What that fast path does not know takes a second, lenient one: wrapped base64, `data:` URLs, broken texts, a
        body that breaks off. There a broken image comes out empty, and does not cost the user the others.
        Raises ValueError (pydantic's ValidationError is one) or RecursionError for anything else.
        """
        if body.count(b",") > MAX_COMMAS:
            raise ValueError("there is more in it than images")
        try:
            answer = cls.model_validate_json(body)
        except ValidationError:
            return cls._parse_leniently(body)
        if any(_is_inline(picture.url) for picture in answer.data):
            return cls._parse_leniently(body)
        return answer

    @classmethod
    def _parse_leniently(cls, body: bytes | bytearray) -> ImagesResponse:
        answer = _loosely_read(body)
        items = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(items, list) or len(items) > MAX_PICTURES:
            raise ValueError("it has no list of images")
        return cls(data=tuple(_picture(item) for item in items if isinstance(item, dict)))


def _loosely_read(body: bytes | bytearray) -> Any:
    """The JSON of a body that may break off, or have a broken character in a text: half an emoji, a wrong byte."""
    try:
        return from_json(body, cache_strings=False, allow_partial=True)
    except ValueError:
        # json.loads takes seconds for a long text with escapes, and stops every thread meanwhile.
        if body.count(b"\\") > MAX_ESCAPES:
            raise
        # As Latin-1 any byte is a character, and takes one byte. Base64 and addresses are ASCII.
        return json.loads(body.removeprefix(codecs.BOM_UTF8).decode("latin-1"), strict=False)


def _picture(item: dict[str, Any]) -> Picture:
    """One item of `data`, whatever is wrong with it."""
    encoded, url = item.get("b64_json"), item.get("url")
    if not isinstance(url, str):
        url = None
    if not encoded and _is_inline(url):
        encoded, url = url, None
    if not encoded or not isinstance(encoded, str):
        return Picture(url=url)
    try:
        # What precedes a comma is the head of a data: URL. `translate` drops white space and padding without holding up
        # other threads for long, as a regular expression would.
        packed = encoded.rpartition(",")[2].encode("ascii").translate(URL_SAFE_TO_PLAIN, b" \t\r\n=")
        return Picture(b64_json=base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True))
    except ValueError:  # binascii.Error is one, and UnicodeEncodeError
        return Picture(url=url)


def _is_inline(url: object) -> bool:
    return isinstance(url, str) and url[:5].lower() == "data:"


class ModelEntry(Wire):
    """One line of `GET models`; the last two fields are what Xinference and museq say about the kind of a model."""

    id: str
    created: float | None = None
    owned_by: str | None = None
    model_type: str | None = None
    modality: str | None = None


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
    def parse(cls, body: bytes, hide: Callable[[str], str] = str, prompt: str = "") -> ErrorDetail:
        """Read an error body; never raises.

        `hide` takes secrets out of a text, before that is cut short. `prompt` is taken out of the message: the words of
        a user must not decide how an error is read.
        Known shapes: OpenAI's `{"error": {message, type, code, param}}`, Comfy.org's `{"error": str, "message": str}`,
        stable-diffusion.cpp's `{"error": str}`, FastAPI's `{"detail": ...}`, and text or HTML.
        """
        try:
            words = _words_of(json.loads(body))
        except (ValueError, RecursionError):
            words = {"message": _text_of(body)}
        for name in ("message", "code"):
            words[name] = _without_prompt(words.get(name, ""), prompt)
        return cls(
            message=shortened(hide(words["message"])),
            type=shortened(hide(words.get("type", ""))),
            code=shortened(hide(words["code"])),
            param=shortened(hide(words.get("param", ""))),
        )


def _words_of(answer: object) -> dict[str, str]:
    outer = answer if isinstance(answer, dict) else {"detail": answer}
    inner = outer.get("error")
    fields = inner if isinstance(inner, dict) else outer
    message = fields.get("message")
    if not message:
        detail = outer.get("detail")
        if isinstance(detail, list):
            return _words_of_fastapi(detail)
        message = detail or inner
    words = {"message": _as_text(message)}
    for name in ("type", "code", "param"):
        words[name] = _as_text(fields.get(name))
    if isinstance(inner, str) and message is not inner and not words["code"]:
        words["code"] = inner  # Comfy.org's short name of the problem
    return words


def _words_of_fastapi(problems: list[object]) -> dict[str, str]:
    """FastAPI's list of problems: where each is and what it is, not its `input`, which repeats the whole request."""
    messages: list[str] = []
    params: list[str] = []
    for problem in problems:
        if isinstance(problem, dict):
            place = problem.get("loc")
            parts = [str(part) for part in place] if isinstance(place, list) else []
            params.extend(parts[-1:])
            messages.append(": ".join(filter(None, [".".join(parts), _as_text(problem.get("msg"))])))
        else:
            messages.append(_as_text(problem))
    return {"message": "; ".join(filter(None, messages)), "param": params[0] if params else ""}


def _without_prompt(message: str, prompt: str) -> str:
    """The message without the prompt, however it is escaped, where it stands as words of its own."""
    for spelling in _spellings(prompt.strip()):
        if spelling and spelling in message:
            message = re.sub(rf"(?<!\w){re.escape(spelling)}(?!\w)", "…", message)
    return message


def _spellings(prompt: str) -> list[str]:
    """A text plain, as JSON and Python write it, and in JSON inside of JSON, as gateways pass it on; longest first."""
    spellings = {prompt}
    for escaped in (json.dumps(prompt)[1:-1], json.dumps(prompt, ensure_ascii=False)[1:-1], repr(prompt)[1:-1]):
        spellings |= {escaped, json.dumps(escaped)[1:-1]}
    return sorted(spellings, key=len, reverse=True)


def _as_text(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def _text_of(body: bytes) -> str:
    text = body.decode("utf-8", errors="replace").strip()
    if text.startswith(("{", "[")):
        return ""  # a piece of JSON is no help to a reader
    if "<" not in text:
        return text
    title = re.search(r"<title[^<>]*>([^<]*[^<\s])", text, re.IGNORECASE)
    return html.unescape(title.group(1) if title else re.sub(r"<[^<>]*>", " ", text))


def shortened(text: str, limit: int = MAX_DETAIL_CHARACTERS) -> str:
    """One printable line of at most `limit` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"

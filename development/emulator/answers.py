"""What goes back when all is well, and the ways to spoil it that need no network: bytes in, bytes out."""

from __future__ import annotations

import base64
import dataclasses
import json
import struct
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .contract import Job
from .errors import Refusal, body_of
from .faults import Fault
from .flavours import Flavour
from .studio import Picture

# US dollars for a picture of 1024x1024, and the credits that Comfy.org sells for one dollar.
PRICES = {"low": 0.006, "medium": 0.053, "high": 0.211, "auto": 0.053}
CREDITS_PER_DOLLAR = 211


@dataclass(frozen=True)
class Answer:
    """A response in one piece; `pictures` is how many it bills."""

    body: bytes
    media_type: str = "application/json"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pictures: int = 0


def json_answer(data: Any, **more: Any) -> Answer:
    """Return `data` as a JSON answer."""
    return Answer(json.dumps(data).encode(), **more)


def picture_item(picture: Picture, how: str, url: str, flavour: Flavour) -> dict[str, Any]:
    """Return one item of `data`. `how` is "b64" or anything else for `url`."""
    if how == "b64":
        return {**flavour.extras, "b64_json": base64.b64encode(picture.data).decode()}
    return {**flavour.extras, "url": url}


def images_answer(job: Job, items: list[dict[str, Any]], size: tuple[int, int], flavour: Flavour) -> Answer:
    """Return the answer to a job whose pictures are `items`."""
    body: dict[str, Any] = {"created": int(time.time()), "data": items}
    if flavour.strict and not job.model.startswith("dall-e"):
        body |= {
            "background": "transparent" if job.transparent else "opaque",
            "output_format": (job.picture_format or flavour.picture_format).lower(),
            "quality": "low" if job.quality == "auto" else job.quality,
            "size": f"{size[0]}x{size[1]}",
            "usage": _usage(job, size, len(items)),
        }
    headers = {}
    if flavour.auth == "comfy":
        headers["X-Comfy-Credits-Used"] = f"{PRICES.get(job.quality, 0.211) * CREDITS_PER_DOLLAR * len(items):.2f}"
    return json_answer(body, headers=headers, pictures=len(items))


def _usage(job: Job, size: tuple[int, int], count: int) -> dict[str, Any]:
    words, pixels = len(job.prompt.split()), size[0] * size[1]
    output = count * pixels // 5000
    return {
        "input_tokens": words,
        "input_tokens_details": {"text_tokens": words, "image_tokens": 0},
        "output_tokens": output,
        "total_tokens": words + output,
    }


def refusal_answer(refusal: Refusal, shape: str) -> Answer:
    """Return a refusal as the server of that error shape words it."""
    return json_answer(body_of(refusal, shape), status=refusal.status, headers=refusal.headers)


def fault_answer(fault: Fault, shape: str) -> Answer:
    """Return the answer of a fault of the REFUSAL moment."""
    refusal = fault.refusal()
    page = _PAGES.get(fault.name)
    if page is not None:
        return dataclasses.replace(page(refusal), headers=refusal.headers)
    if fault.name == "redirect":
        location = str(fault.details.get("location", "/elsewhere"))
        return Answer(b"", "text/plain", int(fault.details.get("status", 307)), {"Location": location})
    if fault.name == "custom":
        return _custom(fault)
    return refusal_answer(refusal, shape)


def _custom(fault: Fault) -> Answer:
    body = fault.details.get("body", b"")
    headers = dict(fault.details.get("headers", {}))
    status = int(fault.details.get("status", 200))
    if isinstance(body, (bytes, str)):
        data = body if isinstance(body, bytes) else body.encode()
        return Answer(data, headers.pop("Content-Type", "text/plain"), status, headers)
    return json_answer(body, status=status, headers=headers)


def _html(title: str, status: int) -> Answer:
    page = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
        f"<center><h1>{title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
    return Answer(page.encode(), "text/html", status)


_PAGES: Mapping[str, Callable[[Refusal], Answer]] = {
    "route_missing": lambda refusal: Answer(refusal.message.encode(), "text/plain", refusal.status),
    "bad_gateway": lambda refusal: _html(f"{refusal.status} {refusal.message}", refusal.status),
    "gateway_timeout": lambda refusal: _html(f"{refusal.status} {refusal.message}", refusal.status),
}


def spoil(answer: Answer, fault: Fault | None) -> Answer:
    """Return the answer as the fault leaves it; most faults leave its bytes alone."""
    spoiler = _SPOILERS.get(fault.name) if fault else None
    return spoiler(answer) if spoiler else answer


def _truncate(answer: Answer) -> Answer:
    return dataclasses.replace(answer, body=answer.body[: len(answer.body) * 2 // 3])


_SPOILERS: Mapping[str, Callable[[Answer], Answer]] = {
    "html": lambda answer: _html("Sign in to continue", 200),
    "empty": lambda answer: json_answer({"created": int(time.time()), "data": []}),
    "wrong_shape": lambda answer: json_answer({"result": "ok", "images": 1}, pictures=answer.pictures),
    "truncated_json": _truncate,
}


def spoil_picture(picture: Picture, fault: Fault | None) -> Picture:
    """Return the picture as the fault leaves it."""
    if fault is None or fault.name not in _BAD_PICTURES:
        return picture
    media_type, data = _BAD_PICTURES[fault.name]
    return dataclasses.replace(picture, data=data, media_type=media_type, shown=False)


def spoil_item(item: dict[str, Any], fault: Fault | None) -> dict[str, Any]:
    """Return an item of `data` as the fault leaves it."""
    if fault is not None and fault.name == "invalid_base64":
        return {"b64_json": "%%% this is not base64 %%%"}
    if fault is not None and fault.name == "file_path_url":
        return {"url": "/root/.xinference/image/f3b1c2d4.jpg"}
    return item


def _huge_png() -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _svg_bomb() -> bytes:
    entities = ['<!ENTITY a0 "ha">']
    entities += [f'<!ENTITY a{level} "{f"&a{level - 1};" * 10}">' for level in range(1, 10)]
    return (
        f'<?xml version="1.0"?><!DOCTYPE svg [{"".join(entities)}]>'
        '<svg xmlns="http://www.w3.org/2000/svg" width="512" height="512"><text>&a9;</text></svg>'
    ).encode()


_BAD_PICTURES: Mapping[str, tuple[str, bytes]] = {
    "not_an_image": ("image/png", b"This is a line of text, and not a picture.\n" * 4),
    "svg_bomb": ("image/svg+xml", _svg_bomb()),
    "huge_png": ("image/png", _huge_png()),
}

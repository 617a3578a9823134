"""What can go wrong on demand, and the queue of what shall go wrong next.

A fault of `STATUSES` is an error status and costs nothing. The others strike after the work was done and, but for
those of `FREE`, billed: some are bytes (here), some a way to send them (`delivery`). "drop_before" leaves the body
unread.
"""

from __future__ import annotations

import dataclasses
import io
import random
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web
from PIL import Image

from .wire import Refusal

HTML: Final = {"Content-Type": "text/html"}

STATUSES: Final[Mapping[str, Refusal]] = {
    "unauthorized": Refusal(401, "Incorrect API key provided.", code="invalid_api_key"),
    "payment_required": Refusal(402, "Payment Required: Please add credits to your account to use this node."),
    "verification": Refusal(403, "Your organization must be verified to use the model. Click on Verify Organization."),
    "model_not_found": Refusal(404, "The model does not exist or you do not have access.", code="model_not_found"),
    "route_missing": Refusal(404, "", text="404 page not found"),
    "missing_picture": Refusal(404, "No such picture."),
    "expired_picture": Refusal(403, "The signature of this URL has expired."),
    "timeout_status": Refusal(408, "The request did not arrive in time."),
    "conflict": Refusal(409, "The resource is locked by another request."),
    "too_large": Refusal(413, "Maximum content size limit exceeded."),
    "rate_limit": Refusal(429, "Rate limit reached for images.", code="rate_limit_exceeded"),
    "quota": Refusal(429, "You exceeded your current quota.", code="insufficient_quota"),
    "moderation": Refusal(400, "Your request was rejected by our safety system.", code="moderation_blocked"),
    "billing_limit": Refusal(400, "Billing hard limit has been reached.", code="billing_hard_limit_reached"),
    "unknown_parameter": Refusal(400, "Unknown parameter: 'size'.", "size", "unknown_parameter"),
    "server_error": Refusal(500, "The server had an error while processing your request."),
    "bad_gateway": Refusal(502, "", headers=HTML, text="<html><h1>502 Bad Gateway</h1>nginx</html>"),
    "unavailable": Refusal(503, "The engine is currently overloaded."),
    "gateway_timeout": Refusal(504, "", headers=HTML, text="<html><h1>504 Gateway Time-out</h1>nginx</html>"),
    "redirect": Refusal(307, "", headers={"Location": "/elsewhere"}, text=""),
}
SPOILT_BODIES: Final[Mapping[str, Any]] = {
    "empty": {"created": 1, "data": []},
    "wrong_shape": {"result": "ok", "images": 1},
    "invalid_base64": {"created": 1, "data": [{"b64_json": "%%% this is not base64 %%%"}]},
    "file_path_url": {"created": 1, "data": [{"url": "/root/.xinference/image/f3b1c2d4.jpg"}]},
}
FREE: Final = ("html", "empty")


def _huge_png() -> bytes:
    """A tiny file that claims to be 100,000 pixels wide and high."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def _svg_bomb() -> bytes:
    """An SVG whose entities expand a billion times."""
    entities = [f'<!ENTITY a{level} "{f"&a{level - 1};" * 10}">' for level in range(1, 10)]
    head = f'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a0 "ha">{"".join(entities)}]>'
    return f'{head}<svg xmlns="http://www.w3.org/2000/svg" width="512" height="512"><text>&a9;</text></svg>'.encode()


BAD_PICTURES: Final[Mapping[str, tuple[str, bytes]]] = {
    "not_an_image": ("image/png", b"This is a line of text, and not a picture.\n" * 4),
    "svg_bomb": ("image/svg+xml", _svg_bomb()),
    "huge_png": ("image/png", _huge_png()),
}
WAYS: Final = ("none", "slow", "html", "truncated_json", "drip", "endless_body")
DROPS: Final = ("drop_before", "drop_after", "drop_during")
FAULTS: Final = (*STATUSES, *SPOILT_BODIES, *BAD_PICTURES, *WAYS, *DROPS)

POSTS: Final = ("generations", "edits")
# The routes of the faults that not every route has. A list of models has none: it leads to what fails.
ROUTES: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("missing_picture", "expired_picture"), ("pictures",)),
    **dict.fromkeys(("truncated_json", *SPOILT_BODIES), POSTS),
}


@dataclass(frozen=True)
class Fault:
    """Something to go wrong: a name of `FAULTS` on a route, `times` times (None: for good).

    `delay_s`: seconds to wait before it strikes. A fault of `STATUSES` adds `headers`, and `Retry-After` with
    `retry_after_s`. "drip" sends a byte every `interval_s`. Raises ValueError for an unknown name.
    """

    name: str
    route: str = "any"
    times: int | None = 1
    delay_s: float = 0.0
    retry_after_s: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    interval_s: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in FAULTS:
            raise ValueError(f"unknown fault {self.name!r}; known are {', '.join(FAULTS)}")

    def applies_to(self, route: str) -> bool:
        """Whether the fault belongs to requests for `route`."""
        return route in ROUTES.get(self.name, (*POSTS, "pictures")) and self.route in ("any", route)

    def refusal(self) -> Refusal:
        """Return the error of a fault of `STATUSES`."""
        refusal = STATUSES[self.name]
        headers = {**refusal.headers, **self.headers}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        return dataclasses.replace(refusal, headers=headers)


NO_FAULT: Final = Fault("none")


class FaultQueue:
    """What goes wrong next: faults in the order they were added, then those drawn by chance."""

    def __init__(self) -> None:
        self._pending: list[Fault] = []
        self.clear()

    def add(self, fault: Fault) -> None:
        """Add a fault behind the ones that wait."""
        self._pending += [fault] * (fault.times or 1)

    def at_random(self, faults: Sequence[Fault], probability: float, seed: int) -> None:
        """Let requests fail by chance, the same ones for the same seed and order of arrival."""
        self._choices, self._probability = tuple(faults), probability
        self._random = random.Random(seed)  # noqa: S311 - chance for tests, not for secrets

    def take(self, route: str) -> Fault:
        """Return what goes wrong with a request for `route`, and count it off."""
        for fault in self._pending:
            if fault.applies_to(route):
                if fault.times is not None:
                    self._pending.remove(fault)
                return fault
        choices = [fault for fault in self._choices if fault.applies_to(route)]
        if choices and self._random.random() < self._probability:
            return self._random.choice(choices)
        return NO_FAULT

    def clear(self) -> None:
        """Let nothing more go wrong."""
        self._pending = []
        self.at_random((), 0, 0)


def spoilt(answer: web.Response, name: str) -> web.Response:
    """Return a good answer as the fault of that name leaves it."""
    if name == "html":
        return web.Response(text="<html><h1>Sign in to continue</h1></html>", content_type="text/html")
    if name == "truncated_json" and isinstance(answer.body, bytes):
        return web.Response(body=answer.body[: len(answer.body) * 2 // 3], content_type=answer.content_type)
    if name in SPOILT_BODIES:
        return web.json_response(SPOILT_BODIES[name])
    return answer

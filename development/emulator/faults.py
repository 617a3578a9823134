"""What can go wrong on demand, and the queue of what shall go wrong next.

A fault of `STATUSES` is an error status and costs nothing. The others strike after the work was done and, but for
"html" and "empty", billed: some are bytes (here), some a way to send them (`delivery`). "drop_before" leaves the body
unread.
"""

from __future__ import annotations

import dataclasses
import random
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from .wire import Answer, Refusal, json_answer

POSTS: Final = frozenset({"generations", "edits"})
PICTURES: Final = frozenset({"pictures"})
EVERYWHERE: Final = POSTS | PICTURES | {"models"}
DETAILS: Final = {"delay_s", "retry_after_s", "headers", "status", "message", "param", "body", "interval_s", "declared"}
HTML: Final = {"Content-Type": "text/html"}

# `Fault("status", status=418, body=..., headers=...)` is any answer at all; the others are those that servers give.
STATUSES: Final[Mapping[str, Refusal]] = {
    "status": Refusal(500, "Something went wrong."),
    "custom": Refusal(500, "Something went wrong."),
    "unauthorized": Refusal(401, "Incorrect API key provided.", code="invalid_api_key"),
    "payment_required": Refusal(402, "Payment Required: Please add credits to your account to use this node."),
    "verification": Refusal(403, "Your organization must be verified to use the model. Click on Verify Organization."),
    "model_not_found": Refusal(404, "The model does not exist or you do not have access.", code="model_not_found"),
    "route_missing": Refusal(404, "", body="404 page not found"),
    "missing_picture": Refusal(404, "No such picture."),
    "expired_picture": Refusal(403, "The signature of this URL has expired."),
    "method_not_allowed": Refusal(405, "Method Not Allowed"),
    "timeout_status": Refusal(408, "Request timed out.", kind="timeout"),
    "conflict": Refusal(409, "The resource is locked by another request."),
    "too_large": Refusal(413, "Maximum content size limit exceeded."),
    "rate_limit": Refusal(429, "Rate limit reached for images.", code="rate_limit_exceeded", kind="requests"),
    "quota": Refusal(429, "You exceeded your current quota.", None, "insufficient_quota", "insufficient_quota"),
    "moderation": Refusal(
        400,
        "Your request was rejected by our safety system.",
        None,
        "moderation_blocked",
        "image_generation_user_error",
    ),
    "billing_limit": Refusal(400, "Billing hard limit has been reached.", None, "billing_hard_limit_reached"),
    "unknown_parameter": Refusal(400, "Unknown parameter: '{param}'.", "response_format", "unknown_parameter"),
    "server_error": Refusal(500, "The server had an error while processing your request.", kind="server_error"),
    "bad_gateway": Refusal(502, "", headers=HTML, body="<html><h1>502 Bad Gateway</h1>nginx</html>"),
    "unavailable": Refusal(503, "The engine is currently overloaded.", kind="server_error"),
    "gateway_timeout": Refusal(504, "", headers=HTML, body="<html><h1>504 Gateway Time-out</h1>nginx</html>"),
    "redirect": Refusal(307, "", headers={"Location": "/elsewhere"}, body=""),
}
# The routes of every fault: what a list of models is spared, say, or what can happen to a picture alone.
FAULTS: Final[Mapping[str, frozenset[str]]] = {
    **dict.fromkeys(STATUSES, EVERYWHERE),
    **dict.fromkeys(("missing_picture", "expired_picture"), PICTURES),
    **dict.fromkeys(("html", "slow", "drip", "endless_body", "drop_before", "drop_after", "drop_during"), EVERYWHERE),
    **dict.fromkeys(("empty", "wrong_shape", "truncated_json"), POSTS | {"models"}),
    **dict.fromkeys(("not_an_image", "svg_bomb", "huge_png"), POSTS | PICTURES),
    **dict.fromkeys(("invalid_base64", "file_path_url", "huge_base64"), POSTS),
}


class Fault:
    """Something to go wrong: a name of `FAULTS` on a route, `times` times (None: for good).

    Every fault takes `delay_s`, seconds to wait before it strikes; one of `STATUSES` takes `status`, `message`,
    `param`, `body`, `headers` and `retry_after_s`, "drip" takes `interval_s`, and "huge_base64" takes `declared` (it
    then sends its length ahead). Raises ValueError for an unknown name, route or detail.
    """

    def __init__(self, name: str, route: str = "any", times: int | None = 1, **details: Any) -> None:
        if name not in FAULTS:
            raise ValueError(f"unknown fault {name!r}; known are {', '.join(FAULTS)}")
        if route != "any" and route not in FAULTS[name]:
            raise ValueError(f"fault {name!r} has no route {route!r}; it has {', '.join(sorted(FAULTS[name]))}")
        if not DETAILS.issuperset(details):
            raise ValueError(f"fault {name!r} takes {sorted(DETAILS)}, not {sorted(details)}")
        self.name = name
        self.route = route
        self.times = times
        self.delay_s = float(details.get("delay_s", 1 if name == "slow" else 0))
        self.details = details

    def __repr__(self) -> str:
        return f"Fault({self.name!r}, route={self.route!r}, times={self.times}, **{self.details!r})"

    def applies_to(self, route: str) -> bool:
        """Whether the fault belongs to requests for `route`."""
        return route in FAULTS[self.name] and self.route in ("any", route)

    def refusal(self) -> Refusal:
        """Return the error of a fault of `STATUSES`."""
        refusal = STATUSES[self.name]
        headers = {**refusal.headers, **self.details.get("headers", {})}
        if "retry_after_s" in self.details:
            headers["Retry-After"] = str(self.details["retry_after_s"])
        given = {name: self.details[name] for name in ("status", "message", "param", "body") if name in self.details}
        refusal = dataclasses.replace(refusal, headers=headers, **given)
        return dataclasses.replace(refusal, message=refusal.message.replace("{param}", str(refusal.param)))


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

    def take(self, route: str) -> Fault | None:
        """Return what goes wrong with a request for `route`, and count it off."""
        for fault in self._pending:
            if fault.applies_to(route):
                if fault.times is not None:
                    self._pending.remove(fault)
                return fault
        choices = [fault for fault in self._choices if fault.applies_to(route)]
        if choices and self._random.random() < self._probability:
            return self._random.choice(choices)
        return None

    def clear(self) -> None:
        """Let nothing more go wrong."""
        self._pending = []
        self.at_random((), 0, 0)


def spoil_answer(answer: Answer, name: str) -> Answer:
    """Return a good answer as the fault of that name leaves it."""
    if name == "html":
        return Answer(b"<html><h1>Sign in to continue</h1></html>", "text/html")
    if name == "empty":
        return json_answer({"created": 1, "data": []})
    if name == "wrong_shape":
        return json_answer({"result": "ok", "images": 1}, pictures=answer.pictures)
    if name == "truncated_json":
        return dataclasses.replace(answer, body=answer.body[: len(answer.body) * 2 // 3])
    return answer


def spoil_item(item: dict[str, Any], name: str) -> dict[str, Any]:
    """Return an item of `data` as the fault of that name leaves it."""
    if name == "invalid_base64":
        return {"b64_json": "%%% this is not base64 %%%"}
    return {"url": "/root/.xinference/image/f3b1c2d4.jpg"} if name == "file_path_url" else item


def _huge_png() -> bytes:
    """A tiny file that claims to be 100,000 pixels wide and high."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


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

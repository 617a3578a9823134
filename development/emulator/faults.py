"""Everything that can go wrong on demand, in one table, and the queue of what shall go wrong next.

A fault strikes at one of four moments, which decides whether it is billed and what the client has sent:
ARRIVAL (the body is unread), REFUSAL (an error status, nothing done), ANSWER (the work was done, and the
answer goes wrong) and PICTURE (the answer is well formed, and what it holds or points to is not).
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from .errors import Refusal

POSTS: Final = frozenset({"generations", "edits"})
PICTURES: Final = frozenset({"pictures"})
EVERYWHERE: Final = POSTS | PICTURES | {"models"}

Moment = Enum("Moment", ["ARRIVAL", "REFUSAL", "ANSWER", "PICTURE"])


@dataclass(frozen=True)
class Kind:
    """One row of the table: what happens, when, where, and which details it takes."""

    summary: str
    moment: Moment
    status: int = 200
    message: str = ""
    type: str = "invalid_request_error"
    code: str | None = None
    routes: frozenset[str] = EVERYWHERE
    details: tuple[str, ...] = ()


def _refusal(
    status: int, summary: str, message: str, *, type: str = "invalid_request_error", code: str | None = None
) -> Kind:
    details = ("retry_after_s", "headers", "param", "message")
    return Kind(summary, Moment.REFUSAL, status, message, type, code, details=details)


def _spoilt(summary: str, *, routes: frozenset[str] = EVERYWHERE, details: tuple[str, ...] = ()) -> Kind:
    return Kind(summary, Moment.ANSWER, routes=routes, details=details)


def _bad_picture(summary: str, *, routes: frozenset[str] = POSTS | PICTURES) -> Kind:
    return Kind(summary, Moment.PICTURE, routes=routes)


FAULTS: Final[Mapping[str, Kind]] = {
    "unauthorized": _refusal(401, "401: the key is refused.", "Incorrect API key provided.", code="invalid_api_key"),
    "payment_required": _refusal(
        402, "402: no credits left.", "Payment Required: Please add credits to your account to use this node."
    ),
    "verification": _refusal(
        403,
        "403: the organization is not verified.",
        "Your organization must be verified to use the model. Please go to the organization's settings "
        "and click on Verify Organization.",
    ),
    "model_not_found": _refusal(
        404,
        "404: no such model.",
        "The model does not exist or you do not have access to it.",
        code="model_not_found",
    ),
    "route_missing": _refusal(404, "404 as plain text: a server without this route.", "404 page not found"),
    "method_not_allowed": _refusal(405, "405: the route does not take this method.", "Method Not Allowed"),
    "timeout_status": _refusal(408, "408: the server did not want to wait.", "Request timed out.", type="timeout"),
    "conflict": _refusal(409, "409: another request is in the way.", "The resource is locked by another request."),
    "too_large": _refusal(413, "413: the upload is too large.", "Maximum content size limit exceeded."),
    "rate_limit": _refusal(
        429,
        "429: too many requests; `retry_after_s` and `headers` say when to come back.",
        "Rate limit reached for images per minute. Please try again later.",
        type="requests",
        code="rate_limit_exceeded",
    ),
    "quota": _refusal(
        429,
        "429 that no waiting cures: the quota is used up.",
        "You exceeded your current quota, please check your plan and billing details.",
        type="insufficient_quota",
        code="insufficient_quota",
    ),
    "moderation": _refusal(
        400,
        "400: the safety system refuses the request.",
        "Your request was rejected by the safety system. If you believe this is an error, contact support.",
        type="image_generation_user_error",
        code="moderation_blocked",
    ),
    "billing_limit": _refusal(
        400,
        "400: the hard limit of the bill is reached.",
        "Billing hard limit has been reached.",
        type="billing_limit_user_error",
        code="billing_hard_limit_reached",
    ),
    "unknown_parameter": _refusal(
        400, "400: the field `param` is unknown.", "Unknown parameter: '{param}'.", code="unknown_parameter"
    ),
    "server_error": _refusal(
        500,
        "500: the server failed.",
        "The server had an error while processing your request.",
        type="server_error",
    ),
    "bad_gateway": _refusal(502, "502: a proxy's HTML page.", "Bad Gateway"),
    "unavailable": _refusal(503, "503: overloaded.", "The engine is currently overloaded.", type="server_error"),
    "gateway_timeout": _refusal(504, "504: a proxy's HTML page.", "Gateway Time-out"),
    "missing_picture": Kind(
        "404 for a picture.", Moment.REFUSAL, 404, "No such picture.", routes=PICTURES, details=("headers",)
    ),
    "expired_picture": Kind(
        "403 for a picture: its URL has expired.",
        Moment.REFUSAL,
        403,
        "The signature of this URL has expired.",
        routes=PICTURES,
        details=("headers",),
    ),
    "custom": Kind(
        "An answer made of `status`, `body` and `headers`.",
        Moment.REFUSAL,
        details=("status", "body", "headers"),
    ),
    "redirect": Kind("307 to `location`.", Moment.REFUSAL, 307, details=("location", "status")),
    "html": _spoilt("200 with an HTML page instead."),
    "empty": _spoilt("An answer without pictures: data is [].", routes=POSTS | {"models"}),
    "wrong_shape": _spoilt("Valid JSON without data.", routes=POSTS | {"models"}),
    "truncated_json": _spoilt("JSON that ends in the middle.", routes=POSTS | {"models"}),
    "slow": _spoilt("The right answer, `delay_s` later.", details=("delay_s",)),
    "drip": _spoilt("The right answer, one byte every `interval_s` (1).", details=("interval_s",)),
    "endless_body": _spoilt("A body that never ends, without a length."),
    "huge_base64": _spoilt(
        "One JSON with `total_bytes` (2 GB) of base64; `declared` sends its length ahead.",
        routes=POSTS,
        details=("total_bytes", "declared"),
    ),
    "drop_before": Kind("The connection is reset; the body stays unread.", Moment.ARRIVAL),
    "drop_after": _spoilt("The request is read and billed, then the connection is reset."),
    "drop_during": _spoilt("Half of the answer, then the connection closes."),
    "invalid_base64": _bad_picture("b64_json that is not base64.", routes=POSTS),
    "not_an_image": _bad_picture("Text where the picture should be."),
    "svg_bomb": _bad_picture("An SVG whose entities expand a billion times."),
    "huge_png": _bad_picture("A tiny PNG that claims 100000 x 100000 pixels."),
    "file_path_url": _bad_picture("A path on the server instead of a URL.", routes=POSTS),
}


class Fault:
    """Something to go wrong: a name of `FAULTS` on a route, `times` times (None: for good).

    Every fault takes `delay_s`, seconds to wait before it strikes; `FAULTS` names its other details.
    Raises ValueError for an unknown name, route or detail.
    """

    def __init__(self, name: str, route: str = "any", times: int | None = 1, **details: Any) -> None:
        if name not in FAULTS:
            raise ValueError(f"unknown fault {name!r}; known are {', '.join(FAULTS)}")
        self.kind = FAULTS[name]
        if route != "any" and route not in self.kind.routes:
            raise ValueError(
                f"fault {name!r} has no route {route!r}; it has any, {', '.join(sorted(self.kind.routes))}"
            )
        unknown = set(details) - {*self.kind.details, "delay_s"}
        if unknown:
            raise ValueError(f"fault {name!r} takes {self.kind.details}, not {sorted(unknown)}")
        self.name = name
        self.route = route
        self.times = times
        self.details = details

    def __repr__(self) -> str:
        details = "".join(f", {name}={value!r}" for name, value in self.details.items())
        return f"Fault({self.name!r}, route={self.route!r}, times={self.times}{details})"

    def applies_to(self, route: str) -> bool:
        """Whether the fault belongs to requests for `route`."""
        return route in self.kind.routes and self.route in ("any", route)

    def refusal(self) -> Refusal:
        """Return the error of a fault of the REFUSAL moment."""
        headers = dict(self.details.get("headers", {}))
        if "retry_after_s" in self.details:
            headers.setdefault("Retry-After", str(self.details["retry_after_s"]))
        param = self.details.get("param", "response_format" if "{param}" in self.kind.message else None)
        message = self.details.get("message", self.kind.message).replace("{param}", str(param))
        return Refusal(
            self.kind.status, message, kind=self.kind.type, param=param, code=self.kind.code, headers=headers
        )


class FaultQueue:
    """What goes wrong next: faults in the order they were added, then those drawn by chance."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: list[tuple[Fault, int | None]] = []
        self._choices: tuple[Fault, ...] = ()
        self._probability = 0.0
        self._random = random.Random(0)  # noqa: S311 - chance for tests, not for secrets

    def add(self, fault: Fault) -> None:
        """Add a fault behind the ones that wait."""
        with self._lock:
            self._pending.append((fault, fault.times))

    def at_random(self, faults: Sequence[Fault], probability: float, seed: int) -> None:
        """Let requests fail by chance, the same ones for the same seed and order of arrival."""
        with self._lock:
            self._choices, self._probability = tuple(faults), probability
            self._random = random.Random(seed)  # noqa: S311 - chance for tests, not for secrets

    def take(self, route: str) -> Fault | None:
        """Return what goes wrong with a request for `route`, and count it off."""
        with self._lock:
            for place, (fault, left) in enumerate(self._pending):
                if fault.applies_to(route):
                    self._count_off(place, fault, left)
                    return fault
            choices = [fault for fault in self._choices if fault.applies_to(route)]
            if choices and self._random.random() < self._probability:
                return self._random.choice(choices)
            return None

    def _count_off(self, place: int, fault: Fault, left: int | None) -> None:
        if left == 1:
            del self._pending[place]
        elif left is not None:
            self._pending[place] = (fault, left - 1)

    def clear(self) -> None:
        """Let nothing more go wrong."""
        with self._lock:
            self._pending.clear()
            self._choices = ()

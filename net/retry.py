"""When a request is worth a retry, how long to wait for it (pure functions), and the one loop that does so.

The rules are those of the OpenAI SDKs (`x-should-retry`, `retry-after-ms`, `Retry-After` as RFC 9110 section 10.2.3
defines it, else exponential backoff with jitter), with one addition: what can never succeed is never repeated.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TypeVar

from ..errors import CallCancelled, Case, ConnectionFailed, StatusError, duration

T = TypeVar("T")

MAX_RETRIES = 2
MAX_WAIT_S = 120.0  # a server that wants longer is an error to show, not a node to leave waiting
MAX_ELAPSED_S = 600.0  # no new attempt begins after this
FIRST_BACKOFF_S = 0.5


def is_worth_a_retry(err: StatusError | ConnectionFailed, *, repeatable: bool) -> bool:
    """Whether a request can succeed when it is sent again as it is, without being paid for twice.

    `repeatable`: whether it may be sent again although it may have arrived, which a billed request must not.
    Of a server's wishes, `x-should-retry: false` always counts. `true` counts for a status that the table of cases does
    not know: quota, moderation, key, model and other client errors fail again whatever a header says.
    """
    if isinstance(err, ConnectionFailed):
        return err.is_transient and (repeatable or not err.sent)
    asked = err.headers.get("x-should-retry", "").strip().lower()
    if asked == "false":
        return False
    return err.is_transient or (asked == "true" and err.case is Case.UNEXPECTED)


def backoff_s(retry: int, jitter: float) -> float:
    """Seconds to wait before retry number `retry` (from 0); `jitter` is a random number of 0..1."""
    return FIRST_BACKOFF_S * 2.0**retry * (1 - 0.25 * jitter)


def asked_wait_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """The seconds that a server asks to wait, None if it does not.

    Values that make no sense (not a number, negative, infinite, a date out of range) count as not given.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    return seconds if seconds is not None else _until(value, now_s)


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _until(value: str | None, now_s: float) -> float | None:
    try:
        date = parsedate_to_datetime(value or "")
        moment = date if date.tzinfo else date.replace(tzinfo=timezone.utc)
        return max(0.0, (moment - datetime.fromtimestamp(now_s, timezone.utc)).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


@dataclass(frozen=True)
class Retrier:
    """Sends again what is worth it, telling the user why it waits.

    `is_cancelled` says whether the user has cancelled. `pause(seconds)` sleeps, and wakes up when they do. `say` shows
    a line of text for that many seconds; `jitter` gives random numbers of 0..1.
    """

    is_cancelled: Callable[[], bool] = lambda: False
    pause: Callable[[float], object] = field(default_factory=lambda: threading.Event().wait)
    say: Callable[[str, float], None] = lambda text, for_s: None
    jitter: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic

    def run(self, send: Callable[[], T], *, repeatable: bool) -> T:
        """The result of `send()`, called up to 1 + MAX_RETRIES times.

        `repeatable`: see `is_worth_a_retry`. Raises the last error of `send`, or CallCancelled.
        """
        started = self.clock()
        retry = 0
        while True:
            if self.is_cancelled():
                raise CallCancelled("Cancelled before the request was sent.")
            try:
                return send()
            except (StatusError, ConnectionFailed) as err:
                if not is_worth_a_retry(err, repeatable=repeatable):
                    raise
                wait = self._wait_s(err, retry)
                if retry >= MAX_RETRIES or wait > MAX_WAIT_S or self.clock() - started + wait > MAX_ELAPSED_S:
                    raise
                self.say(f"{_reason(err)}, trying again in {duration(wait)}", wait)
            self.pause(wait)
            retry += 1

    def _wait_s(self, err: StatusError | ConnectionFailed, retry: int) -> float:
        """How long to wait; what the server asks for is noted in the error, which may be the one to show."""
        if isinstance(err, StatusError):
            err.wait_s = asked_wait_s(err.headers, time.time())
            if err.wait_s is not None:
                return err.wait_s
        return backoff_s(retry, self.jitter())


def _reason(err: StatusError | ConnectionFailed) -> str:
    if isinstance(err, ConnectionFailed):
        return "No connection"
    return "Rate limited" if err.status_code == 429 else f"The server responded with {err.status_code}"

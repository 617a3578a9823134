"""The policy, as pure functions, and the loop around it, in which nothing sleeps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalle2.errors import ConnectionFailed, StatusError, TimedOut
from dalle2.models import ErrorDetail
from dalle2.net.retry import MAX_ELAPSED_S, Retrier, asked_wait_s, backoff_s, is_worth_a_retry

NOW_S = 1_800_000_000.0
NOW = datetime.fromtimestamp(NOW_S, timezone.utc)


def refused(status: int, code: str = "", **headers: str) -> StatusError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return StatusError(status, ErrorDetail(code=code), headers=named)


@pytest.mark.parametrize(
    ("error", "transient", "if_the_server_says_so"),
    [
        (refused(429), True, True),
        (refused(522), False, True),  # nothing is known of such a status but what the server says
        (refused(504), False, False),  # the response was lost on its way: it may have been paid
        (refused(429, "insufficient_quota"), False, False),
        (refused(503, "model_not_found"), False, False),
        (refused(400, "moderation_blocked"), False, False),
        *((refused(status), False, False) for status in (400, 401, 402, 403, 404, 405, 407, 413, 422, 520, 524, 307)),
    ],
    ids=lambda value: f"{value.case.name} {value.status_code}" if isinstance(value, StatusError) else "",
)
def test_a_server_may_forbid_a_retry_and_seldom_ask_for_one(
    error: StatusError, transient: bool, if_the_server_says_so: bool
) -> None:
    wishes = {"": transient, "maybe": transient, " FALSE ": False, " TRUE ": if_the_server_says_so}
    for wish, expected in wishes.items():
        error.headers["x-should-retry"] = wish
        assert is_worth_a_retry(error, repeatable=False) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": " 4 "}, 4),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=90), usegmt=True)}, 90),
        ({"retry-after": format_datetime(NOW - timedelta(days=1), usegmt=True)}, 0),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, pytest.approx(251_602_300_799 - NOW_S, rel=1e-2)),
    ],
)
def test_what_the_server_asks_for_is_obeyed(headers: dict[str, str], expected: float) -> None:
    assert asked_wait_s(headers, NOW_S) == expected


@pytest.mark.parametrize(("retry_number", "longest"), [(0, 0.5), (1, 1)])
def test_the_backoff_doubles_and_jitters_downwards(retry_number: int, longest: float) -> None:
    assert backoff_s(retry_number, jitter=0) == longest
    assert backoff_s(retry_number, jitter=1) == longest * 0.75


HEADER = st.text() | st.floats().map(str) | st.integers().map(str) | st.datetimes().map(format_datetime)
STRANGE_DATES = [
    "Fri, 31 Dec 100000 23:59:59 GMT",
    "Mon, 99 Foo 2026 99:99:99 GMT",
    "Wed, 01 Jan 2026 00:00:00 +9999999",
]


@given(
    st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms"]), HEADER | st.sampled_from(STRANGE_DATES)),
    st.floats(0, 4e9),
)
def test_any_headers_give_a_wait_that_is_a_number_or_none(headers: dict[str, str], now_s: float) -> None:
    wait = asked_wait_s(headers, now_s)
    assert wait is None or (wait >= 0 and math.isfinite(wait))


@dataclass
class Bench:
    """A retrier whose time is a number, and what it sent and said."""

    outcomes: list[Exception | str]
    seconds_a_call: float = 0.0
    now_s: float = 0.0
    calls: int = 0
    waits: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def pause(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_s += seconds

    def say(self, text: str, for_s: float) -> None:
        self.texts.append(text)

    def send(self) -> str:
        self.calls += 1
        self.now_s += self.seconds_a_call
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def run(self, *, repeatable: bool = False) -> str:
        retrier = Retrier(pause=self.pause, say=self.say, jitter=lambda: 0.0, clock=lambda: self.now_s)
        return retrier.run(self.send, repeatable=repeatable)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_a_transient_status_is_sent_again_and_the_wait_is_shown(status: int) -> None:
    assert Bench([refused(status), refused(status), "drawn"]).run() == "drawn"
    bench = Bench([refused(status)])
    with pytest.raises(StatusError):
        bench.run()
    assert (bench.calls, bench.waits) == (3, [0.5, 1.0])
    what = "Rate limited" if status == 429 else f"The server responded with {status}"
    assert bench.texts == [f"{what}, trying again in a second"] * 2


@pytest.mark.parametrize(
    ("sent", "repeatable", "is_transient", "calls"),
    [
        (False, False, True, 3),
        (False, True, True, 3),
        (True, False, True, 1),  # a billed request that may have arrived
        (True, True, True, 3),
        (False, False, False, 1),
        (True, True, False, 1),
    ],
)
@pytest.mark.parametrize("kind", [ConnectionFailed, TimedOut])
def test_a_lost_connection_is_tried_again_when_that_cannot_cost_twice(
    kind: type[ConnectionFailed], sent: bool, repeatable: bool, is_transient: bool, calls: int
) -> None:
    bench = Bench([kind("Lost.", sent=sent, is_transient=is_transient)])
    with pytest.raises(kind):
        bench.run(repeatable=repeatable)
    assert bench.calls == calls
    assert bench.texts == ["No connection, trying again in a second"] * (calls - 1)


def test_the_server_s_wait_is_obeyed_up_to_the_limit() -> None:
    bench = Bench([refused(429, retry_after="120"), "drawn"])
    assert bench.run() == "drawn"
    assert bench.waits == [120]
    assert bench.texts[0] == "Rate limited, trying again in 2 minutes"


@pytest.mark.parametrize(("wait", "seconds_a_call", "calls"), [("", MAX_ELAPSED_S - 0.4, 1), ("120", 200.0, 2)])
def test_no_attempt_begins_after_the_time_is_up(wait: str, seconds_a_call: float, calls: int) -> None:
    bench = Bench([refused(503, retry_after=wait)], seconds_a_call=seconds_a_call)
    with pytest.raises(StatusError):
        bench.run()
    assert bench.calls == calls

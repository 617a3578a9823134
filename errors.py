"""What can go wrong with a call, and what each case tells its reader.

    ImagesApiError
    |-- ConnectionFailed      not reached, or the answer was lost
    |     '-- TimedOut        the same, by waiting too long
    |-- StatusError           the server answered with an error status
    |-- UnusableAnswer        the server answered, and the answer cannot be used
    '-- CallCancelled         the user cancelled before there was an answer

Every message says what happened, what to do, whether money was spent, and what the server said. `CONDITIONS` is the
one table of them for statuses, `LINK_FAULTS` for connections. Some sentences are fixed by ComfyUI's frontend, which
shows a translated dialog of its own for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .models import ErrorDetail, shortened

SIGN_IN = "Unauthorized: Please login first to use this node."
ADD_CREDITS = "Payment Required: Please add credits to your account to use this node."

NOT_CHARGED = "Nothing was charged."
MAYBE_CHARGED = "It may have been charged; it is not sent again by itself."
CHARGED = "The server may well have charged for it."


class ImagesApiError(Exception):
    """Base of everything that this client raises."""


class ConnectionFailed(ImagesApiError):
    """The server was not reached, or its answer was lost.

    Attributes: `sent`, whether it may have received the request, and `worth_a_retry`, whether another try could help.
    """

    def __init__(self, message: str, *, sent: bool, worth_a_retry: bool = True) -> None:
        super().__init__(message)
        self.sent = sent
        self.worth_a_retry = worth_a_retry


class TimedOut(ConnectionFailed):
    """The server took longer than a timeout allows."""


class UnusableAnswer(ImagesApiError):
    """The server answered 2xx with something that is no picture."""


class CallCancelled(ImagesApiError):
    """The user cancelled before the request was sent (again)."""


class StatusError(ImagesApiError):
    """The server answered with an error status.

    Attributes: `status_code`, `request_id` ("" where the server gave none), `condition` (the row of `CONDITIONS` that
    fits), `detail` (the server's own words, cut short) and `headers` (of the answer, names in lower case).
    """

    def __init__(
        self,
        status_code: int,
        detail: ErrorDetail,
        *,
        headers: Mapping[str, str] | None = None,
        signed_in: bool = False,
        note: str = "",
    ) -> None:
        self.status_code = status_code
        self.detail = detail
        self.headers = {name.lower(): value for name, value in (headers or {}).items()}
        self.request_id = shortened(self.headers.get("x-request-id", ""), 80)
        self.condition = classify(status_code, detail)
        self._signed_in = signed_in
        super().__init__(self._message(note))

    def with_note(self, note: str) -> StatusError:
        """The same error with a sentence more."""
        return StatusError(self.status_code, self.detail, headers=self.headers, signed_in=self._signed_in, note=note)

    def _message(self, note: str) -> str:
        if self._signed_in and self.condition.account_says:
            return self.condition.account_says
        parts = [self.condition.says.format(status=self.status_code), note, self.condition.charged]
        return " ".join(filter(None, parts)) + self._quote()

    def _quote(self) -> str:
        words = f"\nThe server said: {self.detail.message}" if self.detail.message else ""
        return words + (f"\nRequest id: {self.request_id}" if self.request_id else "")


@dataclass(frozen=True)
class Condition:
    """One row: which answers it covers and what it tells the user.

    An answer fits when its status is among `statuses` (empty: any) and, where `words` are given, one of them is in its
    code, type or message, in lower case. `account_says` is the whole message for a signed-in Comfy.org account where
    the frontend has a dialog for it.
    """

    name: str
    says: str
    statuses: frozenset[int] = frozenset()
    words: tuple[str, ...] = ()
    worth_a_retry: bool = False
    account_says: str = ""
    charged: str = NOT_CHARGED

    def covers(self, status: int, text: str) -> bool:
        """Whether an answer with this status and these (lower-case) words belongs to the row."""
        return (not self.statuses or status in self.statuses) and (
            not self.words or any(word in text for word in self.words)
        )


def _statuses(*codes: int | range) -> frozenset[int]:
    spans: Iterable[Iterable[int]] = ([code] if isinstance(code, int) else code for code in codes)
    return frozenset(code for span in spans for code in span)


CONDITIONS: tuple[Condition, ...] = (
    Condition(
        "moderation",
        "Your request was flagged by our content moderation system: the server refused this prompt or picture. "
        "Change the wording or the picture and run again.",
        words=("moderation_blocked", "content_policy_violation", "contentfilter", "content_filter", "safety system"),
    ),
    Condition(
        "quota",
        "The account behind this key has used up its quota. Add credit in the billing page of the account, or use "
        "another key in OPENAI_API_KEY.",
        words=("insufficient_quota", "exceeded your current quota"),
        account_says=ADD_CREDITS,
    ),
    Condition(
        "billing_limit",
        "The account behind this key has reached its spending limit. Raise the limit in its billing page.",
        words=("billing_hard_limit_reached", "billing hard limit"),
        account_says=ADD_CREDITS,
    ),
    Condition(
        "model",
        "The server does not have the model that was asked for. Set DALLE2_MODEL to one that it has, or to auto.",
        statuses=_statuses(400, 403, 404, 422),
        words=("model_not_found", "invalid model name", "unknown model", "deploymentnotfound", "model_not_exist"),
    ),
    Condition(
        "model",
        "The server does not have the model that was asked for. Set DALLE2_MODEL to one that it has, or to auto.",
        statuses=_statuses(400, 404),
        words=("does not exist", "model not found"),
    ),
    Condition(
        "verification",
        "OpenAI wants the organization of this key to be verified before it may use this model. Verify it in the "
        "organization settings of the OpenAI account, or set DALLE2_MODEL to a model that needs no verification.",
        statuses=_statuses(403),
        words=("must be verified", "verify organization"),
    ),
    Condition(
        "key",
        "The server refused the key. Check OPENAI_API_KEY (in the environment or in the .env file of this node's "
        "folder): it must be whole, active, and made for this server.",
        statuses=_statuses(401),
        account_says=SIGN_IN,
    ),
    Condition(
        "credits",
        "The server wants to be paid first. Add credit to the account behind OPENAI_API_KEY.",
        statuses=_statuses(402),
        account_says=ADD_CREDITS,
    ),
    Condition(
        "forbidden",
        "The server does not allow this key to do that. Check the permissions, the project and the region of the key.",
        statuses=_statuses(403),
    ),
    Condition(
        "route",
        "The server has no such route (status {status}). Check OPENAI_BASE_URL (it usually ends in /v1), and whether "
        "this server can edit pictures at all: some can only generate.",
        statuses=_statuses(404, 405),
    ),
    Condition(
        "too_large",
        "The server says the picture is too large. Scale the image down before this node.",
        statuses=_statuses(413),
    ),
    Condition(
        "rate",
        "Rate Limit Exceeded: the server wants fewer requests. Wait a minute, then run again.",
        statuses=_statuses(429),
        worth_a_retry=True,
    ),
    Condition(
        "busy",
        "The server was busy with this request (status {status}). Run again in a moment.",
        statuses=_statuses(408, 409),
        worth_a_retry=True,
    ),
    Condition(
        "server",
        "The server failed (status {status}). Run again later; if it stays, look at the server's status page or log.",
        statuses=_statuses(500, 502, 503, 504),
        worth_a_retry=True,
        charged="It was most likely not charged.",
    ),
    Condition(
        "redirect",
        "The server sent the request elsewhere (status {status}), which is not followed, to keep the key on its own "
        "host. Put the final address into OPENAI_BASE_URL.",
        statuses=_statuses(range(300, 400)),
    ),
    Condition(
        "refused",
        "The server refused the request (status {status}).",
        statuses=_statuses(range(400, 500)),
    ),
    Condition(
        "unexpected",
        "The server answered with the unexpected status {status}.",
        charged=MAYBE_CHARGED,
    ),
)


def classify(status: int, detail: ErrorDetail) -> Condition:
    """The first row of `CONDITIONS` that covers an answer."""
    text = f"{detail.code} {detail.type} {detail.message}".lower()
    return next(row for row in CONDITIONS if row.covers(status, text))


LINK_FAULTS: dict[str, str] = {
    "dns": "The name {host} could not be found. Check the spelling of the address and the internet connection.",
    "refused": "Nothing answers at {host}. Check that the server is running and that the address and port are right.",
    "connect_timeout": "{host} accepted no connection in time. Check the network, or raise DALLE2_CONNECT_TIMEOUT_S.",
    "tls": "The secure connection to {host} failed. Check the clock of this computer and its certificates "
    "(REQUESTS_CA_BUNDLE names another bundle), and that https is what the server speaks.",
    "proxy": "The network proxy did not let the request through to {host}. Check HTTPS_PROXY, HTTP_PROXY and NO_PROXY.",
    "read_timeout": "{host} did not answer in time. Raise DALLE2_READ_TIMEOUT_S if its pictures take longer.",
    "total_timeout": "{host} sent its answer too slowly to wait for the end. Try again later.",
    "dropped": "The connection to {host} broke before the answer was complete. Look at the usage page of the account "
    "before you run again.",
}


def link_fault(kind: str, host: str, *, sent: bool) -> ConnectionFailed:
    """The error for a connection to `host` that failed in one of the ways of `LINK_FAULTS`."""
    message = f"{LINK_FAULTS[kind].format(host=host)} {MAYBE_CHARGED if sent else NOT_CHARGED}"
    error = TimedOut if kind.endswith("timeout") else ConnectionFailed
    return error(message, sent=sent, worth_a_retry=kind != "tls")

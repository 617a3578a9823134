"""What can go wrong with a call, and what each case tells its reader; `api_client` draws the tree of these errors.

Every message says what happened, what to do, whether money was spent, and what the server said. `CONDITIONS` is the
one table of them for statuses, `DOWNLOADS` the same for pictures that are fetched, `LINK_FAULTS` the one for
connections. Some sentences are fixed by ComfyUI's frontend, which shows a translated dialog of its own for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .models import ErrorDetail, shortened

SIGN_IN = "Unauthorized: Please login first to use this node."
ADD_CREDITS = "Payment Required: Please add credits to your account to use this node."

NOT_CHARGED = "Nothing was charged."
MAYBE_CHARGED = (
    "It may have been charged, and is therefore not sent again by itself: look at the usage page of your account."
)
# The same where the server's own wish may have had it sent again.
PERHAPS_CHARGED = "It may have been charged: look at the usage page of your account."
CHARGED = "It has probably been charged."

# What is kept of an error's headers: others could hold anything, a key that is echoed included.
USEFUL_HEADERS = ("x-request-id", "retry-after", "retry-after-ms", "x-should-retry")


class ImagesApiError(Exception):
    """Base of everything that this client raises."""

    # The editor shows an error's module before its message, and ComfyUI imports this package by its whole path.
    __module__ = "OpenAIDalle2"

    def __init_subclass__(cls) -> None:
        cls.__module__ = ImagesApiError.__module__


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
    """The request was not sent (again): the user cancelled, or another picture of the batch failed."""


class StatusError(ImagesApiError):
    """The server answered with an error status.

    Attributes: `status_code`, `condition` (the row of `rows` that fits), `detail` (the server's own words, cut short)
    and `headers` (those of `USEFUL_HEADERS`, names in lower case).
    """

    def __init__(
        self,
        status_code: int,
        detail: ErrorDetail,
        *,
        headers: Mapping[str, str] | None = None,
        signed_in: bool = False,
        rows: tuple[Condition, ...] | None = None,
        note: str = "",
    ) -> None:
        self.status_code = status_code
        self.detail = detail
        given = {name.lower(): value for name, value in (headers or {}).items()}
        self.headers = {name: given[name] for name in USEFUL_HEADERS if name in given}
        self.condition = classify(status_code, detail, rows or CONDITIONS)
        self._rows = rows
        self._signed_in = signed_in
        super().__init__(self._message(note))

    @property
    def request_id(self) -> str:
        """What names the request in the server's own log, "" where it gave nothing."""
        return shortened(self.headers.get("x-request-id", ""), 80)

    def with_note(self, note: str) -> StatusError:
        """The same error with a sentence more."""
        return StatusError(
            self.status_code,
            self.detail,
            headers=self.headers,
            signed_in=self._signed_in,
            rows=self._rows,
            note=note,
        )

    def _message(self, note: str) -> str:
        row = self.condition
        if self._signed_in and row.account_says == ADD_CREDITS:
            return ADD_CREDITS  # the frontend knows it only when nothing else is there
        says = row.account_says if self._signed_in and row.account_says else row.says
        words = f"\nThe server said: {self.detail.message}" if self.detail.message else ""
        parts = [says.format(status=self.status_code), note, row.charged]
        return " ".join(filter(None, parts)) + words + request_id_line(self.headers)


def request_id_line(headers: Mapping[str, str]) -> str:
    """The last line of a message, for whoever asks the server's operator about it."""
    value = shortened(headers.get("x-request-id", ""), 80)
    return f"\nRequest id: {value}" if value else ""


@dataclass(frozen=True)
class Condition:
    """One row: which answers it covers and what it tells the user.

    An answer fits when its status is among `statuses` (empty: any) and, where `words` are given, one of them is in its
    code, type, field ("param=NAME ") or message, in lower case. `account_says` is what a signed-in Comfy.org account is
    told instead, where the frontend has a dialog for it.
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


_NO_SUCH_MODEL = (
    "The server does not have the model that was asked for, or keeps it from this account. Set DALLE2_MODEL to a model "
    "that it has (at Azure: the name of your deployment), or to auto."
)

_LOST = "The gateway lost the answer of the server behind it (status {status}). Run again later."

_KEY_REFUSED = (
    "The server did not accept the key. Check OPENAI_API_KEY (in the environment, or in the file .env of this "
    "node's folder): it must be whole, still valid, and made for this server."
)

CONDITIONS: tuple[Condition, ...] = (
    Condition(
        "moderation",
        "Your request was flagged by our content moderation system: the server refused this prompt or picture. "
        "Change the wording or the picture and run again.",
        words=("moderation_blocked", "content_policy_violation", "contentfilter", "content_filter", "safety system"),
    ),
    Condition(
        "quota",
        "The account behind this key has used up what it paid for. Add credit on the billing page of the account, or "
        "put another key into OPENAI_API_KEY.",
        words=("insufficient_quota", "exceeded your current quota"),
        account_says=ADD_CREDITS,
    ),
    Condition(
        "billing_limit",
        "The account behind this key has reached its spending limit. Raise the limit on the billing page of the "
        "account.",
        words=("billing_hard_limit_reached", "billing hard limit"),
        account_says=ADD_CREDITS,
    ),
    Condition(
        "model",
        _NO_SUCH_MODEL,
        statuses=_statuses(400, 401, 403, 404, 410, 422),
        words=(
            "model_not_found",
            "model_access_denied",  # of a key at a LiteLLM proxy, or of its team
            "invalid model name",
            "unknown model",
            "model mismatch",
            "deploymentnotfound",
            "model_not_exist",
        ),
    ),
    Condition("model", _NO_SUCH_MODEL, statuses=_statuses(400, 404, 410), words=("does not exist", "model not found")),
    # "Invalid value: 'dall-e-2'. Supported values are: ...", about the field `model`.
    Condition("model", _NO_SUCH_MODEL, statuses=_statuses(400, 422), words=("param=model ",)),
    Condition(
        "verification",
        "OpenAI wants the organization of this key to be verified before it may use this model. Verify it in the "
        "organization settings of the OpenAI account, or set DALLE2_MODEL to a model that needs no verification.",
        statuses=_statuses(403),
        words=("must be verified", "verify organization"),
    ),
    Condition(
        "key",
        _KEY_REFUSED,
        statuses=_statuses(401),
        account_says=SIGN_IN,
    ),
    # LiteLLM without a database: it would look an unknown key up there.
    Condition("key", _KEY_REFUSED, statuses=_statuses(400), words=("no_db_connection",)),
    Condition(
        "credits",
        "The server wants to be paid first. Add credit to the account behind OPENAI_API_KEY.",
        statuses=_statuses(402),
        account_says=ADD_CREDITS,
    ),
    Condition(
        "forbidden",
        "The server does not allow this account to do that. Check what the key may do, its project and its region.",
        statuses=_statuses(403),
    ),
    Condition(
        "route",
        "The server cannot do this at the address that was used (status {status}). Check OPENAI_BASE_URL (it usually "
        "ends in /v1), and whether this server can edit pictures at all: some can only draw new ones.",
        statuses=_statuses(404, 405),
    ),
    Condition(
        "proxy_login",
        "The network's proxy wants a user name and password. Set HTTPS_PROXY to http://NAME:PASSWORD@HOST:PORT.",
        statuses=_statuses(407),
    ),
    Condition(
        "too_large",
        "The server says that the picture is too large. Scale the image down before this node.",
        statuses=_statuses(413),
    ),
    Condition(
        "rate",
        "Rate Limit Exceeded: the server wants fewer requests. Wait a minute, then run again.",
        statuses=_statuses(429),
        worth_a_retry=True,
    ),
    # A gateway that lost what its upstream answered: that may have been billed, so it is no plain server error.
    Condition(
        "lost",
        _LOST,
        statuses=_statuses(408, 500, 502, 504),
        words=("apiconnectionerror", "litellm.timeout"),
        charged=MAYBE_CHARGED,
    ),
    # Cloudflare's numbers for the same: the server behind it answered nonsense, or too late.
    Condition("lost", _LOST, statuses=_statuses(520, 524), charged=MAYBE_CHARGED),
    Condition(
        "busy",
        "The server was too busy for this request (status {status}). Run again in a moment.",
        statuses=_statuses(408, 409),
        worth_a_retry=True,
    ),
    Condition(
        "server",
        "The server failed (status {status}). Run again later; if that does not help, look at the server's status page "
        "or log.",
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
        "The server refused the request (status {status}). Change what it complains of, and run again.",
        statuses=_statuses(range(400, 500)),
    ),
    Condition(
        "unexpected",
        "The server, or something on the way to it, failed in an unusual way (status {status}). Run again later.",
        charged=PERHAPS_CHARGED,
    ),
)

# A picture that is fetched is paid for already: the caller says what becomes of it.
DOWNLOADS: tuple[Condition, ...] = (
    Condition(
        "rate",
        "The host of the pictures wants fewer requests (status {status}).",
        statuses=_statuses(429),
        worth_a_retry=True,
        charged="",
    ),
    Condition(
        "server",
        "The host of the pictures failed (status {status}).",
        statuses=_statuses(408, 409, 425, range(500, 600)),
        worth_a_retry=True,
        charged="",
    ),
    Condition(
        "gone",
        "The picture is not there, or its address has expired (status {status}).",
        statuses=_statuses(401, 403, 404, 410),
        charged="",
    ),
    Condition("refused", "The host of the pictures did not hand it out (status {status}).", charged=""),
)


def classify(status: int, detail: ErrorDetail, rows: tuple[Condition, ...] = CONDITIONS) -> Condition:
    """The first of the rows that covers an answer; the last row covers any."""
    text = f"{detail.code} {detail.type} param={detail.param} {detail.message}".lower()
    return next(row for row in rows if row.covers(status, text))


LINK_FAULTS: dict[str, str] = {
    "dns": "The name {host} could not be found. Check the spelling of the address and the internet connection.",
    "refused": "Nothing answers at {host}. Check that the server is running and that its address is right.",
    "connect_timeout": "{host} accepted no connection in time. Check the network, or raise DALLE2_CONNECT_TIMEOUT_S.",
    "tls": "The secure connection to {host} failed. Check this computer's clock, whether the address should begin with "
    "https, and, in a company's network, whether REQUESTS_CA_BUNDLE names the company's certificates.",
    "proxy": "The network's proxy did not let the request through to {host}. Check HTTPS_PROXY, HTTP_PROXY and "
    "NO_PROXY.",
    "read_timeout": "{host} did not answer in time. Raise DALLE2_READ_TIMEOUT_S if its pictures take longer.",
    "total_timeout": "{host} answered so slowly that the whole answer took too long. Try again later.",
    "dropped": "The connection to {host} broke before the answer was complete. Check the network.",
}


def link_fault(kind: str, host: str, *, sent: bool, billed: bool) -> ConnectionFailed:
    """The error for a connection to `host` that failed in one of the ways of `LINK_FAULTS`.

    `sent`: whether the server may have got the request; `billed`: whether that would cost anything.
    """
    money = (MAYBE_CHARGED if sent else NOT_CHARGED) if billed else ""
    error = TimedOut if kind.endswith("timeout") else ConnectionFailed
    return error(f"{LINK_FAULTS[kind].format(host=host)} {money}".strip(), sent=sent, worth_a_retry=kind != "tls")

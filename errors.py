"""What can go wrong with a call, and what each case tells the user.

    ImagesApiError            charge, is_transient
    |-- ConnectionFailed      the server was not reached, or its response was lost: sent
    |     '-- TimedOut        the same, because it took too long
    |-- StatusError           the server responded with an error status: status_code, case, detail, request_id
    |-- UnusableAnswer        the server responded, but not with images that can be used
    '-- CallCancelled         nothing was sent (again), because nobody waits for the result

A message says what happened, what to do, whether money was spent, and what the server said. `STATUS_CASES` is the
one table of messages for statuses, `DOWNLOAD_CASES` the same for images that are downloaded, `ConnectionProblem` the
one for connections. A few sentences are fixed by ComfyUI's frontend, which shows a translated dialog for them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from .models import ErrorDetail, shortened

SIGN_IN = "Unauthorized: Please login first to use this node."
ADD_CREDITS = "Payment Required: Please add credits to your account to use this node."

# The only headers of an error that are kept: any other could repeat a key.
USEFUL_HEADERS = ("x-request-id", "retry-after", "retry-after-ms", "x-should-retry")


class Charge(Enum):
    """Whether a failed call cost money, the worst case last; the value is the sentence that says so."""

    PAID_BEFORE = ""  # a download: the images are paid for, and whoever catches the error says what becomes of them
    NO = "Nothing was charged."
    UNLIKELY = "This request was most likely not charged."
    MAYBE = "You may have been charged: check the usage page of your account before you run again."
    LIKELY = "This request has probably been charged."


class Login(Enum):
    """How a server is told who asks: some messages differ by it."""

    ACCOUNT = auto()  # Comfy.org's
    KEY = auto()
    NONE = auto()


class ImagesApiError(Exception):
    """Base of everything that goes wrong between this package and a server.

    `charge` says whether money was spent, `is_transient` whether the same request may succeed later. Whoever knows more
    may change `charge`, and set `note`, more sentences for the user.
    """

    def __init__(
        self, message: str, *, charge: Charge = Charge.NO, is_transient: bool = False, details: Iterable[str] = ()
    ) -> None:
        """`details` are lines that follow the message and the sentence about money."""
        super().__init__(message)
        self.charge = charge
        self.is_transient = is_transient
        self.note = ""
        self._details = tuple(details)

    def __str__(self) -> str:
        sentences = " ".join(filter(None, [self._says(), self.note.strip(), self.charge.value]))
        return "\n".join(filter(None, [sentences, *self._details]))

    def _says(self) -> str:
        return str(self.args[0])


class ConnectionFailed(ImagesApiError):
    """The server was not reached, or its response was lost; `sent` says whether it may have received the request."""

    def __init__(self, message: str, *, sent: bool, charge: Charge = Charge.NO, is_transient: bool = True) -> None:
        super().__init__(message, charge=charge, is_transient=is_transient)
        self.sent = sent


class TimedOut(ConnectionFailed):
    """The server took longer than a timeout allows."""


class UnusableAnswer(ImagesApiError):
    """The server responded with a success status, but not with images that can be used."""


class CallCancelled(ImagesApiError):
    """The user cancelled: nothing is sent (again), and what came stays in the answer cache."""


class StatusError(ImagesApiError):
    """The server responded with an error status.

    `case` is the kind of problem, `detail` what the server said (cut short), `headers` those of `USEFUL_HEADERS` with
    names in lower case, `request_id` the name of the request in the server's own log, "" without one. Whoever knows it
    may set `wait_s`, the seconds that the server wants the user to wait.
    """

    def __init__(
        self,
        status_code: int,
        detail: ErrorDetail,
        *,
        headers: Mapping[str, str] | None = None,
        login: Login = Login.KEY,
        rows: tuple[StatusCase, ...] | None = None,
    ) -> None:
        """`rows` is the table to look the case up in."""
        self._row = matching_case(status_code, detail, rows or STATUS_CASES)
        self.headers: dict[str, str] = {}
        for name, value in (headers or {}).items():
            if name.lower() in USEFUL_HEADERS:
                self.headers[name.lower()] = value
        self.request_id = shortened(self.headers.get("x-request-id", ""), 80)
        said = f"The server said: {detail.message}" if detail.message else ""
        super().__init__(
            self._row.says,
            charge=self._row.charge,
            is_transient=self._row.is_transient,
            details=[said, request_id_line(self.request_id)],
        )
        self.status_code = status_code
        self.case = self._row.case
        self.detail = detail
        self.wait_s: float | None = None
        self._login = login

    def __str__(self) -> str:
        says = self._says()
        return says if says == ADD_CREDITS else super().__str__()  # the frontend knows that one only by itself

    def _says(self) -> str:
        row = self._row
        says = row.says
        if self._login is Login.ACCOUNT:
            says = row.account_says or row.says
        if self._login is Login.NONE:
            says = row.keyless_says or row.says
        when = row.when if self.wait_s is None else f"in {duration(self.wait_s)}"
        return says.format(status=self.status_code, when=when)


def request_id_line(request_id: str) -> str:
    """The last line of a message, for whoever asks the server's operator about it; "" without an id."""
    value = shortened(request_id, 80)
    return f"Request id: {value}" if value else ""


def duration(seconds: float) -> str:
    """Seconds as a person would say them: "40 seconds", "10 minutes", "3 hours"."""
    if seconds >= 365 * 86_400:
        return "more than a year"
    for unit, length_s in (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds >= 2 * length_s:
            return f"{math.ceil(seconds / length_s)} {unit}s"
    return "a second"


class Case(Enum):
    """The kinds of problem that an error status can stand for."""

    MODERATION = auto()
    QUOTA = auto()
    BILLING_LIMIT = auto()
    MODEL = auto()
    VERIFICATION = auto()
    KEY = auto()
    CREDITS = auto()
    FORBIDDEN = auto()
    ROUTE = auto()
    PROXY_LOGIN = auto()
    TOO_LARGE = auto()
    RATE = auto()
    LOST = auto()
    BUSY = auto()
    SERVER = auto()
    REDIRECT = auto()
    REFUSED = auto()
    UNEXPECTED = auto()
    GONE = auto()


@dataclass(frozen=True)
class StatusCase:
    """One row: which responses it covers and what it tells the user.

    A row covers the `statuses` it names (none: any status). Where it names `codes` or `patterns`, one of the codes must
    be the response's code or type, or one of both must be found in its message (all in lower case). `account_says` is
    for a Comfy.org account, where the frontend has a dialog for it, `keyless_says` for a request without a key. `when`
    fills `{when}` in `says` unless the server said how long to wait.
    """

    case: Case
    says: str
    statuses: Collection[int] = ()
    codes: frozenset[str] = frozenset()
    patterns: tuple[str, ...] = ()
    is_transient: bool = False
    account_says: str = ""
    keyless_says: str = ""
    charge: Charge = Charge.NO
    when: str = ""

    def covers_status(self, status: int) -> bool:
        """Whether a response with this status can belong to the row at all."""
        return not self.statuses or status in self.statuses

    def covers_code(self, detail: ErrorDetail) -> bool:
        """Whether the code, or type, of an error belongs to the row."""
        return not self.codes.isdisjoint((detail.code.lower(), detail.type.lower()))

    def covers_text(self, text: str) -> bool:
        """Whether these lower-case words of a server belong to the row."""
        patterns = "|".join([*self.codes, *self.patterns])
        return not patterns or re.search(patterns, text) is not None


_NO_SUCH_MODEL = (
    "The server does not have the model that was asked for, or this account may not use it. Set DALLE2_MODEL to a "
    "model that it has (at Azure: the name of your deployment)."
)

_KEY_REFUSED = (
    "The server did not accept the key. Check OPENAI_API_KEY (in the environment, in the file .env of this node's "
    "folder, or in the settings): it must be complete, still valid, and made for this server."
)
_KEY_WANTED = "The server wants a key. Set OPENAI_API_KEY to a key that was made for this server."

_LOST = "The gateway lost the response of the server behind it (status {status}). Run again later."

# The rows are read from top to bottom, first by code, then by words and status; the first that fits counts.
STATUS_CASES: tuple[StatusCase, ...] = (
    StatusCase(
        Case.MODERATION,
        "Your request was flagged by our content moderation system: the server refused this prompt or image. Change "
        "the wording or the image and run again.",
        codes=frozenset({"moderation_blocked", "content_policy_violation", "contentfilter", "content_filter"}),
        patterns=("safety system",),
    ),
    StatusCase(
        Case.QUOTA,
        "The account behind this key is out of credit. Add credit on the billing page of the account, or use another "
        "key in OPENAI_API_KEY.",
        codes=frozenset({"insufficient_quota"}),
        patterns=("exceeded your current quota",),
        account_says=ADD_CREDITS,
    ),
    StatusCase(
        Case.BILLING_LIMIT,
        "The account behind this key has reached its spending limit. Raise the limit on the billing page of the "
        "account.",
        codes=frozenset({"billing_hard_limit_reached"}),
        patterns=("billing hard limit",),
        account_says=ADD_CREDITS,
    ),
    StatusCase(
        Case.MODEL,
        _NO_SUCH_MODEL,
        statuses=range(400, 600),
        codes=frozenset(
            {"model_not_found", "model_not_supported", "deploymentnotfound", "model_not_exist"}
            | {"key_model_access_denied", "team_model_access_denied", "model_access_denied"}
        ),
        patterns=(
            "invalid model name",
            "unknown model",
            "model mismatch",
            "model field required",  # Xinference, as status 500
        ),
    ),
    StatusCase(
        Case.MODEL,
        _NO_SUCH_MODEL,
        statuses=(400, 404, 410),
        # At most its name stands between.
        patterns=("model not found", r"\b(model|deployment)( \S+)? (does not exist|(is |was )?not found)"),
    ),
    StatusCase(
        Case.VERIFICATION,
        "OpenAI wants the organization of this key to be verified before it may use this model. Verify it in the "
        "organization settings of the OpenAI account, or set DALLE2_MODEL to a model that needs no verification.",
        statuses=(403,),
        patterns=("must be verified", "verify organization"),
    ),
    StatusCase(Case.KEY, _KEY_REFUSED, statuses=(401,), account_says=SIGN_IN, keyless_says=_KEY_WANTED),
    # LiteLLM without a database: it would look an unknown key up there.
    StatusCase(
        Case.KEY,
        _KEY_REFUSED,
        statuses=(400,),
        codes=frozenset({"no_db_connection"}),
        keyless_says=_KEY_WANTED,
    ),
    StatusCase(
        Case.CREDITS,
        "The account has no credit. Add credit to the account behind OPENAI_API_KEY.",
        statuses=(402,),
        account_says=ADD_CREDITS,
    ),
    StatusCase(
        Case.FORBIDDEN,
        "The server does not allow this account to do that. Check what the key may do, its project and its region.",
        statuses=(403,),
    ),
    StatusCase(
        Case.ROUTE,
        "The server cannot do this at the address that was used (status {status}). Check OPENAI_BASE_URL (it usually "
        "ends in /v1), and whether this server can edit images at all: some can only make new ones.",
        statuses=(404, 405),
        account_says="Comfy.org cannot do this at the address that this package knows (status {status}). Look for an "
        "update of the package, or use a key of your own.",
    ),
    StatusCase(
        Case.PROXY_LOGIN,
        "The network's proxy wants a user name and password. Set HTTPS_PROXY to http://NAME:PASSWORD@HOST:PORT.",
        statuses=(407,),
    ),
    StatusCase(
        Case.TOO_LARGE,
        "The server says that the image is too large. Scale it down before this node.",
        statuses=(413,),
    ),
    StatusCase(
        Case.RATE,
        "Rate Limit Exceeded: the server wants fewer requests. Run again {when}.",
        statuses=(429,),
        is_transient=True,
        when="in a minute",
    ),
    # The server behind a gateway may have finished, and been paid: RFC 9110, section 15.6.5, about 504; Cloudflare's
    # numbers (520, 524); the words of LiteLLM, one-api, Envoy, nginx and Go for it.
    StatusCase(Case.LOST, _LOST, statuses=(504, 520, 524), charge=Charge.MAYBE),
    StatusCase(
        Case.LOST,
        _LOST,
        statuses=(500, 502, 503),
        codes=frozenset({"do_request_failed"}),
        patterns=(
            "apiconnectionerror",
            r"litellm\.timeout",
            "(?<!launch )timed out",
            "request timeout",
            "deadline exceeded",
            "connection termination",
            "prematurely closed",
        ),
        charge=Charge.MAYBE,
    ),
    # By itself, 408 says that the request did not arrive.
    StatusCase(
        Case.LOST,
        _LOST,
        statuses=(408,),
        patterns=("apiconnectionerror", r"litellm\.timeout", "upstream"),
        charge=Charge.MAYBE,
    ),
    StatusCase(
        Case.BUSY,
        "The server was too busy for this request (status {status}). Run again {when}.",
        statuses=(408, 409),
        is_transient=True,
        when="in a moment",
    ),
    StatusCase(
        Case.SERVER,
        "The server failed (status {status}). Run again {when}; if that does not help, look at the server's status "
        "page or log.",
        statuses=(500, 502, 503),
        is_transient=True,
        charge=Charge.UNLIKELY,
        when="later",
    ),
    StatusCase(
        Case.REDIRECT,
        "The server sent the request elsewhere (status {status}), which is not followed, to keep the key on its own "
        "host. Put the final address into OPENAI_BASE_URL.",
        statuses=range(300, 400),
        account_says="Comfy.org sent the request elsewhere (status {status}), which is not followed, to keep your "
        "login on its own host. Look for an update of this package, or use a key of your own.",
    ),
    StatusCase(
        Case.REFUSED,
        "The server refused the request (status {status}). Change what it complains about, and run again.",
        statuses=range(400, 500),
    ),
    StatusCase(
        Case.UNEXPECTED,
        "The server, or something on the way to it, failed in an unusual way (status {status}). Run again later.",
        charge=Charge.MAYBE,
    ),
)

DOWNLOAD_CASES: tuple[StatusCase, ...] = (
    StatusCase(
        Case.RATE,
        "The host of the images wants fewer requests (status {status}).",
        statuses=(429,),
        is_transient=True,
        charge=Charge.PAID_BEFORE,
    ),
    StatusCase(
        Case.SERVER,
        "The host of the images failed (status {status}).",
        statuses=(408, 409, 425, *range(500, 600)),
        is_transient=True,
        charge=Charge.PAID_BEFORE,
    ),
    StatusCase(
        Case.GONE,
        "The image is not there, or its address has expired (status {status}).",
        statuses=(401, 403, 404, 410),
        charge=Charge.PAID_BEFORE,
    ),
    StatusCase(
        Case.REFUSED,
        "The host of the images refused the download (status {status}).",
        charge=Charge.PAID_BEFORE,
    ),
)


def matching_case(status: int, detail: ErrorDetail, rows: tuple[StatusCase, ...] = STATUS_CASES) -> StatusCase:
    """The first row that covers a response: by its code, or else by its words; the last row covers any.

    A field that the server names counts before its words: a complaint about `model` is about a missing model.
    """
    is_about_model = detail.param == "model" and status in (400, 422)
    possible = [row for row in rows if row.covers_status(status)]
    for row in possible:
        if row.covers_code(detail):
            return row
        if is_about_model and row.case is Case.MODEL:
            return row
    text = detail.message.lower()
    return next(row for row in possible if row.covers_text(text))


@dataclass(frozen=True)
class ConnectionCase:
    """One row of `ConnectionProblem`: what it tells the user, with which class, and whether to try again."""

    says: str
    error: type[ConnectionFailed] = ConnectionFailed
    is_transient: bool = True


class ConnectionProblem(Enum):
    """The ways in which a connection fails, and what each tells the user about `{host}`."""

    NAME = ConnectionCase(
        "The name {host} could not be found. Check the spelling of the address and the internet connection."
    )
    REFUSED = ConnectionCase(
        "Nothing responds at {host}. Check that the server is running and that its address is right."
    )
    CONNECT_TIMEOUT = ConnectionCase(
        "{host} accepted no connection in time. Check the network, or raise DALLE2_CONNECT_TIMEOUT_S.", TimedOut
    )
    TLS = ConnectionCase(
        "The secure connection to {host} failed. Check this computer's clock, whether the address should begin with "
        "https, and, in a company's network, whether REQUESTS_CA_BUNDLE names the company's certificates.",
        is_transient=False,
    )
    PROXY = ConnectionCase(
        "The network's proxy did not let the request through to {host}. Check HTTPS_PROXY, HTTP_PROXY and NO_PROXY."
    )
    READ_TIMEOUT = ConnectionCase(
        "{host} did not respond in time. Raise DALLE2_READ_TIMEOUT_S if its images take longer.", TimedOut
    )
    TOTAL_TIMEOUT = ConnectionCase("The exchange with {host} took too long as a whole. Try again later.", TimedOut)
    DROPPED = ConnectionCase("The connection to {host} broke before the response was complete. Check the network.")


def connection_error(kind: ConnectionProblem, host: str, *, sent: bool, billed: bool) -> ConnectionFailed:
    """The error for a connection to `host` that failed.

    `sent`: whether the server may have received the request; `billed`: whether that would cost anything.
    """
    row = kind.value
    charge = Charge.PAID_BEFORE
    if billed:
        charge = Charge.MAYBE if sent else Charge.NO
    return row.error(row.says.format(host=host), sent=sent, charge=charge, is_transient=row.is_transient)

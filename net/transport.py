"""HTTP transport: one exchange with a total deadline, a size limit, and no redirects. It never retries.

What `requests` raises becomes an error of `errors.py` that says whether the request may have arrived.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import DecodeError, HTTPError, ProxySchemeUnknown, ReadTimeoutError

from ..errors import ConnectionFailed, ConnectionProblem, connection_error
from ..threads import start_thread

log = logging.getLogger("openai-dalle")

CHUNK_BYTES = 2**16
MAX_ERROR_BYTES = 64 * 2**10  # an error is read only as far as its first sentences

# No compression is asked for, and yet proxies and virus scanners add it. urllib3 unpacks gzip and deflate everywhere,
# and these only where other libraries are installed, some of them without a limit.
UNREADABLE_ENCODINGS = ("br", "compress", "lz4", "snappy", "zstd", "dcb", "dcz")

# The last is what `requests` raises for a SOCKS proxy when the library for it is missing.
PROXY_ERRORS = (
    requests.exceptions.ProxyError,
    requests.exceptions.InvalidProxyURL,
    ProxySchemeUnknown,
    requests.exceptions.InvalidSchema,
)


@dataclass(frozen=True)
class HttpRequest:
    """One HTTP request.

    `timeout_s` is (connect, each read or write), `total_s` the time for the whole exchange, `limit_bytes` the size of
    a successful body. `billed` says that it costs money. Proxies and certificates come from the environment, as
    `requests` does it; every request has an `auth`, so that a login in `.netrc` never counts.
    """

    method: str
    url: str
    auth: AuthBase
    timeout_s: tuple[float, float]
    total_s: float
    limit_bytes: int
    params: Mapping[str, str] = field(default_factory=dict)
    json: Mapping[str, object] | None = None
    data: Mapping[str, str | int] | None = None
    files: Mapping[str, tuple[str, bytes, str]] | None = None
    billed: bool = False

    @property
    def host(self) -> str:
        """Host and port as they stand in the URL, for messages."""
        return urlsplit(self.url).netloc.rpartition("@")[2]


@dataclass(frozen=True)
class Reply:
    """A response that was read: of an error status, the first `MAX_ERROR_BYTES`; of a redirect, nothing.

    `is_too_large`: the body goes on after `limit_bytes`. `is_encoded`: it is compressed in a way that cannot be read.
    `cut_off` is the error that ended it before its time.
    """

    status_code: int
    headers: Mapping[str, str]
    body: bytearray
    location: str | None = None
    is_too_large: bool = False
    is_encoded: bool = False
    cut_off: ConnectionFailed | None = None

    @property
    def is_success(self) -> bool:
        """Whether the status is one of success."""
        return 200 <= self.status_code < 300


@dataclass
class _InFlight:
    """What is known of a request while it is under way."""

    request: HttpRequest
    expires_at: float
    sent: bool = False
    sock: Any = None

    @property
    def expired(self) -> bool:
        return time.monotonic() > self.expires_at

    def go_out(self, sock: Any) -> None:
        """From here on the server may receive the request. Raises TimeoutError where it must not go out any more.

        `sent` comes first: whoever gives up at the deadline then never takes a request for unsent that is sent later.
        """
        self.sent = True
        if self.expired:
            raise TimeoutError
        self.sock = sock

    def hang_up(self) -> None:
        """Break the connection: the thread that waits for the server ends."""
        with contextlib.suppress(OSError, AttributeError):  # closed already, or never there
            self.sock.shutdown(socket.SHUT_RDWR)


# urllib3 makes connections by itself, in the thread of the request: this is how one finds the request it is for.
_current = threading.local()


class _FinalResponse(http.client.HTTPResponse):
    """Skips interim responses such as 102 and 103 (RFC 9110, section 15.2); Python's own class skips only 100."""

    def _read_status(self) -> tuple[str, int, str]:
        version, status, reason = super()._read_status()  # type: ignore[misc]
        while status in (102, 103):
            http.client.parse_headers(self.fp)
            version, status, reason = super()._read_status()  # type: ignore[misc]
        return version, status, reason


class _Noting:
    """Mixed into urllib3's connections: notes when a request may have gone out, and sends it piece by piece."""

    sock: Any

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        in_flight: _InFlight = _current.in_flight
        in_flight.go_out(self.sock)
        # urllib3 would keep the connect timeout until everything is sent.
        self.sock.settimeout(in_flight.request.timeout_s[1])

    def send(self, data: Any) -> None:
        # A socket's timeout is for a whole `sendall`, and an upload takes as long as the user's line needs.
        for start in range(0, len(data), CHUNK_BYTES):
            super().send(data[start : start + CHUNK_BYTES])  # type: ignore[misc]


class _HTTPConnection(_Noting, HTTPConnection):
    response_class = _FinalResponse


class _HTTPSConnection(_Noting, HTTPSConnection):
    response_class = _FinalResponse


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _Adapter(HTTPAdapter):
    """An adapter of `requests` whose connections note what was sent, through an HTTP proxy, too."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if str(proxy).lower().startswith("socks"):
            _current.in_flight.sent = True  # its connections are made by a library of their own: assume the worst
        else:
            manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        return manager


class _Session(requests.Session):
    """A session for one request, which leaves redirects alone and asks for no compressed body: images gain nothing.

    A connection is never used again: the server may be about to close it, and nobody could tell then whether it had
    received a request that costs money (RFC 9112, section 9.6).
    """

    def __init__(self) -> None:
        super().__init__()
        self.headers.update({"Accept-Encoding": "identity", "Connection": "close", "User-Agent": "openai-dalle"})
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter())

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Even when it is not to follow a redirect, `requests` prepares the next request, and reads the whole body."""


class _RedactQuery(logging.Filter):
    """Cuts what follows a question mark, which signs a download, from urllib3's own log lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(part.partition("?")[0] if isinstance(part, str) else part for part in record.args)
        return True


_redact_query = _RedactQuery()


def exchange(request: HttpRequest) -> Reply:
    """Send a request and read the response. Raises ConnectionFailed; TimedOut after `total_s` at the latest."""
    logging.getLogger("urllib3.connectionpool").addFilter(_redact_query)  # the same one again changes nothing
    in_flight = _InFlight(request, expires_at=time.monotonic() + request.total_s)
    # A server can hold a thread up in many places (name resolution, a header that drips in); whoever waits for it is
    # free at the deadline.
    outcome = start_thread(lambda: _exchange(in_flight), "openai-dalle-http")
    try:
        return outcome.result(request.total_s)
    except futures.TimeoutError:  # in Python 3.10 not yet the built-in one
        in_flight.hang_up()
        raise _failure(ConnectionProblem.TOTAL_TIMEOUT, in_flight) from None


def _exchange(in_flight: _InFlight) -> Reply:
    request = in_flight.request
    _current.in_flight = in_flight
    try:
        with (
            _Session() as session,
            session.request(
                request.method,
                request.url,
                auth=request.auth,
                params=dict(request.params),
                json=request.json,
                data=request.data,
                files=request.files,
                timeout=request.timeout_s,
                allow_redirects=False,
                stream=True,
            ) as response,
        ):
            log.debug("%s %s%s -> %s", request.method, request.host, urlsplit(request.url).path, response.status_code)
            return _read(response, in_flight)
    except (requests.RequestException, HTTPError, OSError) as err:
        # Not chained: the text of the cause holds the whole URL, and with it what signs a download.
        raise _failure(_kind(err, in_flight), in_flight) from None


def _read(response: requests.Response, in_flight: _InFlight) -> Reply:
    headers = {name.lower(): value for name, value in response.headers.items()}
    if response.is_redirect:
        return Reply(response.status_code, headers, bytearray(), location=headers["location"])
    limit_bytes = in_flight.request.limit_bytes if 200 <= response.status_code < 300 else MAX_ERROR_BYTES
    body = bytearray()
    cut_off = None
    encoding = headers.get("content-encoding", "").strip().lower()
    response.raw.headers["content-encoding"] = encoding.removeprefix("x-")  # urllib3 takes no blanks, nor always x-gzip
    is_encoded = _is_unreadable(encoding)
    try:
        for piece in _pieces(response, in_flight) if not is_encoded else ():
            body += piece
            if len(body) > limit_bytes:
                break
    except DecodeError:
        is_encoded = True
    except (HTTPError, OSError) as err:
        cut_off = _failure(_kind(err, in_flight), in_flight)
    return Reply(
        response.status_code,
        headers,
        body,
        is_too_large=len(body) > limit_bytes,
        is_encoded=is_encoded,
        cut_off=cut_off,
    )


def _is_unreadable(encoding: str) -> bool:
    # Several compressions, one in the other, unpack to gigabytes at once.
    return "," in encoding or any(name in encoding for name in UNREADABLE_ENCODINGS)


def _pieces(response: requests.Response, in_flight: _InFlight) -> Iterator[bytes]:
    """The body as it comes in, unpacked.

    `read1` returns what there is: no wait for a full piece can pass the deadline, and nothing that arrived is lost when
    the connection breaks. urllib3 before 2.1 has only `read`, which loses the last piece then.
    """
    response.raw.enforce_content_length = True  # the default of urllib3 2, not of 1
    read = getattr(response.raw, "read1", None) or response.raw.read
    while not in_flight.expired:
        piece = read(CHUNK_BYTES, decode_content=True)
        if not piece:
            return
        yield piece
    raise TimeoutError


def _failure(kind: ConnectionProblem, in_flight: _InFlight) -> ConnectionFailed:
    return connection_error(kind, in_flight.request.host, sent=in_flight.sent, billed=in_flight.request.billed)


def _kind(error: Exception, in_flight: _InFlight) -> ConnectionProblem:
    """Which of the cases in `errors` an exception of `requests` or urllib3 stands for."""
    causes = _causes(error)

    def is_about(*types: type[BaseException]) -> bool:
        return any(isinstance(cause, types) for cause in causes)

    if in_flight.expired:
        return ConnectionProblem.TOTAL_TIMEOUT
    if in_flight.sent:
        return ConnectionProblem.READ_TIMEOUT if is_about(TimeoutError, ReadTimeoutError) else ConnectionProblem.DROPPED
    if is_about(*PROXY_ERRORS):
        return ConnectionProblem.PROXY
    # Anything else that is no error of the libraries is about a certificate bundle that is not there.
    if is_about(ssl.SSLError) or not isinstance(error, (requests.RequestException, HTTPError)):
        return ConnectionProblem.TLS
    if is_about(TimeoutError):
        return ConnectionProblem.CONNECT_TIMEOUT
    # A ValueError is what libraries raise for an address that cannot be one.
    return ConnectionProblem.NAME if is_about(socket.gaierror, ValueError) else ConnectionProblem.REFUSED


def _causes(error: BaseException) -> list[BaseException]:
    """The exception and all that led to it, wherever the libraries keep it."""
    seen: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        cause = waiting.pop()
        if isinstance(cause, BaseException) and cause not in seen:
            seen.append(cause)
            waiting += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
    return seen

"""One HTTP exchange under guard: what `requests` does not offer, and a client that is paid by the picture needs.

A `Link` ends an exchange at a deadline however slowly its bytes drip in, reads no more than it was told to, follows no
redirect, and can refuse to talk to addresses that are not public, judged by the peer of the connected socket and so
after every trick of name resolution. What `requests` raises becomes an error of `errors.py`. It never retries.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError, LocationParseError, ProxySchemeUnknown, ReadTimeoutError

from .addresses import PrivateAddress, is_public
from .errors import ConnectionFailed, UnusableAnswer, link_fault

log = logging.getLogger("comfyui-openai-dalle2")
_urllib3_log = logging.getLogger("urllib3.connectionpool")

CHUNK_BYTES = 2**16
POOL_SIZE = 32  # connections kept per host: one node can have four answers of eight pictures each to fetch

# The last is what `requests` raises for a SOCKS proxy when the library for it is missing.
PROXY_ERRORS = (
    requests.exceptions.ProxyError,
    requests.exceptions.InvalidProxyURL,
    ProxySchemeUnknown,
    requests.exceptions.InvalidSchema,
)


class Watch:
    """What became of one request: whether it was `sent`, and whether its deadline has `expired`."""

    def __init__(self) -> None:
        self.sent = False
        self.expired = False
        self._twin: socket.socket | None = None
        self._lock = threading.Lock()

    def follow(self, sock: Any) -> None:
        """Hold on to the connection that the request is about to use.

        A duplicate, because the socket itself changes hands: TLS takes it over before its handshake, and its own
        shutdown is not safe beside a reading thread.
        """
        self.close()
        with self._lock:
            self._twin = socket.fromfd(sock.fileno(), socket.AF_INET, socket.SOCK_STREAM)
        if self.expired:
            self.end()

    def end(self) -> None:
        """Break the connection off, and the next one as soon as it is there."""
        self.expired = True
        with self._lock, suppress(OSError):
            if self._twin is not None:
                self._twin.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the connection."""
        with self._lock:
            if self._twin is not None:
                self._twin.close()
            self._twin = None


class Guard(logging.Filter):
    """Knows the request that each thread is making, and whether its peer has to be public.

    Being a filter of a log, it cuts what follows a question mark, which signs a download, from lines of these threads.
    """

    def __init__(self, *, public_only: bool) -> None:
        super().__init__()
        self._public_only = public_only
        self._watches: dict[int, Watch] = {}

    def connected(self, sock: socket.socket, *, proxied: bool) -> None:
        """Take note of a new connection of this thread; raise PrivateAddress if there must be none."""
        if self._public_only and not proxied and not is_public(sock.getpeername()[0]):
            raise PrivateAddress
        self.watch.follow(sock)

    @property
    def watch(self) -> Watch:
        """The watch over this thread's request."""
        return self._watches[threading.get_ident()]

    def filter(self, record: logging.LogRecord) -> bool:
        if threading.get_ident() in self._watches and isinstance(record.args, tuple):
            record.args = tuple(part.partition("?")[0] if isinstance(part, str) else part for part in record.args)
        return True

    @contextmanager
    def deadline(self, seconds: float) -> Iterator[Watch]:
        """Break off the request that this thread makes inside the block when `seconds` have passed."""
        watch = self._watches[threading.get_ident()] = Watch()
        timer = threading.Timer(seconds, watch.end)
        timer.daemon = True
        timer.start()
        try:
            yield watch
        finally:
            timer.cancel()
            watch.close()
            del self._watches[threading.get_ident()]


class _Guarded(HTTPConnection):
    """Mixed into urllib3's connections: reports each socket before anything is done with it, TLS included."""

    guard: Guard
    proxied: bool
    sock: Any

    def _new_conn(self) -> socket.socket:
        sock = self._first_that_accepts()
        try:
            self.guard.connected(sock, proxied=self.proxied)
        except BaseException:
            sock.close()
            raise
        return sock

    def _first_that_accepts(self) -> socket.socket:
        """Try the addresses of the host one by one, as urllib3 does by itself, but none after the deadline."""
        name = self._dns_host
        try:
            addresses = [info[4][0] for info in socket.getaddrinfo(name, self.port, type=socket.SOCK_STREAM)]
        except UnicodeError as err:  # a name that cannot be one
            raise LocationParseError(name) from err
        try:
            while True:
                self._dns_host = str(addresses.pop(0))
                try:
                    return super()._new_conn()
                except HTTPError:
                    if not addresses or self.guard.watch.expired:
                        raise
        finally:
            self._dns_host = name

    def connect(self) -> None:
        super().connect()
        self.guard.watch.sent = True

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:  # a connection that was kept alive: it was approved when it was made
            self.guard.watch.follow(self.sock)
            self.guard.watch.sent = True
        super().request(*args, **kwargs)


class GuardedAdapter(HTTPAdapter):
    """An adapter of `requests` whose connections report to a `Guard`. It never retries: one layer above does."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        super().__init__(pool_maxsize=POOL_SIZE)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self._watch_over(self.poolmanager, proxied=False)

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        is_new = proxy not in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **kwargs)
        if is_new:
            self._watch_over(manager, proxied=True)
        return manager

    def _watch_over(self, manager: Any, *, proxied: bool) -> None:
        hooks = {"guard": self._guard, "proxied": proxied}
        manager.pool_classes_by_scheme = {
            scheme: type(
                pool.__name__, (pool,), {"ConnectionCls": type("Guarded", (_Guarded, pool.ConnectionCls), hooks)}
            )
            for scheme, pool in manager.pool_classes_by_scheme.items()
        }


class _Session(requests.Session):
    """A session that leaves redirects alone.

    Even when it is not to follow one, `requests` prepares the next request, and reads the whole body for that.
    """

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class Link:
    """A session of `requests` under guard; use it as a context manager.

    `timeout_s` is (connect, each read), `total_s` the time for a whole exchange, body included. `public_only` refuses
    peers inside a network, except a proxy. Proxies and certificate bundles come from the environment, as `requests`
    does it; a `.netrc` never counts, because every exchange has an `auth`.
    """

    def __init__(self, *, timeout_s: tuple[float, float], total_s: float, public_only: bool = False) -> None:
        self._timeout_s = timeout_s
        self._total_s = total_s
        self._guard = Guard(public_only=public_only)
        _urllib3_log.addFilter(self._guard)
        self._session = _Session()
        # Compressed pictures gain nothing, and a compressed body could unfold beyond any limit.
        self._session.headers.update({"Accept-Encoding": "identity", "User-Agent": "comfyui-openai-dalle2"})
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, GuardedAdapter(self._guard))

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of every connection."""
        _urllib3_log.removeFilter(self._guard)
        self._session.close()

    @contextmanager
    def open(
        self, method: str, url: str, *, total_s: float | None = None, billed: bool = False, **options: Any
    ) -> Iterator[requests.Response]:
        """The answer to a request, body still unread; `options` are those of `requests`.

        `billed` says that the request costs money. Raises ConnectionFailed, and PrivateAddress where a public peer is
        wanted and is none.
        """
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        options = {"timeout": self._timeout_s, "allow_redirects": False, "stream": True, **options}
        if billed:  # never on a connection that the server may be about to close: nobody could tell what it had got
            options["headers"] = {"Connection": "close"}
        with self._guard.deadline(total_s or self._total_s) as watch:
            try:
                with self._session.request(method, url, **options) as response:
                    log.debug("%s %s%s -> %s", method, host, parts.path, response.status_code)
                    yield response
            except (requests.RequestException, HTTPError, OSError) as err:
                # Not chained: the text of the cause holds the whole URL, and with it what signs a download.
                raise translate(err, host, watch, billed=billed) from None
            if watch.expired:  # a body without a length ends quietly when its connection is broken off
                raise link_fault("total_timeout", host, sent=True, billed=billed)


def read(response: requests.Response, limit_bytes: int) -> bytes:
    """The whole body. Raises UnusableAnswer beyond the limit, and urllib3's HTTPError when it is cut off."""
    if _is_encoded(response):
        raise UnusableAnswer(
            "The server sent a compressed answer, which was not asked for. Configure it to send answers as they are."
        )
    body = _read_raw(response, limit_bytes + 1)
    if len(body) > limit_bytes:
        raise UnusableAnswer(
            f"The server sent more than {limit_bytes / 2**20:g} MiB, which is too much to be read. Ask for fewer or "
            "smaller pictures at once."
        )
    return bytes(body)


def read_some(response: requests.Response, limit_bytes: int) -> bytes:
    """The first bytes of the body, up to `limit_bytes`; none if it is compressed or cut off."""
    if _is_encoded(response):
        return b""
    try:
        return bytes(_read_raw(response, limit_bytes))
    except HTTPError:
        return b""


def _is_encoded(response: requests.Response) -> bool:
    return response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity")


def _read_raw(response: requests.Response, limit_bytes: int) -> bytearray:
    """Up to `limit_bytes`, piece by piece into one buffer.

    Not through `iter_content`: its pieces are a server's chunks, of one byte if it likes, and the line that announces a
    chunk has no limit there.
    """
    response.raw.enforce_content_length = True  # the default of urllib3 2, not of 1
    body = bytearray()
    while len(body) < limit_bytes:
        piece = response.raw.read(min(CHUNK_BYTES, limit_bytes - len(body)), decode_content=False)
        if not piece:
            break
        body += piece
    return body


def translate(error: Exception, host: str, watch: Watch, *, billed: bool) -> ConnectionFailed:
    """The error of ours for what `requests` raised about a request to `host`."""
    return link_fault(_kind(error, watch), host, sent=watch.sent, billed=billed)


def _kind(error: Exception, watch: Watch) -> str:
    causes = list(_causes(error))

    def is_about(*types: type[BaseException]) -> bool:
        return any(isinstance(cause, types) for cause in causes)

    if watch.expired:
        return "total_timeout"
    if watch.sent:
        return "read_timeout" if is_about(TimeoutError, ReadTimeoutError) else "dropped"
    if is_about(*PROXY_ERRORS):
        return "proxy"
    # Anything else that is no error of the libraries is about a certificate bundle that is not there.
    if is_about(ssl.SSLError) or not isinstance(error, (requests.RequestException, HTTPError)):
        return "tls"
    if is_about(TimeoutError):
        return "connect_timeout"
    # A ValueError is what libraries raise for an address that cannot be one.
    return "dns" if is_about(socket.gaierror, ValueError) else "refused"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and all that led to it, wherever the libraries keep it."""
    seen: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        link = waiting.pop()
        if isinstance(link, BaseException) and link not in seen:
            seen.append(link)
            waiting += [link.__cause__, link.__context__, getattr(link, "reason", None), *link.args]
    return iter(seen)

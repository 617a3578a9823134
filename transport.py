"""One HTTP exchange under guard: what `requests` does not offer, and a client that is paid by the picture needs.

A `Link` ends an exchange at a deadline however slowly its bytes drip in, reads no more than it was told to, follows no
redirect, and can refuse to talk to addresses that are not public, judged by the peer of the connected socket and so
after every trick of name resolution. What `requests` raises becomes an error of `errors.py`. It never retries.
"""

from __future__ import annotations

import ipaddress
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
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, LocationValueError, ReadTimeoutError

from .errors import CHARGED, ConnectionFailed, UnusableAnswer, link_fault

log = logging.getLogger("comfyui-openai-dalle2")

CHUNK_BYTES = 2**16
POOL_SIZE = 16  # connections kept per host: as many as there are downloads side by side, and room


class PrivateAddress(UnusableAnswer):
    """A host that should have been public resolved to an address inside a network."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet (RFC 6890), IPv4 inside IPv6 included."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    inner = ip.ipv4_mapped or ip.sixtofour if isinstance(ip, ipaddress.IPv6Address) else None
    return (inner or ip).is_global and not ip.is_multicast


class Watch:
    """What became of one request: the socket it was `sent` through, and whether its deadline has `expired`."""

    def __init__(self) -> None:
        self.expired = False
        self.socket: socket.socket | None = None

    @property
    def sent(self) -> bool:
        """Whether a connection was made, so that the request may have arrived."""
        return self.socket is not None

    def end(self) -> None:
        """Break the connection off."""
        self.expired = True
        if self.socket is not None:
            with suppress(OSError):
                # Past the TLS layer, whose own shutdown is not safe beside a reading thread.
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)


class Guard:
    """Knows the request that each thread is making, and whether its peer has to be public."""

    def __init__(self, *, public_only: bool) -> None:
        self._public_only = public_only
        self._watches: dict[int, Watch] = {}

    def opened(self, sock: socket.socket, *, proxied: bool) -> None:
        """Take note of the socket that this thread sends through; raise PrivateAddress if it must not."""
        if self._public_only and not proxied and not is_public(sock.getpeername()[0]):
            raise PrivateAddress("The server's answer points to an address inside a private network, which is refused.")
        if watch := self._watches.get(threading.get_ident()):
            watch.socket = sock

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
            del self._watches[threading.get_ident()]


class _Guarded(HTTPConnection):
    """Mixed into urllib3's connections: reports the socket whenever a request is about to use it."""

    guard: Guard
    proxied: bool
    sock: Any

    def connect(self) -> None:
        super().connect()
        self.guard.opened(self.sock, proxied=self.proxied)

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:
            self.guard.opened(self.sock, proxied=self.proxied)
        super().request(*args, **kwargs)


class GuardedAdapter(HTTPAdapter):
    """An adapter of `requests` whose connections report to a `Guard`. It never retries: one layer above does."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        super().__init__(pool_maxsize=POOL_SIZE)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools(proxied=False)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        if not kwargs.get("proxy", args[0] if args else "").lower().startswith("socks"):
            manager.pool_classes_by_scheme = self._pools(proxied=True)
        return manager

    def _pools(self, *, proxied: bool) -> dict[str, type]:
        def guarded(pool: type, connection: type) -> type:
            hooks = {"guard": self._guard, "proxied": proxied}
            return type(pool.__name__, (pool,), {"ConnectionCls": type("Guarded", (_Guarded, connection), hooks)})

        return {
            "http": guarded(HTTPConnectionPool, HTTPConnection),
            "https": guarded(HTTPSConnectionPool, HTTPSConnection),
        }


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
        self._session = requests.Session()
        # Compressed pictures gain nothing, and a compressed body could unfold beyond any limit.
        self._session.headers.update({"Accept-Encoding": "identity", "User-Agent": "comfyui-openai-dalle2"})
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, GuardedAdapter(self._guard))

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    @contextmanager
    def open(self, method: str, url: str, **options: Any) -> Iterator[requests.Response]:
        """The answer to a request, body still unread; `options` are those of `requests`. Raises ConnectionFailed."""
        host = urlsplit(url).netloc.rpartition("@")[2]
        options = {"timeout": self._timeout_s, "allow_redirects": False, "stream": True, **options}
        with self._guard.deadline(self._total_s) as watch:
            try:
                with self._session.request(method, url, **options) as response:
                    log.debug("%s %s -> %s", method, url.partition("?")[0], response.status_code)
                    yield response
            except (requests.RequestException, LocationValueError) as err:
                # Not chained: the text of the cause holds the whole URL, and with it what signs a download.
                raise translate(err, host, watch) from None
            if watch.expired:  # a body without a length ends quietly when its connection is broken off
                raise link_fault("total_timeout", host, sent=True)


def read(response: requests.Response, limit_bytes: int) -> bytes:
    """The whole body. Raises UnusableAnswer beyond the limit, and `requests`' own error when it is cut off."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise UnusableAnswer(f"The server sent a compressed answer, which was not asked for. {CHARGED}")
    expected = response.headers.get("content-length", "")
    body = read_some(response, limit_bytes + 1)
    if len(body) > limit_bytes:
        raise UnusableAnswer(f"The server sent more than {limit_bytes >> 20} MiB, which is too much. {CHARGED}")
    if expected.isdigit() and len(body) < int(expected):
        raise requests.exceptions.ChunkedEncodingError("the body is shorter than announced")
    return body


def read_some(response: requests.Response, limit_bytes: int) -> bytes:
    """The first bytes of the body, up to about `limit_bytes`."""
    chunks, size = [], 0
    for chunk in response.iter_content(CHUNK_BYTES):
        chunks.append(chunk)
        size += len(chunk)
        if size >= limit_bytes:
            break
    return b"".join(chunks)


def translate(error: Exception, host: str, watch: Watch) -> ConnectionFailed:
    """The error of ours for what `requests` raised about a request to `host`."""
    return link_fault(_kind(error, watch), host, sent=watch.sent)


def _kind(error: Exception, watch: Watch) -> str:
    causes = list(_causes(error))

    def is_about(*types: type[BaseException]) -> bool:
        return any(isinstance(cause, types) for cause in causes)

    if watch.expired:
        return "total_timeout"
    if watch.sent:
        return "read_timeout" if is_about(TimeoutError, ReadTimeoutError) else "dropped"
    if is_about(requests.exceptions.ProxyError, requests.exceptions.InvalidProxyURL):
        return "proxy"
    if is_about(ssl.SSLError):
        return "tls"
    if is_about(TimeoutError, ConnectTimeoutError):
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

"""Where an image may be fetched from: the API's own origin, or https on a host of the public internet."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

import requests

from ..errors import Charge, UnusableAnswer
from ..models import shortened

MAX_URL_CHARACTERS = 8192  # as much as most servers accept

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # holds an IPv4 address in its last 32 bits, and leads to it (RFC 6052)
_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that has been given out so far (RFC 4291)
# 6to4, which leads to the IPv4 address in it and is switched off (RFC 7526), and documentation (RFC 9637).
_NOT_PUBLIC = (ipaddress.IPv6Network("2002::/16"), ipaddress.IPv6Network("3fff::/20"))

# What Clash, sing-box and Surge answer for every name ("fake IP"): connections to it go through their tunnel.
# They are of 198.18.0.0/15, which is meant for benchmarks (RFC 2544).
FAKE_IP = ("198.18.", "198.19.")


class PrivateAddress(UnusableAnswer):
    """A host that has to be public has an address inside a private network."""

    def __init__(self) -> None:
        super().__init__(
            "The image's address leads into a private network, which is refused. Look at this computer's VPN or proxy, "
            "or configure the server to respond with base64 (b64_json) instead of addresses.",
            charge=Charge.PAID_BEFORE,
        )


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet (RFC 6890). Raises ValueError for what is no IP address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip in _NAT64:
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if ip.version == 6 and (ip not in _UNICAST or any(ip in network for network in _NOT_PUBLIC)):
        return False
    return ip.is_global and not ip.is_multicast


def as_sent(url: str) -> str:
    """A URL as `requests` reads and sends it, so that what is checked is what is fetched. Raises ValueError."""
    return requests.Request("GET", url).prepare().url or ""


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an absolute URL (RFC 6454)."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def is_relative(url: str) -> bool:
    """Whether a URL names no host of its own, and so belongs to the API."""
    if len(url) > MAX_URL_CHARACTERS:  # before it is parsed: urlsplit remembers its last 128 arguments
        return False
    try:
        return not urlsplit(url).netloc
    except ValueError:  # `absolute_url` raises for it
        return False


def absolute_url(base: str, url: str, hide: Callable[[str], str] = str) -> str:
    """The absolute form of an image's URL. Raises UnusableAnswer for what is no URL; `hide` takes keys out of it."""
    try:
        if len(url) > MAX_URL_CHARACTERS:
            raise ValueError("the URL is too long")
        address = as_sent(urljoin(base, url))
        origin(address)
    except ValueError:
        raise UnusableAnswer(unfetchable_url_message(url, hide), charge=Charge.PAID_BEFORE) from None
    return address


def with_https_of(own: tuple[str, str, int | None], address: str) -> str:
    """An address on an origin's host, with that origin's https: behind a proxy, a server does not know of its TLS."""
    scheme, host, port = origin(address)
    is_same_server = host == own[1] and (port == own[2] or (port, own[2]) == (80, 443))
    if own[0] != "https" or scheme != "http" or not is_same_server:
        return address
    parts = urlsplit(address)
    return parts._replace(scheme="https", netloc=parts.netloc.removesuffix(":80")).geturl()


def refuse_private(address: str, hide: Callable[[str], str] = str) -> None:
    """Raise UnusableAnswer unless an address is https on a host whose every IP address is public.

    For a name, a tunnel's fake addresses count as public, too. A name that resolves to something else a moment later
    (DNS rebinding) fails at TLS: a private host has no certificate for the public name.
    """
    host = (urlsplit(address).hostname or "").rstrip(".")
    if not address.startswith("https://") or not host:
        raise UnusableAnswer(unfetchable_url_message(address, hide), charge=Charge.PAID_BEFORE)
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return  # a proxy may know the name; without one, the request itself fails
    fakes = FAKE_IP if _is_name(host) else ()
    for info in found:
        ip = str(info[4][0])
        if not is_public(ip) and not ip.startswith(fakes):
            raise PrivateAddress


def _is_name(host: str) -> bool:
    """Whether this is no IP address, in any of the spellings that are taken for one."""
    try:
        socket.inet_aton(host)
    except OSError:
        return ":" not in host
    return False


def unfetchable_url_message(url: str, hide: Callable[[str], str] = str) -> str:
    """What the user is told of a URL that cannot be fetched, without a login in it or what follows a question mark."""
    shown = shortened(hide(re.sub(r"//[^/]*@", "//", url[:MAX_URL_CHARACTERS].partition("?")[0])), 80)
    return (
        f"The server responded with an address of an image that cannot be fetched: {shown} (it must begin with https, "
        "or be an address of the server itself). A file path is one on the server's own disk: configure the server to "
        "respond with base64 (b64_json)."
    )

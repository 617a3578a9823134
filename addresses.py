"""Where a picture may be fetched from: the API's own origin, or https on a host of the public internet.

A URL's text is judged here before anything is sent; `transport` judges the peer of each connected socket by `is_public`
once more, so that no name can resolve its way into a private network.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import urljoin, urlsplit

import requests

from .errors import UnusableAnswer
from .models import shortened

MAX_URL_CHARACTERS = 8192  # as much as most servers accept

# IPv6 addresses of these networks hold an IPv4 address in their last 32 bits, and lead to it (RFC 6052, RFC 4291).
_EMBEDDING = tuple(ipaddress.IPv6Network(network) for network in ("64:ff9b::/96", "::/96"))

_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that has been given out so far (RFC 4291)
_DOCUMENTATION = ipaddress.IPv6Network("3fff::/20")  # RFC 9637, which older Pythons do not know


class PrivateAddress(UnusableAnswer):
    """A host that should have been public has an address inside a network."""

    def __init__(self) -> None:
        super().__init__(
            "The picture's address leads into a private network, which is refused. Configure the server to answer with "
            "base64 (b64_json) instead of addresses."
        )


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet (RFC 6890), IPv4 inside IPv6 included.

    Raises ValueError for what is no IP address.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = _embedded(ip) or ip
    if isinstance(ip, ipaddress.IPv6Address) and (ip not in _UNICAST or ip in _DOCUMENTATION):
        return False
    return ip.is_global and not ip.is_multicast


def _embedded(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if any(ip in network for network in _EMBEDDING):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour


def as_sent(url: str) -> str:
    """A URL as `requests` reads and sends it, so that what is checked is what is connected to. Raises ValueError."""
    return requests.Request("GET", url).prepare().url or ""


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an absolute URL (RFC 6454)."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def is_relative(url: str) -> bool:
    """Whether a URL names no host of its own, and so belongs to the API."""
    try:
        return not urlsplit(url).netloc
    except ValueError:  # as `joined` will say
        return False


def joined(base: str, url: str) -> str:
    """The absolute form of a picture's URL. Raises UnusableAnswer for what is no URL."""
    try:
        if len(url) > MAX_URL_CHARACTERS:
            raise ValueError("the URL is too long")
        address = as_sent(urljoin(base, url))
        origin(address)
    except ValueError:
        raise UnusableAnswer(strange_address(url)) from None
    return address


def refuse_private(address: str) -> None:
    """Raise UnusableAnswer unless an address is https and leads, as far as its text tells, into the internet."""
    host = (urlsplit(address).hostname or "").rstrip(".")
    if not address.startswith("https://") or not host:
        raise UnusableAnswer(strange_address(address))
    try:
        allowed = is_public(_as_number(host))
    except ValueError:  # a name: what it resolves to is checked when it is connected to
        allowed = host != "localhost" and not host.endswith(".localhost")
    if not allowed:
        raise PrivateAddress


def _as_number(host: str) -> str:
    """An IPv4 address in one of its older spellings, such as 127.1 or 0x7f000001, in the usual one."""
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return host


def strange_address(url: str) -> str:
    """What the user is told of a URL that cannot be fetched, without what follows a question mark."""
    shown = shortened(re.sub(r"//[^/]*@", "//", url.partition("?")[0]), 80)
    return (
        f"The server answered with an address of a picture that cannot be fetched: {shown} (it must begin with https, "
        "or be an address of the server itself). A file path means that the server ignored response_format=b64_json: "
        "configure it to answer with base64."
    )

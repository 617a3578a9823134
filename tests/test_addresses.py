"""Which addresses count as public, and what is shown of one that is refused."""

from __future__ import annotations

import socket
from contextlib import nullcontext
from urllib import parse

import pytest

from dalle2.errors import UnusableAnswer
from dalle2.net.addresses import (
    MAX_URL_CHARACTERS,
    PrivateAddress,
    absolute_url,
    as_sent,
    is_public,
    is_relative,
    origin,
    refuse_private,
    with_https_of,
)


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "0.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "198.18.0.1", "224.0.0.1", "240.0.0.1"),
        *("::", "::1", "fe80::1%eth0", "fc00::1", "ff02::1", "2001:db8::1", "fec0::1", "3fff::1", "4000::1"),
        *("::ffff:127.0.0.1", "::ffff:0:7f00:1", "::10.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::"),
    ],
)
def test_addresses_inside_of_networks_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    ("base", "address", "expected"),
    [
        ("https://gw.example/v1", "http://gw.example/a.png?b", "https://gw.example/a.png?b"),
        ("https://gw.example:8443/v1", "http://gw.example:8443/a.png", "https://gw.example:8443/a.png"),
        ("https://GW.example:443/v1", "http://gw.example:80/a.png", "https://gw.example/a.png"),
        ("https://gw.example/v1", "http://gw.example:8080/a.png", "http://gw.example:8080/a.png"),
        ("https://gw.example/v1", "http://other.example/a.png", "http://other.example/a.png"),
        ("http://gw.example/v1", "https://gw.example/a.png", "https://gw.example/a.png"),
    ],
)
def test_a_server_that_does_not_know_of_its_https_is_understood(base: str, address: str, expected: str) -> None:
    assert with_https_of(origin(as_sent(base)), address) == expected


@pytest.mark.parametrize(
    ("found", "is_refused"),
    [
        (["10.0.0.1"], True),
        (["8.8.8.8", "fe80::1%eth0"], True),
        (["198.18.0.5", "10.0.0.1"], True),
        (["198.18.0.5"], False),  # as Clash and its like answer for any name
        (["8.8.8.8", "2001:4860:4860::8888"], False),
    ],
)
def test_a_name_with_any_private_address_is_refused(
    found: list[str], is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    infos = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in found]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: infos)
    with pytest.raises(PrivateAddress) if is_refused else nullcontext():
        refuse_private("https://pictures.example.com/a.png")


@pytest.mark.parametrize("host", ["8.8.8.8", "134744072", "[2001:4860:4860::8888]", "name.invalid", "a" * 64 + ".com"])
def test_a_public_address_and_an_unknown_name_are_not_refused(host: str) -> None:
    refuse_private(f"https://{host}/a.png")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://[::1/a\n[ERROR] a line\x1b[2J of its own\u202e", "http://[::1/a [ERROR] a line [2J of its own"),
        ("http://[me:pa55word@::1/k3y/a.png?signature=s1gned", "http://::1/***/a.png"),
        ("https://k3y/" + "a" * 8000 + "k3y" * 4000, "https://***/" + "a" * 67 + "…"),
    ],
)
def test_a_refused_address_is_shown_as_one_short_line_without_secrets(url: str, shown: str) -> None:
    with pytest.raises(UnusableAnswer) as caught:
        absolute_url("https://example.com/v1/", url, lambda text: text.replace("k3y", "***"))
    assert f"cannot be fetched: {shown} (it must begin with https" in str(caught.value)


@pytest.mark.parametrize("url", ["https://example.com/" + "a" * 10_000_000, "a" * 10_000_000])
def test_a_huge_address_leaves_nothing_behind(url: str) -> None:
    remembered = parse.urlsplit.cache_info().currsize  # type: ignore[attr-defined]
    assert not is_relative(url)
    with pytest.raises(UnusableAnswer):
        absolute_url("https://example.com/v1/", url)
    assert parse.urlsplit.cache_info().currsize == remembered  # type: ignore[attr-defined]


def test_an_address_of_the_limit_is_joined() -> None:
    url = "/" + "a" * (MAX_URL_CHARACTERS - 1)
    assert is_relative(url)
    assert absolute_url("https://example.com/v1/", url) == f"https://example.com{url}"

"""Which addresses count as public."""

from __future__ import annotations

import pytest

from dalle2.addresses import PrivateAddress, is_public, refuse_private


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "1.1.1.1",
        "2001:4860:4860::8888",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::1",
        "::8.8.8.8",
    ],
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.9.1", "0.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.1.1.1", "255.255.255.255", "240.0.0.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1"),
        *("fec0::1", "64:ff9b:1::7f00:1", "::ffff:0:7f00:1", "3fff::1", "5f00::1", "4000::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "::10.0.0.1"),
    ],
)
def test_addresses_inside_of_networks_are_not(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("text", ["", "localhost", "1.2.3", "0x7f000001", "2130706433", "[::1]"])
def test_what_is_no_address_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        is_public(text)


@pytest.mark.parametrize(
    "host",
    [
        *("127.1", "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1", "10.1", "169.254.43518", "127.0.0.1."),
        *("localhost", "localhost.", "a.localhost", "[::1]", "[::ffff:10.0.0.1]"),
    ],
)
def test_a_private_host_is_refused_however_it_is_spelled(host: str) -> None:
    with pytest.raises(PrivateAddress):
        refuse_private(f"https://{host}/a.png")


@pytest.mark.parametrize(
    "host", ["example.com", "example.com.", "8.8.8.8", "134744072", "[2001:4860:4860::8888]", "a-1"]
)
def test_a_public_host_is_not(host: str) -> None:
    refuse_private(f"https://{host}/a.png")

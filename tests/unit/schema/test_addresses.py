"""Test which addresses are public. The expectations are from IANA's registries and the RFCs that they name."""

from ipaddress import ip_address

import pytest

from schema.addresses import of_one_site, why_not_public

PUBLIC = [
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.3.0",
    "192.88.98.255",
    "192.88.100.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "198.51.99.255",
    "198.51.101.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
    "2000::1",
    "2001:200::1",
    "2001:db7:ffff::1",
    "2001:db9::1",
    "2003::1",
    "2606:4700:4700::1111",
    "2a01:4f8::1",
    "3ffe:ffff::1",
    "3fff:1000::1",
    "64:ff9b::808:808",  # NAT64 of 8.8.8.8
    "2002:808:808::1",  # 6to4 of 8.8.8.8
    "2001:0:808:808:0:ffff:f7f7:f7f7",  # Teredo by 8.8.8.8, translated to 8.8.8.8
    "::ffff:8.8.8.8",
]

NOT_PUBLIC = {
    "0.0.0.0": "unspecified",
    "0.0.0.1": "this network",
    "0.255.255.255": "this network",
    "10.0.0.0": "private",
    "10.255.255.255": "private",
    "100.64.0.0": "carrier",
    "100.127.255.255": "carrier",
    "127.0.0.0": "loopback",
    "127.255.255.255": "loopback",
    "169.254.0.0": "link-local",
    "169.254.169.254": "link-local",
    "169.254.255.255": "link-local",
    "172.16.0.0": "private",
    "172.31.255.255": "private",
    "192.0.0.0": "protocol",
    "192.0.0.9": "protocol",
    "192.0.0.255": "protocol",
    "192.0.2.0": "documentation",
    "192.0.2.255": "documentation",
    "192.88.99.0": "6to4 relay",
    "192.88.99.255": "6to4 relay",
    "192.168.0.0": "private",
    "192.168.255.255": "private",
    "198.18.0.0": "benchmarking",
    "198.19.255.255": "benchmarking",
    "198.51.100.0": "documentation",
    "198.51.100.255": "documentation",
    "203.0.113.0": "documentation",
    "203.0.113.255": "documentation",
    "224.0.0.0": "multicast",
    "239.255.255.255": "multicast",
    "240.0.0.0": "reserved",
    "255.255.255.254": "reserved",
    "255.255.255.255": "broadcast",
    "::": "unspecified",
    "::1": "loopback",
    "::2": "IPv4-compatible",
    "::8.8.8.8": "IPv4-compatible",
    "::200.1.1.1": "IPv4-compatible",
    "::1:808:808": "not the address of a host",
    "::ffff:0:808:808": "not the address of a host",  # RFC 2765's translated addresses
    "::ffff:10.0.0.1": "private",
    "::ffff:127.0.0.1": "loopback",
    "64:ff9b::a00:1": "private",  # NAT64 of 10.0.0.1
    "64:ff9b::7f00:1": "loopback",
    "64:ff9b::6440:1": "carrier",
    "64:ff9b::c0a8:101": "private",
    "64:ff9b::e000:1": "multicast",
    "64:ff9b::": "unspecified",
    "64:ff9b:0:0:0:1::": "not the address of a host",
    "64:ff9b:1::808:808": "local NAT64",
    "64:ff9b:1:ffff:ffff:ffff:ffff:ffff": "local NAT64",
    "64:ff9b:2::1": "not the address of a host",
    "100::1": "discarded",
    "100::ffff:ffff:ffff:ffff": "discarded",
    "100:0:0:1::1": "not the address of a host",
    "1fff:ffff::1": "not the address of a host",
    "2001:0:a00:1:0:ffff:f7f7:f7f7": "private",  # Teredo by 10.0.0.1
    "2001:0:808:808:0:ffff:f5ff:fffe": "private",  # Teredo, translated to 10.0.0.1
    "2001:0:808:808:0:ffff:80ff:fffe": "loopback",
    "2001:1::1": "protocol",
    "2001:2::1": "protocol",
    "2001:10::1": "protocol",
    "2001:20::1": "protocol",
    "2001:1ff:ffff::1": "protocol",
    "2001:db8::1": "documentation",
    "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff": "documentation",
    "2002:a00:1::1": "private",  # 6to4 of 10.0.0.1
    "2002:7f00:1::1": "loopback",
    "2002:c0a8:101::1": "private",
    "2002:c058:6301::1": "6to4 relay",
    "3fff::1": "documentation",
    "3fff:fff:ffff::1": "documentation",
    "4000::1": "not the address of a host",
    "5f00::1": "not the address of a host",
    "8000::1": "not the address of a host",
    "fc00::1": "private",
    "fdff:ffff::1": "private",
    "fe00::1": "not the address of a host",
    "fe80::1": "link-local",
    "febf:ffff::1": "link-local",
    "fec0::1": "site-local",
    "feff:ffff::1": "site-local",
    "ff00::1": "multicast",
    "ff02::101": "multicast",
    "ffff::1": "multicast",
}


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_recognised(text: str) -> None:
    assert why_not_public(ip_address(text)) is None


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_other_addresses_are_recognised_with_the_reason(text: str) -> None:
    assert NOT_PUBLIC[text] in (why_not_public(ip_address(text)) or "public")


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("9.9.9.1", "9.9.9.255", True),
        ("9.9.9.1", "9.9.8.1", False),
        ("2620:fe:0:1::1", "2620:fe:0:ffff::1", True),
        ("2620:fe:0:1::1", "2620:fe:1:1::1", False),
        ("0.0.0.1", "::1", False),
    ],
)
def test_a_site_has_a_24_or_a_48(first: str, second: str, same: bool) -> None:
    assert of_one_site(first, second) is of_one_site(second, first) is same

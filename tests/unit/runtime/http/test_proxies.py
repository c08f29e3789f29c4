"""Test who asks: forwarded headers count only from trusted proxies, from the right, and only if well-formed."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.addresses import parse_networks
from runtime.http.proxies import Client, MalformedHeader, client_of
from testbed.random_inputs import examples

TRUSTED = parse_networks("127.0.0.1,10.1.0.0/16,2001:db8:1::/64")
PROXY = "10.1.2.3"
HOST = "8.8.4.4"


def forwarded(*values: str, proto: str | None = None) -> list[tuple[bytes, bytes]]:
    headers = [(b"x-forwarded-for", value.encode()) for value in values]
    return headers if proto is None else [*headers, (b"x-forwarded-proto", proto.encode())]


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ([HOST], HOST),
        (["9.9.9.9, 8.8.4.4"], HOST),
        (["9.9.9.9", "8.8.4.4"], HOST),
        (["8.8.4.4, 10.1.9.9"], HOST),
        (["8.8.4.4,10.1.9.9 , 127.0.0.1"], HOST),
        (["10.1.7.7, 10.1.9.9"], "10.1.7.7"),
        (["::ffff:8.8.4.4"], HOST),
        (["2001:4860:4860:0::8844, 2001:db8:1::5"], "2001:4860:4860::8844"),
    ],
)
def test_the_rightmost_address_that_is_no_proxy_is_the_client(values: list[str], client: str) -> None:
    assert client_of(PROXY, "http", forwarded(*values), TRUSTED) == Client(client, "http")


@pytest.mark.parametrize("value", ["", "unknown", "8.8.4.4:5000", "[::1]", "8.8.4.4,,9.9.9.9", "8.8.4.4;a", "1" * 9000])
def test_a_malformed_header_is_refused_wherever_the_fault_is(value: str) -> None:
    for values in ([value], [f"{value}, 8.8.4.4"], [value, "8.8.4.4"], [f"8.8.4.4, {value}"]):
        with pytest.raises(MalformedHeader):
            client_of(PROXY, "http", forwarded(*values), TRUSTED)


def test_too_many_hops_are_refused() -> None:
    with pytest.raises(MalformedHeader):
        client_of(PROXY, "http", forwarded(",".join(["8.8.4.4"] * 33)), TRUSTED)


def test_headers_of_others_do_not_count_and_are_not_even_read() -> None:
    for value in ("1.2.3.4", "garbage"):
        headers = forwarded(value, proto="https")
        assert client_of(HOST, "http", headers, TRUSTED) == Client(HOST, "http")
        assert client_of("not an address", "http", headers, TRUSTED) == Client("not an address", "http")
        assert client_of(PROXY, "http", headers, ()) == Client(PROXY, "http")


def test_a_proxy_that_names_nobody_is_marked() -> None:
    assert client_of(PROXY, "http", [], TRUSTED) == Client(PROXY, "http", is_proxy=True)
    assert client_of("::ffff:127.0.0.1", "http", [], TRUSTED) == Client("127.0.0.1", "http", is_proxy=True)


def test_scheme_of_a_trusted_proxy_counts() -> None:
    assert client_of(PROXY, "http", forwarded(HOST, proto="HTTPS"), TRUSTED).scheme == "https"
    assert client_of(PROXY, "https", forwarded(HOST, proto="http"), TRUSTED).scheme == "http"
    for wrong in ("", "https,http", "ftp"):
        with pytest.raises(MalformedHeader):
            client_of(PROXY, "http", forwarded(HOST, proto=wrong), TRUSTED)
    twice = [*forwarded(HOST, proto="https"), (b"x-forwarded-proto", b"https")]
    with pytest.raises(MalformedHeader):
        client_of(PROXY, "http", twice, TRUSTED)


@examples(300)
@given(peer=st.ip_addresses().map(str), value=st.binary(max_size=60), addresses=st.lists(st.ip_addresses(), max_size=5))
def test_nobody_can_choose_an_address_that_our_proxies_did_not_see(
    peer: str, value: bytes, addresses: list[ipaddress.IPv4Address]
) -> None:
    """Whatever a client sends: its own address, appended by the proxy, is the one that counts."""
    said = b", ".join([value, *(str(address).encode() for address in addresses)])
    headers = [(b"x-forwarded-for", said), (b"x-forwarded-for", HOST.encode())]
    try:
        found = client_of(PROXY, "http", headers, TRUSTED)
    except MalformedHeader:
        return
    assert found == Client(HOST, "http")
    ours = any(ipaddress.ip_address(peer) in network for network in TRUSTED)
    assert ours or client_of(peer, "http", headers, TRUSTED).address == str(
        getattr(ipaddress.ip_address(peer), "ipv4_mapped", None) or peer
    )

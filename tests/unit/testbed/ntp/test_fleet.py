"""Test the standard fleet, on which demo and end-to-end tests rely."""

import ipaddress
import itertools

import pytest

from testbed.ntp.fleet import loopback_addresses, standard_fleet
from testbed.ntp.spec import Behaviour, ServerSpec


def is_good(spec: ServerSpec) -> bool:
    sound = spec.behaviour is Behaviour.NORMAL and not spec.kiss and not spec.loss
    return sound and spec.stratum < 8 and abs(spec.offset) <= 0.012


def test_every_fourth_server_from_the_thirteenth_has_a_fault() -> None:
    names = [spec.name for spec in standard_fleet(29)]
    assert [number for number, name in enumerate(names) if name != "good"] == [0, 1, 2, 3, 12, 16, 20, 24, 28]
    assert names[12:29:4] == ["loses 20 %", "RATE, one in three", "DENY", "RSTR", "loses 20 %"]


def test_the_first_four_have_the_known_faults() -> None:
    off, far_off, silent, unsynchronised = standard_fleet(4)
    assert (off.offset, far_off.offset) == (0.4, 5.0)
    assert silent.behaviour is Behaviour.SILENT
    assert (unsynchronised.stratum, unsynchronised.leap) == (16, 3)


def test_fleet_of_twelve_has_four_faulty_and_eight_good_servers() -> None:
    assert [is_good(spec) for spec in standard_fleet(12)] == [False] * 4 + [True] * 8


def test_good_servers_differ_from_each_other() -> None:
    good = [spec for spec in standard_fleet(40) if spec.name == "good"]
    assert len({spec.offset for spec in good}) == len(good)
    assert all(-0.008 <= spec.offset <= 0.012 for spec in good)
    assert all(spec.asymmetry == 0 and spec.jitter <= 30e-6 and 0 < spec.delay <= 0.0105 for spec in good)
    assert {spec.stratum for spec in good} == {1, 2, 3, 4}


def test_a_large_fleet_has_lossy_and_kissing_servers_and_stays_mostly_good() -> None:
    fleet = standard_fleet(64)
    assert {spec.kiss for spec in fleet} == {"", "RATE", "DENY", "RSTR"}
    assert any(spec.loss for spec in fleet)
    assert sum(map(is_good, fleet)) >= 0.7 * len(fleet)


def test_a_larger_fleet_begins_with_the_smaller_one() -> None:
    assert standard_fleet(100)[:30] == standard_fleet(30)


def test_each_server_has_a_network_of_its_own() -> None:
    networks = {ipaddress.ip_network(f"{spec.address}/24", strict=False) for spec in standard_fleet(5000, "127.1.0.9")}
    assert len(networks) == 5000


def test_loopback_addresses_are_in_different_networks() -> None:
    addresses = loopback_addresses("127.64.0.1", 60, 20)
    networks = [ipaddress.ip_network(f"{address}/20", strict=False) for address in addresses]
    assert addresses[:2] == ("127.64.0.1", "127.64.16.1")
    assert not any(one.overlaps(other) for one, other in itertools.combinations(networks, 2))


@pytest.mark.parametrize(
    ("count", "base", "reason"),
    [
        (0, "127.0.0.1", "count is 0; must be 1 or more"),
        (-3, "127.0.0.1", "count is -3; must be 1 or more"),
        (2, "127.255.255.1", "count is 2, base 127.255.255.1: the /24 networks do not fit"),
        (2, "10.0.0.1", "do not fit into 127.0.0.0/8"),
        (2, "here", "base is 'here'; must be an address in 127.0.0.0/8"),
    ],
)
def test_impossible_count_or_base_address_is_refused(count: int, base: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        standard_fleet(count, base)


def test_the_last_network_of_loopback_can_be_used() -> None:
    assert len(standard_fleet(1, "127.255.255.1")) == 1


def test_a_wrong_port_is_refused() -> None:
    with pytest.raises(ValueError, match="port is 70000; must be 0 to 65535"):
        standard_fleet(5, port=70000)

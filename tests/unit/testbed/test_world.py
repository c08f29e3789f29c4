"""Test the demo's world: networks and accounts leave the selector enough choice, and show its constraints."""

import ipaddress
import json

import pytest

from schema.names import check_monitor_name
from testbed.database import SERVERS
from testbed.demo.errors import OptionError
from testbed.demo.options import check_apart, parse_options
from testbed.world import MAX_AGENTS, MAX_SERVERS, make_world


def options(**given: object):  # type: ignore[no-untyped-def]
    defaults = {"seconds": 60.0, "agents": 8, "servers": 12, "ntp": [], "database_url": None, "directory": None}
    return parse_options(**(defaults | given))  # type: ignore[arg-type]


def test_every_server_but_one_has_at_least_seven_eligible_monitors() -> None:
    world = make_world(8, 12, 11123)
    by_kind = {server.what: world.may_serve(server) for server in world.servers}
    assert by_kind.pop("good, monitor's account") == 6
    assert by_kind.pop("good, monitor's network") == 7
    assert set(by_kind.values()) == {8}


def test_twelve_servers_include_the_typical_faults() -> None:
    kinds = {server.what for server in make_world(8, 12, 11123).servers}
    assert {"off by 400 ms", "off by 5 s", "silent", "stratum 16"} <= kinds


@pytest.mark.parametrize(("agents", "servers"), [(1, 1), (8, 12), (MAX_AGENTS, MAX_SERVERS)])
def test_every_world_has_unique_names_addresses_and_networks(agents: int, servers: int) -> None:
    world = make_world(agents, servers, 11123)
    addresses = [m.ip for m in world.monitors] + [s.ip for s in world.servers]
    assert len(set(addresses)) == agents + servers
    assert all(ipaddress.ip_address(address).is_loopback for address in addresses)
    names = [check_monitor_name(m.name, "devel") for m in world.monitors]
    assert len(set(names)) == agents
    assert len({ipaddress.ip_network(f"{m.ip}/20", strict=False) for m in world.monitors}) == agents
    assert len(world.fleet) == servers


def test_clocks_are_checked_against_good_servers() -> None:
    world = make_world(8, 12, 11123)
    good = {f"{s.ip}:{s.port}" for s in world.servers if s.what == "good"}
    assert len(world.base_checks) == 3 and set(world.base_checks) <= good


def test_clocks_are_checked_against_given_servers_if_none_is_simulated() -> None:
    assert make_world(2, 0, 11123, (("127.0.0.1", 11199),)).base_checks == ["127.0.0.1:11199"]


def test_true_offset_of_a_given_server_is_unknown() -> None:
    given = make_world(2, 1, 11123, (("127.0.0.1", 123),)).servers[-1]
    assert (given.true_offset, given.spec, given.port) == (None, None, 123)
    assert json.dumps(given.true_offset) == "null"


def test_database_of_the_demo_must_be_a_known_one() -> None:
    assert options().server is None
    assert options(database="sqlite").server is None
    assert options(database="mysql").server is SERVERS["mysql"]
    with pytest.raises(OptionError, match="--database 'oracle': must be sqlite, mariadb or mysql"):
        options(database="oracle")
    with pytest.raises(OptionError, match="--database mysql: starts a database"):
        options(database="mysql", database_url="mysql://somewhere/demo")


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("127.0.0.1", ("127.0.0.1", 123)),
        ("127.0.0.9:11123", ("127.0.0.9", 11123)),
        ("localhost:65535", ("127.0.0.1", 65535)),
    ],
)
def test_ntp_option_accepts_loopback_addresses(text: str, server: tuple[str, int]) -> None:
    assert options(ntp=[text]).ntp == (server,)


@pytest.mark.parametrize(
    "text",
    [
        "192.0.2.1",
        "pool.example",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:",
        ":123",
        "",
        "::1",
        "[::1]:123",
        "0.0.0.0",
    ],
)
def test_ntp_option_refuses_everything_else_with_an_example(text: str) -> None:
    with pytest.raises(OptionError, match=r"such as 127\.0\.0\.1:11123") as refused:
        options(ntp=[text])
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"seconds": 0.0}, "--seconds 0"),
        ({"seconds": float("nan")}, "--seconds nan"),
        ({"agents": 0}, "--agents 0"),
        ({"agents": MAX_AGENTS + 1}, f"--agents {MAX_AGENTS + 1}"),
        ({"servers": 0}, "--servers 0"),
        ({"servers": MAX_SERVERS + 1}, f"--servers {MAX_SERVERS + 1}"),
        ({"database_url": "postgresql://user:secret@host/db"}, "--database-url"),
        ({"ntp": ["127.0.0.1:1", "127.0.0.1:2"]}, "127.0.0.1 is given 2 times"),
    ],
)
def test_a_wrong_argument_is_named(given: dict[str, object], named: str) -> None:
    with pytest.raises(OptionError) as refused:
        options(**given)
    assert named in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_given_server_must_not_be_one_of_the_demo() -> None:
    taken = make_world(8, 12, 11123).servers[0].ip
    with pytest.raises(OptionError, match=taken):
        check_apart(make_world(8, 12, 11123, ((taken, 123),)))


def test_ipv6_option_is_refused_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testbed.demo.options.has_ipv6", lambda: False)
    assert not options().ipv6
    with pytest.raises(OptionError, match=r"^--ipv6: this machine has no ::1, the loopback address of IPv6$"):
        options(ipv6=True)

"""Define the demo's world: accounts, monitors and servers, their networks, and each server's actual behaviour.

Each monitor and server has a loopback address in a separate network, with two exceptions that show constraints at work:
one server belongs to the account of two monitors, and one is in the network of a monitor.
"""

from dataclasses import dataclass
from typing import Any, Final

from schema.names import Environment
from testbed.ntp.fleet import loopback_addresses
from testbed.ntp.spec import Behaviour, ServerSpec

ENV: Final[Environment] = "devel"
"""The only environment in which loopback addresses and ports other than 123 may be measured."""

MONITORS_PER_ACCOUNT: Final = 2
"""A server's default limit of monitors per account, so that accounts never keep a server below its target."""

MAX_AGENTS: Final = 100
MAX_SERVERS: Final = 500

DOMAIN: Final = "mon.example"
"""Domain of the monitors' names."""

_MONITORS_FROM: Final = "127.64.0.10"
_SERVERS_FROM: Final = "127.20.0.1"
_PLACES: Final = ("nlams", "uspao", "jptyo", "brsao", "zajnb", "ausyd", "sgsin", "deber", "caymq", "inbom")

_PROPER: Final[dict[str, Any]] = {"delay": 0.002, "jitter": 20e-6}
_FIRST_FAULTS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("good", _PROPER),
    ("off by 400 ms", _PROPER | {"offset": 0.4}),
    ("good", _PROPER | {"offset": 0.003, "stratum": 1, "reference_id": "GPS"}),
    ("off by 5 s", _PROPER | {"offset": 5.0}),
    ("good", _PROPER | {"offset": -0.004, "delay": 0.012}),
    ("silent", {"behaviour": Behaviour.SILENT}),
    ("stratum 16", _PROPER | {"stratum": 16, "leap": 3, "reference_id": "INIT"}),
    ("good, monitor's account", _PROPER | {"offset": 0.001, "stratum": 3}),
    ("good, monitor's network", _PROPER | {"offset": 0.0015}),
    ("loses 10 %", _PROPER | {"loss": 0.1, "offset": -0.002}),
    ("RATE, one in three", _PROPER | {"kiss": "RATE", "kiss_share": 1 / 3}),
    ("good, far away", {"offset": -0.008, "delay": 0.045, "jitter": 100e-6, "stratum": 3}),
)
"""The first servers of the demo, in this order, each with a different behaviour."""

_LATER_FAULTS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("off by 60 ms", _PROPER | {"offset": 0.06}),
    ("DENY", _PROPER | {"kiss": "DENY"}),
)
_GOOD_BETWEEN: Final = 4
"""Beyond the first dozen, the number of good servers after each bad one: most of the pool's servers are good."""

_OF_A_MONITORS_ACCOUNT: Final = 7
_IN_A_MONITORS_NETWORK: Final = 8

BASE_CHECKS: Final = 3
_BASE_CHECK_WITHIN: Final = 0.005
"""Seconds; the agents allow 10 ms."""


@dataclass(frozen=True, slots=True)
class Monitor:
    """A monitor, and thereby an agent."""

    name: str
    """Its full name, as a registration gives it."""
    ip: str
    account: str
    """Name of its account."""

    @property
    def location(self) -> str:
        """The location code that its name begins with."""
        return self.name[:5]

    @property
    def account_token(self) -> str:
        """The token of its account, which its name contains."""
        return self.name.partition("-")[2].partition(".")[0]


@dataclass(frozen=True, slots=True)
class Server:
    """A server; ``true_offset`` (s) is None if unknown."""

    ip: str
    port: int
    what: str
    account: str
    true_offset: float | None
    spec: ServerSpec | None = None
    """How to simulate the server; None: it is a real one."""

    @property
    def gives_time(self) -> bool:
        """Whether every monitor that probes it a few times must learn its time."""
        spec = self.spec
        return spec is not None and spec.behaviour is Behaviour.NORMAL and not spec.kiss


@dataclass(frozen=True, slots=True)
class World:
    """All monitors and servers."""

    monitors: tuple[Monitor, ...]
    servers: tuple[Server, ...]

    @property
    def fleet(self) -> tuple[ServerSpec, ...]:
        """The servers to simulate."""
        return tuple(server.spec for server in self.servers if server.spec is not None)

    @property
    def base_checks(self) -> list[str]:
        """Return the servers for base checks: simulated good ones, or else the given real ones."""
        good = [
            f"{server.ip}:{server.port}"
            for server in self.servers
            if server.what.startswith("good") and abs(server.true_offset or 0) <= _BASE_CHECK_WITHIN
        ]
        return (good or [f"{server.ip}:{server.port}" for server in self.servers])[:BASE_CHECKS]

    def may_serve(self, server: Server) -> int:
        """Return how many monitors may measure ``server``: those of other accounts and other /24 networks."""
        return sum(m.account != server.account and _network(m.ip) != _network(server.ip) for m in self.monitors)


def make_world(agents: int, servers: int, port: int, real: tuple[tuple[str, int], ...] = ()) -> World:
    """Make a world of ``agents`` monitors, ``servers`` simulated servers on UDP ``port``, and the ``real`` servers.

    The same arguments give the same world.
    """
    monitors = tuple(_monitor(index, ip) for index, ip in enumerate(loopback_addresses(_MONITORS_FROM, agents, 20)))
    addresses = loopback_addresses(_SERVERS_FROM, servers, 24) if servers else ()
    simulated = tuple(_server(index, ip, port, monitors) for index, ip in enumerate(addresses))
    given = tuple(Server(ip, its_port, "given", "volunteers", None) for ip, its_port in real)
    return World(monitors, simulated + given)


def _monitor(index: int, ip: str) -> Monitor:
    number = index // MONITORS_PER_ACCOUNT + 1
    # The monitors of one account are at different places, so each is the first at its place.
    return Monitor(f"{_PLACES[index % len(_PLACES)]}1-demo{number}.{ENV}.{DOMAIN}", ip, f"monitors {number}")


def _server(index: int, ip: str, port: int, monitors: tuple[Monitor, ...]) -> Server:
    what, fault = _fault(index)
    account = f"servers {index // 3 + 1}"
    if index == _OF_A_MONITORS_ACCOUNT:
        account = monitors[0].account
    if index == _IN_A_MONITORS_NETWORK:
        ip = f"{_network(monitors[-1].ip)}.53"
    spec = ServerSpec(address=ip, port=port, name=what, **fault)
    return Server(ip, port, what, account, None if spec.behaviour is Behaviour.SILENT else spec.offset, spec)


def _fault(index: int) -> tuple[str, dict[str, Any]]:
    if index < len(_FIRST_FAULTS):
        return _FIRST_FAULTS[index]
    turn, rest = divmod(index - len(_FIRST_FAULTS), _GOOD_BETWEEN + 1)
    if rest == 0:
        return _LATER_FAULTS[turn % len(_LATER_FAULTS)]
    return "good", _PROPER | {"offset": round(((index * 37) % 17 - 8) * 0.001, 3), "stratum": 1 + index % 4}


def _network(ip: str) -> str:
    """Return the /24 of an IPv4 address."""
    return ip.rpartition(".")[0]

"""Define the standard fleet: servers with known faults, for the demo and end-to-end tests."""

import ipaddress
from typing import Any, Final

from testbed.ntp.spec import Behaviour, ServerSpec

DEFAULT_BASE: Final = "127.20.0.1"
DEFAULT_PORT: Final = 11123

_KNOWN_FAULTS: Final[tuple[dict[str, Any], ...]] = (
    {"name": "off by 400 ms", "offset": 0.4, "delay": 0.004, "jitter": 10e-6},
    {"name": "off by 5 s", "offset": 5.0, "delay": 0.002, "jitter": 10e-6},
    {"name": "silent", "behaviour": Behaviour.SILENT},
    {"name": "stratum 16", "stratum": 16, "leap": 3, "reference_id": "INIT", "delay": 0.003, "jitter": 10e-6},
)
"""The first servers of every standard fleet."""

_LATER_FAULTS: Final[tuple[dict[str, Any], ...]] = (
    {"name": "loses 20 %", "loss": 0.2},
    {"name": "RATE, one in three", "kiss": "RATE", "kiss_share": 1 / 3},
    {"name": "DENY", "kiss": "DENY"},
    {"name": "RSTR", "kiss": "RSTR"},
)
_FIRST_LATER_FAULT: Final = 12
_LATER_FAULT_EVERY: Final = 4
"""From the thirteenth on, one server in four has a fault: most of the pool's servers are good."""

_AFTER_LOOPBACK: Final = ipaddress.IPv4Address("128.0.0.0")
_GOLDEN_RATIO: Final = 0.6180339887
"""Multiples of it, modulo 1, are spread evenly for any count."""


def standard_fleet(count: int, base: str = DEFAULT_BASE, port: int = DEFAULT_PORT) -> tuple[ServerSpec, ...]:
    """Make ``count`` servers, each in a separate /24 from ``base`` on.

    The first four are 400 ms off, 5 s off, silent, and at stratum 16; the others are good, off by -8 to +12 ms, but
    from the thirteenth on one in four loses packets or answers with a kiss code. The same arguments give the same
    fleet. Raises ValueError, naming the argument, if it is invalid.
    """
    addresses = loopback_addresses(base, count, 24)
    return tuple(_server(index, address, port) for index, address in enumerate(addresses))


def loopback_addresses(base: str, count: int, prefix: int) -> tuple[str, ...]:
    """Return ``count`` addresses, each in the next network of the given prefix length, from ``base`` on.

    The selector's network constraints keep apart monitors in the same /20, and monitors in the same /24 as a server.
    With a /24 for each server and a /20 for each agent, none of them applies. Raises ValueError, naming the argument,
    if they leave 127.0.0.0/8.
    """
    try:
        first = ipaddress.IPv4Address(base)
    except ValueError as error:
        raise ValueError(f"base is {base!r}; must be an address in 127.0.0.0/8") from error
    if count < 1:
        raise ValueError(f"count is {count}; must be 1 or more")
    step = 2 ** (32 - prefix)
    if not (first.is_loopback and int(first) + (count - 1) * step < int(_AFTER_LOOPBACK)):
        raise ValueError(f"count is {count}, base {base}: the /{prefix} networks do not fit into 127.0.0.0/8")
    return tuple(str(first + index * step) for index in range(count))


def _server(index: int, address: str, port: int) -> ServerSpec:
    if index < len(_KNOWN_FAULTS):
        return ServerSpec(address=address, port=port, **_KNOWN_FAULTS[index])
    later, rest = divmod(index - _FIRST_LATER_FAULT, _LATER_FAULT_EVERY)
    fault = _LATER_FAULTS[later % len(_LATER_FAULTS)] if later >= 0 and rest == 0 else {}
    return ServerSpec(address=address, port=port, **_good(index) | fault)


def _good(index: int) -> dict[str, Any]:
    part = index * _GOLDEN_RATIO % 1.0
    return {
        "name": "good",
        "offset": round(-0.008 + 0.020 * part, 5),
        "delay": round(0.0005 + 0.010 * (index * _GOLDEN_RATIO**2 * 3 % 1.0), 5),
        "jitter": round((5 + 25 * part) * 1e-6, 7),
        "stratum": 1 + index % 4,
        "reference_id": "GPS" if index % 4 == 0 else f"192.0.2.{1 + index % 250}",
    }

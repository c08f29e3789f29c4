"""Validate the demo's arguments before anything starts."""

import ipaddress
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL

from runtime.db.dsn import InvalidDsn, parse_dsn
from testbed.brokers import BROKERS, MOSQUITTO
from testbed.database import SERVERS, DatabaseServer
from testbed.demo.errors import OptionError
from testbed.ports import NO_IPV6, has_ipv6
from testbed.world import MAX_AGENTS, MAX_SERVERS, World

_NTP_PORT: Final = 123
_HOST_PORT: Final = re.compile(r"(?P<host>[^:]+)(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The demo's options."""

    seconds: float | None
    """Duration in seconds, once all is running; None: until stopped."""
    agents: int
    servers: int
    ntp: tuple[tuple[str, int], ...] = ()
    """Real servers: loopback address and port."""
    database: URL | None = None
    """URL of an existing database; None: the demo uses one of its own."""
    server: type[DatabaseServer] | None = None
    """The kind of database server to start; None: SQLite in the directory."""
    directory: Path | None = None
    """None: a temporary one."""
    broker: str = MOSQUITTO
    """One of :data:`testbed.brokers.BROKERS`."""
    tls: bool = False
    ipv6: bool = False
    as_json: bool = False
    """Print a JSON summary on a terminal, too."""


def parse_options(
    *,
    seconds: float | None,
    agents: int,
    servers: int,
    ntp: Sequence[str],
    database_url: str | None,
    database: str | None = None,
    directory: Path | None,
    broker: str = MOSQUITTO,
    tls: bool = False,
    ipv6: bool = False,
    as_json: bool = False,
) -> Options:
    """Return the options if they are valid.

    Raises:
        OptionError: one is invalid; the message names it, its value and the valid values.
    """
    if seconds is not None and not 1 <= seconds <= 86400:
        raise OptionError(f"--seconds {seconds:g}: must be 1 to 86400 (a day)")
    if not 1 <= agents <= MAX_AGENTS:
        raise OptionError(f"--agents {agents}: must be 1 to {MAX_AGENTS}")
    if not (0 if ntp else 1) <= servers <= MAX_SERVERS:
        raise OptionError(f"--servers {servers}: must be 1 to {MAX_SERVERS}, or 0 with --ntp")
    if ipv6 and not has_ipv6():
        raise OptionError(f"--ipv6: {NO_IPV6}")
    if broker not in BROKERS:
        raise OptionError(f"--broker {broker!r}: must be {', '.join(list(BROKERS)[:-1])} or {list(BROKERS)[-1]}")
    return Options(
        seconds=seconds,
        agents=agents,
        servers=servers,
        ntp=parse_servers(ntp),
        database=None if database_url is None else _database(database_url),
        server=_server_of(database, database_url),
        directory=directory,
        broker=broker,
        tls=tls,
        ipv6=ipv6,
        as_json=as_json,
    )


def parse_servers(texts: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """Parse the loopback addresses and ports in ``--ntp`` arguments.

    Raises:
        OptionError: one is invalid, or two have the same address.
    """
    servers = tuple(_server(text) for text in texts)
    for ip, times in Counter(ip for ip, _ in servers).items():
        if times > 1:
            raise OptionError(
                f"--ntp: {ip} is given {times} times; each server must have a different address of 127.0.0.0/8"
            )
    return servers


def _server(text: str) -> tuple[str, int]:
    match = _HOST_PORT.fullmatch(text)
    port = _NTP_PORT if match is None or match["port"] is None else int(match["port"])
    host = "127.0.0.1" if match is not None and match["host"] == "localhost" else (match["host"] if match else text)
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        address = None
    if address is None or not address.is_loopback or not 1 <= port <= 65535:
        raise OptionError(
            f"--ntp {text!r}: must be a server on this machine, an address of 127.0.0.0/8 with or without a port, "
            "such as 127.0.0.1:11123 (the demo probes every second or two, too often for other people's servers)"
        )
    return str(address), port


def _server_of(kind: str | None, database_url: str | None) -> type[DatabaseServer] | None:
    if kind is not None and database_url is not None:
        raise OptionError(f"--database {kind}: starts a database, --database-url names an existing one")
    if kind in (None, "sqlite"):
        return None
    if kind not in SERVERS:
        raise OptionError(f"--database {kind!r}: must be sqlite, {' or '.join(SERVERS)}")
    return SERVERS[kind]


def _database(text: str) -> URL:
    try:
        return parse_dsn(text)
    except InvalidDsn as error:
        raise OptionError(f"--database-url: {error}") from None


def check_apart(world: World) -> None:
    """Check that no ``--ntp`` server has an address that the demo itself uses.

    Raises:
        OptionError: one has.
    """
    for ip, times in Counter([s.ip for s in world.servers] + [m.ip for m in world.monitors]).items():
        if times > 1:
            raise OptionError(f"--ntp {ip}: the demo uses this address itself; use another one, such as 127.0.0.1")

"""Find what the addresses of public routes name: servers and monitors."""

from datetime import datetime
from urllib.parse import quote

from sqlalchemy.engine import Connection

from scorer.scorers import POOL_SCORER
from web.addresses import Asked, canonical, parse_server
from web.answers import no_monitor, no_server
from web.model import Monitor, Server
from web.parameters import WantedMonitor, parse_monitor
from web.store.monitors import find_monitor
from web.store.servers import find_server


def server_named(connection: Connection, text: str, now: datetime) -> Server:
    """Return the server with this id or address.

    Raises:
        Declined: it is unknown.
    """
    asked = parse_server(text)
    server = find_server(connection, Asked(asked.id, asked.ip), now.date())
    if server is None:
        raise no_server()
    return server


def wanted_monitor(text: str | None, default: str = POOL_SCORER) -> WantedMonitor:
    """Return which monitors are wanted.

    Raises:
        Declined: no monitor can have this name.
    """
    wanted = parse_monitor(text, default)
    if wanted is None:
        raise no_monitor()
    return wanted


def monitor_named(connection: Connection, server: Server, wanted: WantedMonitor) -> Monitor | None:
    """Return the wanted monitor; None: all of them are wanted.

    Raises:
        Declined: it is unknown.
    """
    if wanted.all:
        return None
    monitor = find_monitor(connection, server.id, wanted, server.ip_version)
    if monitor is None:
        raise no_monitor()
    return monitor


def in_path(text: str) -> str:
    """Return a server as a part of a path, in the canonical spelling of its address."""
    return quote(canonical(text) or text, safe=":")

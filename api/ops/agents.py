"""Read from the ledger which agents are connected, and what they said about themselves.

Everything that an agent says is in its last status, which anyone who runs an agent may forge: it is shown, and decides
only whether the agent is asked.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from schema.addresses import of_one_site
from schema.limits import MONITOR_GONE
from schema.messages import LIVE, MonitorStatus, ProtocolState, SpoolState, Status, Undecodable, decode
from schema.names import Environment, InvalidName, IpVersion, check_monitor_name, short_name
from schema.tables import accounts, monitor_presence, monitors

_IN_WORDS: Final[Mapping[IpVersion, str]] = {"v4": "IPv4", "v6": "IPv6"}


_LONGEST_NAME: Final = 253
"""Characters of a name that an error quotes."""


class UnknownMonitor(LookupError):
    """A monitor that was named does not exist, or there are several of this name; the message says so."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """One protocol of an agent's monitor. Times are naive UTC."""

    monitor_id: int
    address: str | None
    status: MonitorStatus
    last_results: datetime | None
    state: ProtocolState | None
    """What the agent says; ``None`` if it says nothing of this protocol, as older agents never do."""


@dataclass(frozen=True, slots=True)
class Agent:
    """The agent of a monitor. Times are naive UTC."""

    name: str
    account: str | None
    """Token of the account, or its name if it has none."""
    location: str
    version: str
    online: bool
    """It is connected: its status says so, and has been repeated in time."""
    since: datetime | None
    """Start of the current time online or offline."""
    seen: datetime | None
    """Arrival of its last status."""
    spool: SpoolState
    protocols: Mapping[IpVersion, Protocol]
    traceroute: bool
    """Whether its host has a program that traces routes, as the agent says."""

    @property
    def place(self) -> str:
        """Where it is, as far as its name tells: the country, by the first two letters of the location."""
        return short_name(self.name)[:2]

    @property
    def answers(self) -> bool:
        """Whether it answers requests; older agents do not, which their status tells."""
        return self.online and any(one.state is not None for one in self.protocols.values())

    def why_silent(self) -> str | None:
        """Return why it cannot be asked anything; ``None`` if it can."""
        if not self.online:
            return "is not connected"
        return None if self.answers else f"runs an agent that answers no requests (version {self.version or 'unknown'})"

    def why_not(self, ipv: IpVersion) -> str | None:
        """Return why it cannot measure by this protocol now; ``None`` if it can."""
        if (silent := self.why_silent()) is not None:
            return silent
        protocol = self.protocols.get(ipv)
        if protocol is None:
            return f"has no {_IN_WORDS[ipv]}"
        if protocol.status not in LIVE:
            return f"is {protocol.status} by {_IN_WORDS[ipv]}"
        if protocol.state is None:
            return f"does not use {_IN_WORDS[ipv]} yet"
        return None if protocol.state.probing else f"does not probe: {protocol.state.why_not or 'no reason given'}"

    def why_no_route(self, ip: str, ipv: IpVersion) -> str | None:
        """Return why it cannot trace the route to an address now; ``None`` if it can."""
        if (unable := self.why_not(ipv)) is not None:
            return unable
        if not self.traceroute:
            return "has no traceroute program"
        own = self.protocols[ipv].address
        return "is in the network of this address" if own is not None and of_one_site(own, ip) else None


def read_agents(connection: Connection, env: Environment, now: datetime, name: str | None = None) -> list[Agent]:
    """Return the agents of all monitors that are not deleted, by name.

    Args:
        now: naive UTC.
        name: only those with this full or short name.
    """
    m, p = monitors.c, monitor_presence.c
    query: sa.Select[Any] = (
        sa.select(
            *(m.id, m.tls_name, m.ip_version, m.ip, m.status, m.location, m.client_version, m.last_submit),
            *(p.online, p.since, p.seen, p.status.label("said")),
            sa.func.coalesce(accounts.c.id_token, accounts.c.name).label("account"),
        )
        .select_from(
            monitors.outerjoin(monitor_presence, p.tls_name == m.tls_name).outerjoin(
                accounts, accounts.c.id == m.account_id
            )
        )
        .where(m.type == "monitor", m.status != "deleted", m.ip_version.is_not(None), m.tls_name.not_like("%.system"))
        .order_by(m.tls_name, m.ip_version)
    )
    if name is not None:
        query = query.where(sa.or_(m.tls_name == name, m.tls_name.startswith(f"{name}.", autoescape=True)))
    found: dict[str, list[sa.Row[Any]]] = {}
    for row in connection.execute(query):
        found.setdefault(row.tls_name, []).append(row)
    return [_agent(name, rows, now) for name, rows in found.items() if _is_of(env, name)]


def the_agent(agents: Iterable[Agent], text: str) -> Agent:
    """Return the agent with this full or short name.

    Raises:
        UnknownMonitor: there is none, or there are several.
    """
    found = [one for one in agents if one.name == text or one.name.startswith(f"{text}.")]
    if len(found) == 1:
        return found[0]
    what = "There are several monitors" if found else "There is no monitor"
    raise UnknownMonitor(f"{what} called {text[:_LONGEST_NAME]!r}.")


def _is_of(env: Environment, name: str) -> bool:
    """Return whether a name of the ledger is one, so that it may become a part of topics."""
    try:
        check_monitor_name(name, env)
    except InvalidName:
        return False
    return True


def _agent(name: str, rows: Sequence[sa.Row[Any]], now: datetime) -> Agent:
    first = rows[0]
    said = _said(first.said)
    return Agent(
        name=name,
        account=first.account,
        location=first.location,
        version=said.version or first.client_version,
        online=bool(first.online) and first.seen > now - MONITOR_GONE,
        since=first.since,
        seen=first.seen,
        spool=said.spool,
        protocols={
            row.ip_version: Protocol(row.id, row.ip, row.status, row.last_submit, said.protocols.get(row.ip_version))
            for row in rows
        },
        traceroute=said.traceroute,
    )


def _said(text: str | None) -> Status:
    try:
        return decode((text or "").encode(), Status)
    except Undecodable:
        return Status(online=False)

"""Find the monitors that are offline, have a wrong clock, or do not work, from their presence in the ledger.

Both protocols of a monitor are one agent, and one alert.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from notifier.model import Fact, Key, moment
from notifier.rules import MONITOR_CLOCK, MONITOR_OFFLINE, MONITOR_UNHEALTHY, MONITORS_AWAY
from notifier.texts import Links, plain
from schema.limits import MONITOR_GONE
from schema.messages import LIVE, ProtocolState, Status, Undecodable, decode
from schema.tables import monitor_presence, monitors

MOST: Final = 0.5
"""Share of agents that are gone at the same time for a common cause, which is one alert for operators."""

FEW: Final = 4
"""Number of agents below which no share tells anything."""

SILENT_FOR: Final = timedelta(hours=6)
"""Time without stored results of an agent that probes: three intervals of a candidate."""

_CLOCK_WRONG: Final = "local clock check failed"
"""Start of the reason in a status, as in :mod:`agent.clock.verdict`."""


class MonitorRow(NamedTuple):
    """One protocol of a monitor, with the presence of its agent."""

    tls_name: str
    ip_version: str
    account_id: int | None
    last_seen: datetime | None
    last_submit: datetime | None
    online: bool | None
    since: datetime | None
    seen: datetime | None
    said: str | None


@dataclass(frozen=True, slots=True)
class Agent:
    """A monitor's agent, with the protocols over which it should probe."""

    name: str
    account_id: int | None
    present: datetime | None
    """When it was last present; None: never."""
    states: tuple[ProtocolState, ...]
    last_submit: datetime | None

    def is_gone(self, now: datetime) -> bool:
        """Return whether it was last present so long ago that its monitors are gone."""
        return self.present is not None and now - self.present >= MONITOR_GONE


_M, _P = monitors.c, monitor_presence.c
_QUERY: Final = (
    sa.select(
        *(_M.tls_name, _M.ip_version, _M.account_id, _M.last_seen, _M.last_submit),
        *(_P.online, _P.since, _P.seen, _P.status.label("said")),
    )
    .select_from(monitors.outerjoin(monitor_presence, _P.tls_name == _M.tls_name))
    .where(
        _M.type == "monitor",
        _M.status.in_(sorted(LIVE)),
        _M.ip_version.is_not(None),
        _M.tls_name.is_not(None),
        _M.tls_name.not_like("%.system"),
    )
    .order_by(_M.tls_name, _M.ip_version)
)


def read_agents(connection: Connection) -> list[Agent]:
    """Read the agents of all monitors that should probe."""
    rows: dict[str, list[MonitorRow]] = {}
    for row in connection.execute(_QUERY):
        rows.setdefault(row.tls_name, []).append(MonitorRow(*row))
    return [agent_of(name, of_agent) for name, of_agent in rows.items()]


def agent_of(name: str, rows: Sequence[MonitorRow]) -> Agent:
    """Return the agent of the rows of one name."""
    first = rows[0]
    if first.online is None:
        present = _latest(row.last_seen for row in rows)
    else:
        present = moment(first.seen if first.online else first.since)
    states = {str(ipv): state for ipv, state in _said(first.said).protocols.items()}
    return Agent(
        name=name,
        account_id=first.account_id,
        present=present,
        states=tuple(state for row in rows if (state := states.get(row.ip_version)) is not None),
        last_submit=_latest(row.last_submit for row in rows),
    )


def _latest(times: Iterable[datetime | None]) -> datetime | None:
    return max((found for time in times if (found := moment(time)) is not None), default=None)


def _said(text: str | None) -> Status:
    try:
        return decode((text or "").encode(), Status)
    except Undecodable:
        return Status(online=False)


def wrong_clock(agent: Agent) -> str | None:
    """Return what an agent says about its clock if it is wrong."""
    return next((why for state in agent.states if (why := state.why_not or "").startswith(_CLOCK_WRONG)), None)


def unhealthy(agent: Agent, now: datetime) -> str | None:
    """Return why a connected agent does not do its work, although its clock is right; None if it does."""
    for state in agent.states:
        if not state.probing and not (state.why_not or "").startswith(_CLOCK_WRONG):
            return f"does not probe: {state.why_not or 'no reason given'}"
    assigned = any(state.assignments for state in agent.states)
    if assigned and agent.last_submit is not None and now - agent.last_submit >= SILENT_FOR:
        return f"no results were stored since {agent.last_submit:%Y-%m-%d %H:%M} UTC"
    return None


def are_most_away(agents: Iterable[Agent], now: datetime) -> tuple[bool, str]:
    """Return whether so many agents are gone that they have a common cause, and their numbers in words."""
    known = [agent for agent in agents if agent.present is not None]
    gone = sum(agent.is_gone(now) for agent in known)
    return len(known) >= FEW and gone >= MOST * len(known), f"{gone} of {len(known)} monitors are offline"


def monitor_facts(agents: Sequence[Agent], now: datetime, links: Links, *, settled: bool) -> list[Fact]:
    """Return the facts about all agents, and whether most of them are gone.

    Args:
        settled: false while presence may be out of date, since broker or database were away a short time ago.
    """
    most, numbers = are_most_away(agents, now)
    facts = [Fact(key=Key(MONITORS_AWAY, ""), bad=most if settled else None, name="Monitors", detail=numbers)]
    for agent in agents:
        facts += _facts_of(agent, now, links, withheld=most or not settled)
    return facts


def _facts_of(agent: Agent, now: datetime, links: Links, *, withheld: bool) -> list[Fact]:
    gone = agent.is_gone(now)
    clock, trouble = wrong_clock(agent), unhealthy(agent, now)
    unknown = withheld or agent.present is None
    last = "" if agent.present is None else f"last seen {agent.present:%Y-%m-%d %H:%M} UTC"

    def fact(kind: str, bad: bool | None, detail: str, since: datetime | None = None) -> Fact:
        return Fact(
            key=Key(kind, agent.name),
            bad=None if unknown else bad,
            name=plain(agent.name, 255),
            detail=detail,
            account_id=agent.account_id,
            since=since,
            link=links.monitor(agent.name),
        )

    return [
        fact(MONITOR_OFFLINE, gone, last, agent.present),
        fact(MONITOR_CLOCK, None if gone else clock is not None, plain(clock or "", 300)),
        fact(MONITOR_UNHEALTHY, None if gone else trouble is not None, plain(trouble or "", 300)),
    ]

"""Find the monitors that are offline, have a wrong clock, or are unhealthy, from their presence and health.

Both protocols of a monitor are one agent, and one alert. What follows from another alert is withheld: of an agent that
is offline nothing else is known, and one whose clock is wrong does not measure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from notifier.health import CLOCK, WORK, Health, Labelled, labelled
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

FIRST_RESULTS_WITHIN: Final = timedelta(hours=2, minutes=30)
"""Time after which an agent that came back has results again: an interval of a candidate, and its way to the ledger."""

_CLOCK_WRONG: Final = "local clock check failed"
"""Start of the reason in a status, as in :mod:`agent.clock.verdict`."""


class MonitorRow(NamedTuple):
    """One protocol of a monitor, with the presence of its agent."""

    id: int
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
    online_since: datetime | None = None
    clock_label: Labelled | None = None
    """The health label about its clock, if any."""
    work_label: Labelled | None = None
    """The health label about its measurements, if any."""

    def is_gone(self, now: datetime) -> bool:
        """Return whether it was last present so long ago that its monitors are gone."""
        return self.present is not None and now - self.present >= MONITOR_GONE


_M, _P = monitors.c, monitor_presence.c
_QUERY: Final[sa.Select[Any]] = (
    sa.select(
        *(_M.id, _M.tls_name, _M.ip_version, _M.account_id, _M.last_seen, _M.last_submit),
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


def read_agents(connection: Connection, health: Health) -> list[Agent]:
    """Read the agents of all monitors that should probe."""
    rows: dict[str, list[MonitorRow]] = {}
    for row in connection.execute(_QUERY):
        rows.setdefault(row.tls_name, []).append(MonitorRow(*row))
    return [agent_of(name, of_agent, health) for name, of_agent in rows.items()]


def agent_of(name: str, rows: Sequence[MonitorRow], health: Health) -> Agent:
    """Return the agent of the rows of one name."""
    first = rows[0]
    if first.online is None:
        present = _latest(row.last_seen for row in rows)
    else:
        present = moment(first.seen if first.online else first.since)
    labels = [(row.ip_version, health.labels.get(row.id, ())) for row in rows]
    states = {str(ipv): state for ipv, state in _said(first.said).protocols.items()}
    return Agent(
        name=name,
        account_id=first.account_id,
        present=present,
        states=tuple(state for row in rows if (state := states.get(row.ip_version)) is not None),
        last_submit=_latest(row.last_submit for row in rows),
        online_since=moment(first.since) if first.online else None,
        clock_label=labelled(labels, CLOCK),
        work_label=labelled(labels, WORK),
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


def idle(agent: Agent, now: datetime) -> str | None:
    """Return why a connected agent does not do its work, although its clock is right; None if it does."""
    for state in agent.states:
        if not state.probing and not (state.why_not or "").startswith(_CLOCK_WRONG):
            return f"does not probe: {state.why_not or 'no reason given'}"
    if not any(state.assignments for state in agent.states) or agent.last_submit is None:
        return None
    came_back = agent.online_since is not None and now - agent.online_since < FIRST_RESULTS_WITHIN
    if now - agent.last_submit >= SILENT_FOR and not came_back:
        return f"no results were stored since {agent.last_submit:%Y-%m-%d %H:%M} UTC"
    return None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether something is wrong with an agent, and what."""

    bad: bool | None
    """None: unknown, or withheld."""
    reason: str = ""
    since: datetime | None = None


def judge(told: str | None, label: Labelled | None, *, current: bool) -> Verdict:
    """Judge by what an agent tells of itself, and by a label of its health.

    Args:
        current: false if labels are old; a label then neither raises nor clears.
    """
    if told is not None:
        return Verdict(True, told)
    if label is None:
        return Verdict(False)
    return Verdict(True if current else None, label.reason, label.since)


def are_most_away(agents: Iterable[Agent], now: datetime) -> tuple[bool, str]:
    """Return whether so many agents are gone that they have a common cause, and their numbers in words."""
    known = [agent for agent in agents if agent.present is not None]
    gone = sum(agent.is_gone(now) for agent in known)
    return len(known) >= FEW and gone >= MOST * len(known), f"{gone} of {len(known)} monitors are offline"


def monitor_facts(
    agents: Sequence[Agent], now: datetime, links: Links, *, settled: bool, labels_current: bool
) -> list[Fact]:
    """Return the facts about all agents, and whether most of them are gone.

    Args:
        settled: false while presence may be out of date, since broker or database were away a short time ago.
        labels_current: false if the labels of their health are old.
    """
    most, numbers = are_most_away(agents, now)
    facts = [Fact(key=Key(MONITORS_AWAY, ""), bad=most if settled else None, name="Monitors", detail=numbers)]
    for agent in agents:
        verdicts = verdicts_on(agent, now, labels_current=labels_current)
        withheld = most or not settled or agent.present is None
        facts += [_fact(agent, kind, verdict, links, withheld=withheld) for kind, verdict in verdicts.items()]
    return facts


def verdicts_on(agent: Agent, now: datetime, *, labels_current: bool) -> dict[str, Verdict]:
    """Return the verdict for each kind of alert about an agent; at most one of them is bad."""
    last = "" if agent.present is None else f"last seen {agent.present:%Y-%m-%d %H:%M} UTC"
    offline = Verdict(agent.is_gone(now), last, agent.present)
    clock = judge(wrong_clock(agent), agent.clock_label, current=labels_current)
    work = judge(idle(agent, now), agent.work_label, current=labels_current)
    return {
        MONITOR_OFFLINE: offline,
        MONITOR_CLOCK: Verdict(None) if offline.bad else clock,
        MONITOR_UNHEALTHY: Verdict(None) if offline.bad or clock.bad else work,
    }


def _fact(agent: Agent, kind: str, verdict: Verdict, links: Links, *, withheld: bool) -> Fact:
    return Fact(
        key=Key(kind, agent.name),
        bad=None if withheld else verdict.bad,
        name=plain(agent.name, 255),
        detail=plain(verdict.reason, 400),
        account_id=agent.account_id,
        since=verdict.since,
        link=links.monitor(agent.name),
    )

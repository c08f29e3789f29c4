"""Measure an address now, or trace the routes to it, by several monitors: choose them, ask their agents, and judge the
answers as they come.

For the API and for the command line alike.
"""

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from api.ops.agents import Agent, read_agents, the_agent
from api.ops.asking import Answering, Question, Reply, Session, asking
from api.ops.choice import Candidate, near_and_far
from api.ops.replies import BadAnswer, result_of, route_of
from api.ops.target import Target, port_of
from schema.messages import Result, Trace
from schema.names import Environment
from schema.tables import log_scores, servers
from schema.topics import Topics

CHECK_WITHIN: Final = 7.5
"""Seconds from the request to the last answer. Agents need 6 for three samples (``agent.requests.TIMEOUT``), and the
requester has the answer within 8."""

TRACEROUTE_WITHIN: Final = 22.0
"""The same for routes. Agents need 20: 2 to measure (``agent.requests.TIMEOUT``), 18 to trace
(``agent.traceroute.tracer.WITHIN``)."""

MOST_MONITORS: Final = 12
"""Maximum monitors for one check, so that it cannot flood a server."""

Kind = Literal["ntp", "traceroute"]

USUAL_MONITORS: Final[Mapping[Kind, int]] = {"ntp": 6, "traceroute": 3}
"""How many are chosen unless the operator says otherwise; a route is some lines to read."""

MOST_SAMPLES: Final = 3
"""Maximum samples that an agent sends on request (``schema.messages.AdHocRequest``)."""

_HISTORY: Final = timedelta(days=1)


class NoMonitor(Exception):
    """No monitor can measure the address now; the message says so."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an operator wants to be measured, and by whom."""

    target: Target
    names: tuple[str, ...] = ()
    """Full or short names of monitors; empty to choose them."""
    monitors: int = USUAL_MONITORS["ntp"]
    """How many to choose."""
    samples: int = MOST_SAMPLES
    """Packets of each; one while it traces the route."""
    kind: Kind = "ntp"

    def why_not(self, agent: Agent) -> str | None:
        """Return why an agent cannot do it now; ``None`` if it can."""
        if self.kind == "traceroute":
            return agent.why_no_route(self.target.ip, self.target.ipv)
        return agent.why_not(self.target.ipv)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one monitor found, or why it found nothing."""

    monitor: str
    usual_rtt: float | None = None
    """Shortest round-trip time to the address within a day before, in seconds."""
    result: Result | None = None
    traces: Sequence[Trace] | None = None
    """The route, by each method that was needed, if it was asked for."""
    said: str | None = None
    """Why there is no result, to follow the monitor's name."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A check that is ready to begin."""

    wanted: Wanted
    port: int
    server_id: int | None
    """The server at the address, if it is one of the pool."""
    chosen: Sequence[Candidate]
    """The monitors to ask; may be empty if all that were named cannot measure now."""
    unfit: Sequence[Finding]
    """Monitors that were named, but cannot measure now."""

    @property
    def names(self) -> list[str]:
        """Full names of the monitors to ask."""
        return [one.name for one in self.chosen]


def plan_check(connection: Connection, env: Environment, wanted: Wanted, now: datetime, chance: random.Random) -> Plan:
    """Decide who measures.

    Args:
        now: naive UTC.

    Raises:
        UnknownMonitor: a named monitor does not exist.
        NoMonitor: none were named, and no monitor can.
    """
    target = wanted.target
    server = connection.execute(sa.select(servers.c.id, servers.c.flags).where(servers.c.ip == target.ip)).first()
    agents = read_agents(connection, env, now)
    rtts = {} if server is None else _usual_rtts(connection, server.id, now)
    if wanted.names:
        named = {agent.name: agent for agent in (the_agent(agents, name) for name in wanted.names)}
        chosen = [_candidate(one, target, rtts) for one in named.values() if wanted.why_not(one) is None]
        unfit = [Finding(name, said=why) for name, one in named.items() if (why := wanted.why_not(one)) is not None]
    else:
        able = [_candidate(one, target, rtts) for one in agents if wanted.why_not(one) is None]
        chosen, unfit = near_and_far(able, wanted.monitors, chance), []
        if not chosen:
            raise NoMonitor(_none_can(wanted))
    port = port_of(env, "" if server is None else server.flags)
    return Plan(wanted, port, None if server is None else server.id, chosen, unfit)


def _none_can(wanted: Wanted) -> str:
    target = wanted.target
    connected = f"none that is connected probes by IP{target.ipv}"
    if wanted.kind == "traceroute":
        return f"No monitor can trace the route to {target.ip} now: {connected} and has a traceroute program."
    return f"No monitor can measure {target.ip} now: {connected}."


def _candidate(agent: Agent, target: Target, rtts: Mapping[int, float]) -> Candidate:
    return Candidate(agent.name, agent.place, rtts.get(agent.protocols[target.ipv].monitor_id))


def _usual_rtts(connection: Connection, server_id: int, now: datetime) -> dict[int, float]:
    """Return the shortest round-trip time to the server within a day, in seconds, by monitor."""
    s = log_scores.c
    query = (
        sa.select(s.monitor_id, sa.func.min(s.rtt))
        .where(s.server_id == server_id, s.ts > now - _HISTORY, s.ts <= now, s.rtt > 0)
        .group_by(s.monitor_id)
    )
    return {row[0]: row[1] / 1e6 for row in connection.execute(query) if row[0] is not None}


@asynccontextmanager
async def checking(
    session: Session, topics: Topics, plan: Plan, deadline: float
) -> AsyncIterator[AsyncIterator[Finding]]:
    """Ask the monitors of a plan; the findings come within the ``with`` block, one for each monitor.

    Args:
        deadline: by the event loop's clock; see :data:`CHECK_WITHIN` and :data:`TRACEROUTE_WITHIN`.

    Raises:
        BrokerAway: the broker is unavailable; no agent was asked.
    """
    wanted = plan.wanted
    question = Question(wanted.kind, wanted.target.ip, plan.port, wanted.samples)
    async with asking(session, topics, question, plan.names, deadline) as answering:
        yield _findings(plan, answering)


async def _findings(plan: Plan, answering: Answering) -> AsyncIterator[Finding]:
    for unfit in plan.unfit:
        yield unfit
    usual = {one.name: one.usual_rtt for one in plan.chosen}
    async for reply in answering.replies:
        yield _judge(reply, answering.key, plan.wanted, usual[reply.name])


def _judge(reply: Reply, key: str, wanted: Wanted, usual_rtt: float | None) -> Finding:
    if reply.payload is None:
        return Finding(reply.name, usual_rtt, said=reply.why)
    try:
        if wanted.kind == "traceroute":
            return Finding(reply.name, usual_rtt, *route_of(reply.payload, key, wanted.target.ip))
        return Finding(reply.name, usual_rtt, result_of(reply.payload, key, wanted.target.ip))
    except BadAnswer as error:
        return Finding(reply.name, usual_rtt, said=str(error))

"""Answer what operators' programs ask, apart from HTTP's form: read the ledger, ask agents, within the limits."""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from api.ops.agents import Agent, UnknownMonitor, read_agents, the_agent
from api.ops.asking import BrokerAway, Question, Session, asking
from api.ops.check import CHECK_WITHIN, TRACEROUTE_WITHIN, Finding, NoMonitor, Plan, Wanted, checking, plan_check
from api.ops.kept_routes import KeptRoute, keep_route, read_routes
from api.ops.limits import (
    CHECKS_AT_ONCE,
    CHECKS_PER_MINUTE,
    TRACEROUTES_AT_ONCE,
    WAITING_AT_ONCE,
    Full,
    PerMinute,
    Places,
)
from api.ops.messages import end_line, finding_line, plan_line
from api.ops.operators import Operator
from api.ops.replies import BadAnswer, metrics_of
from api.ops.stream import Write
from api.ops.target import Target, WrongTarget
from api.services import Services
from runtime.clock import ClockDoubted
from runtime.db.engine import reading, to_db, transaction
from runtime.db.retry import DatabaseUnavailable
from runtime.http.answers import Declined
from schema.tables import servers
from schema.topics import Topics

log = logging.getLogger(__name__)
T = TypeVar("T")

METRICS_WITHIN: Final = 4.5
"""Seconds for an agent to answer with its metrics; the requester has them, or the reason why not, within 5."""

_SOON: Final = {"Retry-After": "5"}


@dataclass(frozen=True, slots=True)
class Desk:
    """What operators' programs share: the session with the broker, and the limits."""

    services: Services
    session: Session
    topics: Topics
    metrics_within: float = METRICS_WITHIN
    check_within: float = CHECK_WITHIN
    traceroute_within: float = TRACEROUTE_WITHIN
    waiting: Places = field(default_factory=lambda: Places(WAITING_AT_ONCE))
    checks: Places = field(default_factory=lambda: Places(CHECKS_AT_ONCE))
    traceroutes: Places = field(default_factory=lambda: Places(TRACEROUTES_AT_ONCE))
    begun: PerMinute = field(default_factory=lambda: PerMinute(CHECKS_PER_MINUTE, monotonic))
    chance: random.Random = field(default_factory=random.Random)

    def connected(self) -> list[Agent]:
        """Return the agents that are connected, by name. Blocks."""
        return [agent for agent in self._agents() if agent.online]

    def plan(self, wanted: Wanted) -> Plan:
        """Decide who measures; see :func:`api.ops.check.plan_check`. Blocks."""
        now = to_db(self.services.now())
        return self._read(lambda connection: plan_check(connection, self.services.env, wanted, now, self.chance))

    async def metrics(self, name: str) -> str:
        """Return the metrics of the agent with this full or short name, in Prometheus' text format.

        Raises:
            Declined: there is no such agent, or it gave none.
        """
        with declining(), self.waiting.one():
            deadline = asyncio.get_running_loop().time() + self.metrics_within
            agent = await run_in_threadpool(self._agent, name)
            async with asking(self.session, self.topics, Question("metrics"), [agent.name], deadline) as answering:
                async for reply in answering.replies:
                    if reply.payload is None:
                        raise Declined(504, "no_answer", f"{agent.name} {reply.why}.")
                    return _metrics(agent, reply.payload, answering.key)
            raise AssertionError("each agent has a reply")

    def begin_check(self, operator: Operator) -> None:
        """Count a check of an operator.

        Raises:
            Declined: there were too many within the last minute.
        """
        seconds = self.begun.begin(operator.key_id)
        if seconds > 0:
            words = f"At most {CHECKS_PER_MINUTE} checks a minute are done for one operator; try again later."
            raise Declined(429, "too_many_checks", words, {"Retry-After": str(int(seconds) + 1)})

    async def check(self, operator: Operator, wanted: Wanted, write: Write) -> None:
        """Measure an address, or trace the routes to it, and write what each monitor finds as soon as it is known.

        Raises:
            Declined: no agent was asked, and nothing was written.
        """
        is_route = wanted.kind == "traceroute"
        places, within = (self.traceroutes, self.traceroute_within) if is_route else (self.checks, self.check_within)
        with declining(), self.waiting.one(), places.one():
            deadline = asyncio.get_running_loop().time() + within
            plan = await run_in_threadpool(self.plan, wanted)
            names = ", ".join(plan.names) or "none, since no named monitor can measure now"
            what = "traceroute to" if is_route else "check of"
            log.info("%s %s by %s: asking %s", what, wanted.target.ip, operator.label, names)
            found = kept = 0
            async with checking(self.session, self.topics, plan, deadline) as findings:
                await write(plan_line(plan))
                async for finding in findings:
                    found += finding.result is not None
                    # First, so that a route is kept although the client leaves.
                    kept += is_route and await run_in_threadpool(self._keep, plan, finding)
                    await write(finding_line(finding))
                await write(end_line(plan, found, kept))

    def _keep(self, plan: Plan, finding: Finding) -> bool:
        """Store a route; return whether it was stored. Blocks."""
        try:
            now = to_db(self.services.now())
            return transaction(self.services.engine, lambda connection: keep_route(connection, plan, finding, now))
        except (ClockDoubted, DatabaseUnavailable, SQLAlchemyError) as error:
            # The operator gets the route nevertheless.
            ip = plan.wanted.target.ip
            log.error("the route from %s to %s could not be stored: %s", finding.monitor, ip, error)
            return False

    def kept_routes(self, target: Target, most: int) -> list[KeptRoute]:
        """Return the latest routes to the server at an address, newest first. Blocks.

        Raises:
            Declined: there is no such server.
        """

        def read(connection: Connection) -> list[KeptRoute] | None:
            server_id = connection.scalar(sa.select(servers.c.id).where(servers.c.ip == target.ip))
            return None if server_id is None else read_routes(connection, server_id, most)

        if (found := self._read(read)) is None:
            raise Declined(404, "server", f"There is no server at {target.ip}.")
        return found

    def _agent(self, name: str) -> Agent:
        found = the_agent(self._agents(name), name)
        if (why := found.why_silent()) is not None:
            raise Declined(404, "not_connected", f"{found.name} {why}.")
        return found

    def _agents(self, name: str | None = None) -> list[Agent]:
        now = to_db(self.services.now())
        return self._read(lambda connection: read_agents(connection, self.services.env, now, name))

    def _read(self, work: Callable[[Connection], T]) -> T:
        with reading(self.services.engine) as connection:
            return work(connection)


def _metrics(agent: Agent, payload: bytes, key: str) -> str:
    try:
        return metrics_of(payload, key)
    except BadAnswer as error:
        log.warning("metrics of %s: it %s", agent.name, error)
        raise Declined(502, "bad_answer", f"{agent.name} {error}.") from None


@contextmanager
def declining() -> Iterator[None]:
    """Turn errors that occur before any agent is asked into HTTP answers.

    Raises:
        Declined: instead of them.
    """
    try:
        yield
    except WrongTarget as error:
        raise Declined(400, "target", str(error)) from None
    except UnknownMonitor as error:
        raise Declined(404, "monitor", str(error)) from None
    except NoMonitor as error:
        raise Declined(409, "no_monitor", str(error)) from None
    except BrokerAway as error:
        raise Declined(503, "broker", str(error), _SOON) from None
    except Full:
        words = "Too many requests to agents are waiting at once; try again in a few seconds."
        raise Declined(503, "busy", words, _SOON) from None

"""Perform runs that end by themselves: measure every assigned server once, or only check the local clock."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from agent.app import Agent
from agent.clock.check import base_checks, check_clock
from agent.clock.verdict import failure, in_ms
from agent.daemon_settings import DaemonSettings
from agent.login import Login
from agent.metrics import AgentCounters
from agent.ntp.probe import Source
from agent.ntp.resolver import Resolver
from agent.output import write
from agent.pipeline import keep
from agent.state import State, StateDirectory
from runtime.mqtt.session import BrokerSession, Identity, Incoming, Subscription
from schema.messages import LIVE, MonitorConfig, ProtocolConfig, Result, Undecodable, decode
from schema.names import IpVersion
from schema.topics import Topics

log = logging.getLogger(__name__)

CONNECT_WITHIN: Final = 30.0
CONFIGURED_WITHIN: Final = 15.0
CHECKED_WITHIN: Final = 60.0
DELIVERED_WITHIN: Final = 120.0
"""Seconds after which a step of such a run has failed."""

QUIET: Final = 2.0
"""Seconds without a new assignment after which the set is complete: the broker sends them in one go."""


class RunFailed(Exception):
    """A step failed; the message names it and gives the reason."""


async def probe_once(settings: DaemonSettings, directory: StateDirectory) -> int:
    """Probe all assigned servers, deliver the results, and return the exit status."""
    login = Login(directory, directory.read_state())
    agent = Agent(settings, directory, login, keep(settings, directory), on_reload=lambda: None, passing=True)
    ends, failed = asyncio.Event(), False
    try:
        async with asyncio.TaskGroup() as tasks:
            parts = {f"sender {ipv}": pipeline.sender.run() for ipv, pipeline in agent.pipelines.items()}
            parts |= {f"clock {ipv}": pipeline.prober.clock.run() for ipv, pipeline in agent.pipelines.items()}
            parts["clock watch"] = agent.watch_clock()
            serving = tasks.create_task(agent.serve(parts, ends, says_goodbye=lambda: False))
            try:
                await _probe_all(agent)
            finally:
                ends.set()
            await serving
    except* RunFailed as failures:
        for failure in failures.exceptions:
            log.error("%s", failure)
        failed = True
    return 1 if failed else 0


async def _probe_all(agent: Agent) -> None:
    await _within(CONNECT_WITHIN, agent.session.wait_ready(), "no connection to the broker")
    await _within(CONFIGURED_WITHIN, agent.configured.wait(), "no configuration arrived")
    probers = [pipeline.prober for pipeline in agent.pipelines.values() if pipeline.prober.live]
    if not probers:
        reasons = (f"IP{ipv}: {pipeline.prober.why_not}" for ipv, pipeline in agent.pipelines.items())
        raise RunFailed(f"nothing to probe: {'; '.join(reasons)}")
    await _quiet(lambda: sum(len(prober.assignments) for prober in probers))
    for prober in probers:
        await _within(CHECKED_WITHIN, prober.clock.checked(), "the local clock could not be checked")
    blocked = [f"IP{prober.ipv}: {prober.why_not}" for prober in probers if prober.why_not is not None]
    if len(blocked) == len(probers):
        raise RunFailed(f"not probing: {'; '.join(blocked)}")
    probes = [prober.probe_in_turn(i) for prober in probers if not prober.why_not for i in prober.assignments.ids()]
    await asyncio.gather(*probes)
    for prober in probers:
        await _within(
            CHECKED_WITHIN, prober.decide(), "could not decide whether the silent servers or our own network failed"
        )
    for pipeline in agent.pipelines.values():
        await pipeline.batcher.close()
    log.info("%d servers probed", len(probes))
    await _within(DELIVERED_WITHIN, _delivered(agent), "not all results were acknowledged; they stay in the spool")


async def _quiet(count: Callable[[], int]) -> None:
    """Wait until ``count`` has stopped changing."""
    before = -1
    while (now := count()) != before:
        before = now
        await asyncio.sleep(QUIET)


async def _delivered(agent: Agent) -> None:
    while any(len(pipeline.spool) for pipeline in agent.pipelines.values()):
        agent.left.clear()
        await agent.left.wait()


async def _within(seconds: float, waited: Awaitable[object], failure: str) -> None:
    try:
        async with asyncio.timeout(seconds):
            await waited
    except TimeoutError:
        raise RunFailed(f"{failure} (within {seconds:g} s)") from None


CONNECTED_AND_CONFIGURED_WITHIN: Final = 30.0
"""Seconds for the connection and the configuration, which names the servers to query, to arrive."""


async def check_clock_once(settings: DaemonSettings, directory: StateDirectory) -> int:
    """Check the clock for every live protocol, print the result, and return the exit status."""
    state = directory.read_state()
    config = await _fetch_config(directory, state)
    if config is None:
        log.error("no configuration arrived within %g s", CONNECTED_AND_CONFIGURED_WITHIN)
        return 1
    live = {ipv: p for ipv, p in config.protocols.items() if p.status in LIVE and ipv in settings.protocols}
    if not live:
        log.error("no protocol that is enabled on this host has the status testing or active")
        return 1
    good = [await _check(ipv, protocol, directory, state) for ipv, protocol in live.items()]
    return 0 if all(good) else 1


async def _fetch_config(directory: StateDirectory, state: State) -> MonitorConfig | None:
    arrived: asyncio.Future[MonitorConfig] = asyncio.get_running_loop().create_future()

    def on_config(message: Incoming) -> None:
        try:
            config = decode(message.payload, MonitorConfig)
        except Undecodable as error:
            log.error("configuration refused: %s", error)
            return
        if not arrived.done():
            arrived.set_result(config)

    topics = Topics(directory.env)
    login = Login(directory, state)
    session = BrokerSession(
        login.tls.address,
        # A separate session, so that a running daemon keeps its own.
        Identity(state.name, f"{state.name}/sanity"),
        login.token.read,
        subscriptions=[Subscription(topics.config(state.name), on_config)],
        tls=login.tls,
    )
    connection = asyncio.create_task(session.run())
    try:
        await asyncio.wait({arrived}, timeout=CONNECTED_AND_CONFIGURED_WITHIN)
        return arrived.result() if arrived.done() else None
    finally:
        connection.cancel()
        with suppress(asyncio.CancelledError):
            await connection


async def _check(ipv: IpVersion, protocol: ProtocolConfig, directory: StateDirectory, state: State) -> bool:
    checks = base_checks(protocol.base_checks, protocol.samples, directory.rules(state), ipv)
    checked = await check_clock(checks, Source(protocol.nat_ip or protocol.ip), AgentCounters(), Resolver())
    lines = [f"  {name}: {_in_words(result)}" for name, result in checked.results]
    lines += [f"  {reason}" for reason in checked.refused]
    headline = f"IP{ipv}: {'the local clock is good' if checked.verdict.good else checked.verdict.reason}"
    for line in (headline, *lines):
        write(line)
    return checked.verdict.good


def _in_words(result: Result) -> str:
    offset = "" if result.offset is None else f"{in_ms(result.offset)}"
    return ", ".join(filter(None, (offset, failure(result) and f"failed: {failure(result)}")))

"""A run that ends by itself: only checks the local clock, and says what the base-check servers answered."""

import asyncio
import logging
from contextlib import suppress
from typing import Final

from agent.clock.check import base_checks, check_clock
from agent.clock.verdict import failure, in_ms
from agent.daemon_settings import DaemonSettings
from agent.login import Login
from agent.metrics import AgentCounters
from agent.ntp.exchange import Source
from agent.ntp.resolver import Resolver
from agent.output import write
from agent.state import State, StateDirectory
from runtime.mqtt.session import BrokerSession, Identity, Incoming, Subscription
from schema.messages import LIVE, MonitorConfig, ProtocolConfig, Result, Undecodable, decode
from schema.names import IpVersion
from schema.topics import Topics

log = logging.getLogger(__name__)

CONFIGURED_WITHIN: Final = 30.0
"""Seconds for connecting and for the configuration, which names the servers to ask, to arrive."""


async def check_clock_once(settings: DaemonSettings, directory: StateDirectory) -> int:
    """Checks the clock for every live protocol, writes the result to stdout, and returns the exit status."""
    state = directory.read_state()
    config = await _fetch_config(directory, state)
    if config is None:
        log.error("no configuration arrived within %g s", CONFIGURED_WITHIN)
        return 1
    live = {ipv: p for ipv, p in config.protocols.items() if p.status in LIVE and ipv in settings.protocols}
    if not live:
        log.error("no protocol that is switched on here has the status testing or active")
        return 1
    good = [await _check(ipv, protocol, directory, state) for ipv, protocol in live.items()]
    return 0 if all(good) else 1


async def _fetch_config(directory: StateDirectory, state: State) -> MonitorConfig | None:
    arrived: asyncio.Future[MonitorConfig] = asyncio.get_running_loop().create_future()

    def take(message: Incoming) -> None:
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
        # Beside the daemon, if one is running, and not in its place.
        Identity(state.name, f"{state.name}/sanity"),
        login.token.read,
        subscriptions=[Subscription(topics.config(state.name), take)],
        tls=login.tls,
    )
    connection = asyncio.create_task(session.run())
    try:
        await asyncio.wait({arrived}, timeout=CONFIGURED_WITHIN)
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

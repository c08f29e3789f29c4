"""What one protocol of an agent consists of, and what of it outlives a change of identity."""

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from agent.clock.step import ClockWatch
from agent.daemon_settings import DaemonSettings
from agent.delivery.batcher import Batcher
from agent.delivery.sender import Sender
from agent.delivery.spool import Batched, Spool
from agent.metrics import AgentCounters
from agent.ntp.resolver import Resolver
from agent.prober import Prober
from agent.state import StateDirectory, state_error
from runtime.mqtt.session import BrokerSession
from schema.limits import SPOOL_AGE
from schema.names import IP_VERSIONS, IpVersion


class Lasting(msgspec.Struct, frozen=True):
    """What outlives a change of ``state.json``."""

    spools: dict[IpVersion, Spool]
    counters: AgentCounters
    watch: ClockWatch
    resolver: Resolver
    started: datetime


def keep(settings: DaemonSettings, directory: StateDirectory) -> Lasting:
    """Opens the spools.

    Raises:
        StateError: they cannot be opened.
    """
    half, age = settings.spool_bytes // 2, SPOOL_AGE.total_seconds()
    try:
        spools = {ipv: Spool(directory.spool / ipv, max_bytes=half, max_age=age) for ipv in IP_VERSIONS}
    except OSError as error:
        raise state_error(str(directory.spool), error) from error
    return Lasting(spools, AgentCounters(), ClockWatch(), Resolver(), datetime.now(UTC))


class Pipeline(msgspec.Struct, frozen=True):
    """One protocol, from the probe to the broker."""

    prober: Prober
    batcher: Batcher
    sender: Sender
    spool: Spool


class BatchLink:
    """The way of one protocol's batches to the broker.

    Args:
        session: of now; asked each time, since the parts of an agent know each other in a circle.
    """

    def __init__(self, session: Callable[[], BrokerSession], topic: str) -> None:
        self._session = session
        self._topic = topic

    async def wait_ready(self) -> None:
        """Returns when there is a connection."""
        await self._session().wait_ready()

    def room(self) -> int | None:
        """Bytes of a packet that the broker takes, at most; None: any, or not known."""
        return self._session().limits.packet

    async def publish_batch(self, batch: Batched) -> None:
        """Publishes a batch, with its id as correlation data. Raises what :meth:`BrokerSession.publish` raises."""
        await self._session().publish(self._topic, batch.payload, correlation=batch.id.encode())

"""Define the parts of an agent for one protocol, and the parts that survive a change of identity."""

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from agent.clock.step import ClockWatch
from agent.control import Pause
from agent.daemon_settings import DaemonSettings
from agent.delivery.batcher import Batcher
from agent.delivery.sender import Sender
from agent.delivery.spool import Batched, Spool
from agent.metrics import AgentCounters
from agent.ntp.resolver import Resolver
from agent.prober import Prober
from agent.state import StateDirectory, state_error
from agent.traceroute.gate import Gate
from runtime.mqtt.session import BrokerSession
from schema.limits import SPOOL_AGE
from schema.names import IP_VERSIONS, IpVersion
from schema.trace_context import USER_PROPERTY, trace_of_batch


class Lasting(msgspec.Struct, frozen=True):
    """The parts that survive a change of ``state.json``."""

    spools: dict[IpVersion, Spool]
    counters: AgentCounters
    watch: ClockWatch
    resolver: Resolver
    started: datetime
    pause: Pause
    gate: Gate


def keep(settings: DaemonSettings, directory: StateDirectory) -> Lasting:
    """Open the spools and create the lasting parts.

    Raises:
        StateError: they cannot be opened.
    """
    half, age = settings.spool_bytes // 2, SPOOL_AGE.total_seconds()
    try:
        spools = {ipv: Spool(directory.spool / ipv, max_bytes=half, max_age=age) for ipv in IP_VERSIONS}
    except OSError as error:
        raise state_error(str(directory.spool), error) from error
    return Lasting(spools, AgentCounters(), ClockWatch(), Resolver(), datetime.now(UTC), Pause(), Gate())


class Pipeline(msgspec.Struct, frozen=True):
    """The parts of one protocol, from the probe to the broker."""

    prober: Prober
    batcher: Batcher
    sender: Sender
    spool: Spool


class BatchLink:
    """Publish one protocol's batches.

    Args:
        session: returns the current session; called each time, since the session is created after the link.
        trace_one_in: one in so many batches is traced; 0: none.
    """

    def __init__(self, session: Callable[[], BrokerSession], topic: str, trace_one_in: int = 0) -> None:
        self._session = session
        self._topic = topic
        self._trace_one_in = trace_one_in

    async def wait_ready(self) -> None:
        """Wait for a connection."""
        await self._session().wait_ready()

    def room(self) -> int | None:
        """Return the maximum packet size that the broker accepts, in bytes; ``None`` if unlimited or unknown."""
        return self._session().limits.packet

    async def publish_batch(self, batch: Batched) -> None:
        """Publish a batch, with its id as correlation data. Raise whatever :meth:`BrokerSession.publish` raises."""
        context = trace_of_batch(batch.id, self._trace_one_in)
        properties = () if context is None else ((USER_PROPERTY, context),)
        await self._session().publish(
            self._topic, batch.payload, correlation=batch.id.encode(), user_properties=properties
        )

"""Act as the pool towards one agent: assign servers, acknowledge its batches, and keep its results."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from auth.tokens import Role, SigningKey, token_source
from bench.world import ENV
from runtime.mqtt.request import RequestClient, new_key
from runtime.mqtt.session import BrokerAddress, Identity, Incoming, Subscription
from schema.messages import (
    AdHocAnswer,
    AdHocRequest,
    Assignment,
    Batch,
    BatchCommitted,
    MonitorConfig,
    ProtocolConfig,
    Result,
    Status,
    decode,
    encode,
)
from schema.names import IpVersion
from schema.topics import ANY, Topics
from testbed.ntp.spec import ServerSpec

_TOPICS: Final = Topics(ENV)
_IPV: Final[IpVersion] = "v4"
_ANSWER_WITHIN: Final = 10.0


class PoolSide:
    """Act as ingest, selector and operator for the agent ``name``, while :meth:`connected`."""

    def __init__(self, address: BrokerAddress, key: SigningKey, name: str) -> None:
        self.results: list[Result] = []
        """Results of all batches, each batch once."""
        self.assigned = 0
        """Servers assigned to the agent."""
        self._name = name
        self._status = Status(online=False)
        self._seen: set[str] = set()
        self._arrived: asyncio.Queue[Batch] = asyncio.Queue()
        self._requests = RequestClient(
            address,
            Identity("ingest", "ingest/bench"),
            token_source(key, Role.SERVER, "ingest", ENV),
            answers=_TOPICS.data(name, ANY),
        )
        self._session = self._requests.session
        self._session.subscribe(Subscription(_TOPICS.results(name, _IPV), self._on_batch))
        self._session.subscribe(Subscription(_TOPICS.status(name), self._on_status))

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Connect, and acknowledge incoming batches."""
        tasks = [asyncio.create_task(self._session.run()), asyncio.create_task(self._acknowledge())]
        try:
            await self._session.wait_ready()
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    @property
    def probing(self) -> bool:
        """Whether the agent reports that it probes and has all assignments, and has sent a result."""
        state = self._status.protocols.get(_IPV)
        return (
            self._status.online
            and state is not None
            and state.probing
            and state.assignments == self.assigned
            and bool(self.results)
        )

    def forget(self) -> None:
        """Forget all messages so far: they came from an earlier agent."""
        self._status = Status(online=False)
        self.results.clear()

    async def configure(self, *, samples: int, clock_checks: Sequence[str]) -> None:
        """Publish the agent's retained configuration. ``clock_checks`` are addresses with their ports."""
        protocol = ProtocolConfig(status="active", samples=samples, base_checks=list(clock_checks))
        config = MonitorConfig(protocols={_IPV: protocol})
        await self._session.publish(_TOPICS.config(self._name), encode(config), retain=True)

    async def assign(self, servers: Mapping[int, ServerSpec], interval: float) -> None:
        """Publish retained assignments with the given ``interval`` in seconds."""
        for server_id, spec in servers.items():
            message = Assignment(
                server_id=server_id, ip=spec.address, port=spec.port, status="active", interval=interval
            )
            topic = _TOPICS.assignment(self._name, _IPV, server_id)
            await self._session.publish(topic, encode(message), retain=True)
        self.assigned += len(servers)

    async def metrics(self) -> dict[str, float]:
        """Return the agent's own counters by their Prometheus names.

        Raises:
            TimeoutError: it does not answer.
        """
        topic, request = _TOPICS.request(self._name, "metrics"), encode(AdHocRequest(id=new_key()))
        answer = await self._requests.request_one(
            topic, request, _TOPICS.data(self._name, new_key()), timeout=_ANSWER_WITHIN
        )
        if answer is None:
            raise TimeoutError(f"{self._name} did not answer the request for its metrics")
        metrics = decode(answer, AdHocAnswer).metrics or ""
        lines = (line.split() for line in metrics.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    async def _acknowledge(self) -> None:
        topic = _TOPICS.acks(self._name, _IPV)
        while True:
            batch = await self._arrived.get()
            ack = BatchCommitted(batch=batch.id, stored=len(batch.results))
            await self._session.publish(topic, encode(ack))

    def _on_batch(self, message: Incoming) -> None:
        batch = decode(message.payload, Batch)
        self._arrived.put_nowait(batch)
        if batch.id not in self._seen:
            self._seen.add(batch.id)
            self.results += batch.results

    def _on_status(self, message: Incoming) -> None:
        if message.payload:
            self._status = decode(message.payload, Status)

"""Simulate a monitor: the agent's own sender and broker session, with invented measurements in place of probes."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from agent.delivery.sender import Sender
from agent.delivery.spool import Batched
from agent.metrics import AgentCounters
from agent.schedule import monitor_number
from agent.status import Presence
from auth.tokens import Role, SigningKey, token_source
from runtime.mqtt.session import BrokerAddress, BrokerSession, Identity, Incoming, NotConnected, Subscription, Will
from schema.limits import STATUS_EXPIRY, WILL_DELAY
from schema.messages import Ack, Assignment, ProtocolState, Status, assignment_set_hash, decode, encode
from schema.topics import Topics
from testbed.load.record import Record
from testbed.load.rota import Rota, Turn
from testbed.load.spec import LoadSpec, Member, Target
from testbed.load.spool import LoadSpool
from testbed.load.traffic import VERSION, Kind, make_batch, pick_kind
from testbed.paths import certificate_files

KEEP_SESSION: Final = timedelta(hours=1)
_PAST: Final = timedelta(minutes=10)
"""Age of the first results if more are sent than the intervals allow."""

_REPEAT_AFTER: Final = (0.0, 1.0)
"""Seconds after the first publish at which a duplicate is published: immediately, and probably after its ack."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """A finished batch, ready to be sent and recorded."""

    id: str
    kind: Kind
    measured: int
    payload: bytes
    record: bytes


@dataclass(frozen=True, slots=True)
class _Repeat:
    due: float
    batch: Batched


class SimulatedMonitor:
    """One monitor and protocol. Run :meth:`run` as a task; :meth:`submit` makes a batch.

    Args:
        on_done: called when a batch has left the spool.
    """

    def __init__(
        self,
        member: Member,
        spec: LoadSpec,
        key: SigningKey,
        spool: LoadSpool,
        record: Record,
        on_done: Callable[[], None],
    ) -> None:
        self.member = member
        self.spool = spool
        self.rota = Rota(member.targets, monitor=monitor_number(member.name))
        self._spec = spec
        self._record = record
        self._topics = Topics(spec.env)
        self._rng = random.Random(f"{spec.seed} {member.name} {member.ipv}")
        self._began = datetime.now(UTC) - (_PAST if self._hurries() else timedelta(0))
        self._held: dict[int, Assignment] = {}
        self._ahead: deque[_Ready] = deque()
        self._duplicates: set[str] = set()
        self._repeats: deque[_Repeat] = deque()
        self._writing: asyncio.Future[None] | None = None
        self._sender = Sender(
            spool,
            self,
            AgentCounters(),
            on_sent=lambda number: None,
            on_done=on_done,
            ack_timeout=spec.ack_timeout,
            shortest_rest=min(2.0, spec.ack_timeout),
        )
        self._presence = Presence(self._status, self._publish_status, self.wait_ready)
        self.session = self._make_session(key)

    @property
    def idle(self) -> bool:
        """Whether no batch is waiting to be sent or acknowledged."""
        written = self._writing is None or self._writing.done()
        return written and not len(self.spool) and not self._repeats

    async def run(self) -> None:
        """Keep the session connected, send and repeat, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.session.run())
            tasks.create_task(self._sender.run())
            tasks.create_task(self._presence.run())
            if self._spec.shares.duplicate:
                tasks.create_task(self._repeat())

    def _hurries(self) -> bool:
        """Return whether more is sent than the intervals allow."""
        share = 0.0 if self._spec.rate is None else self._spec.rate / len(self._spec.members)
        return self._spec.outstanding is not None or share > 1.05 * self.rota.pace

    def make_ahead(self, count: int) -> None:
        """Make up to this many batches for the next calls of :meth:`submit`; fewer if no measurement is due."""
        made = (self._make() for _ in range(count))
        self._ahead.extend(one for one in made if one is not None)

    async def submit(self) -> bool:
        """Put a batch into the spool, made ahead or of due servers; return False if no measurement is due."""
        ready = self._ahead.popleft() if self._ahead else self._make()
        if ready is None:
            return False
        at = time.time_ns()
        self._record.sent_text(at, ready.record)
        if ready.kind == "duplicate":
            self._duplicates.add(ready.id)
        batch = Batched(id=ready.id, results=ready.measured, created=at // 1_000_000_000, payload=ready.payload)
        # A batch recorded as sent must be sent, even if the load ends while the disk is slow.
        self._writing = asyncio.ensure_future(self._put(batch))
        await asyncio.shield(self._writing)
        return True

    def _make(self) -> _Ready | None:
        turns = self.rota.take(self._spec.batch)
        if not turns:
            return None
        kind: Kind = pick_kind(self._spec.shares, self._rng.random())
        now = datetime.now(UTC)
        times = self._times(turns, now)
        made = make_batch([turn.target for turn in turns], kind, now, self._rng, times)
        record = self._record.text(self.member.name, self.member.ipv, made)
        return _Ready(made.id, kind, len(turns), made.payload, record)

    def _times(self, turns: Sequence[Turn], now: datetime) -> list[datetime]:
        """Return the times of measurement: one interval apart for each pair, however fast results are sent, since
        ingest would reject them as too soon otherwise."""
        last = self._began + timedelta(seconds=turns[-1].at)
        if now - last > _PAST:  # no measurement was due for a while
            self._began += now - last
        return [self._began + timedelta(seconds=turn.at) for turn in turns]

    async def _put(self, batch: Batched) -> None:
        await self.spool.put(batch)
        self._sender.wake()

    # ---- the sender's link -----------------------------------------------------------------------------------------

    async def wait_ready(self) -> None:
        """Wait until connected."""
        await self.session.wait_ready()

    async def publish_batch(self, batch: Batched) -> None:
        """Publish a batch. Raises the errors of :meth:`BrokerSession.publish`."""
        await self._publish(batch)
        if batch.id in self._duplicates:
            self._duplicates.discard(batch.id)
            now = time.monotonic()
            self._repeats.extend(_Repeat(now + after, batch) for after in _REPEAT_AFTER)

    async def _publish(self, batch: Batched) -> None:
        topic = self._topics.results(self.member.name, self.member.ipv)
        await self.session.publish(topic, batch.payload, correlation=batch.id.encode())

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            for _ in range(len(self._repeats)):
                repeat = self._repeats.popleft()
                if repeat.due > time.monotonic() or not await self._published_again(repeat.batch):
                    self._repeats.append(repeat)

    async def _published_again(self, batch: Batched) -> bool:
        try:
            await self._publish(batch)
        except NotConnected:
            return False
        return True

    # ---- incoming messages -------------------------------------------------------------------------------------------

    def _address(self) -> BrokerAddress:
        spec, name = self._spec, self.member.name
        files = None if spec.certificates is None else certificate_files(spec.certificates, name)
        return BrokerAddress(spec.host, spec.port, spec.ca_file, *(files or ()))

    def _make_session(self, key: SigningKey) -> BrokerSession:
        name, env = self.member.name, self._spec.env
        subscriptions = [Subscription(self._topics.acks(name, self.member.ipv), self._take_ack)]
        if self._spec.listen:
            subscriptions.append(Subscription(self._topics.assignments(name), self._take_assignment))
        return BrokerSession(
            self._address(),
            Identity(name, name),
            token_source(key, Role.MONITOR, name, env),
            subscriptions=subscriptions,
            will=Will(self._topics.status(name), encode(Status(online=False)), WILL_DELAY, STATUS_EXPIRY),
            keep=KEEP_SESSION,
            on_session=self._on_session,
            on_ready=self._presence.connected,
        )

    def _on_session(self, kept: bool) -> None:
        if kept:
            return
        for server_id in self._held:
            self.rota.remove(server_id)
        self._held.clear()
        self._sender.send_again()

    def _take_ack(self, message: Incoming) -> None:
        ack: Ack = decode(message.payload, Ack)  # type: ignore[arg-type]  # a union is a type for msgspec
        self._record.answered(time.time_ns(), self.member.name, self.member.ipv, ack)
        self._sender.acknowledge(ack)

    def _take_assignment(self, message: Incoming) -> None:
        at = time.time_ns()
        address = self._topics.parse(message.topic)
        if address is None or address.ipv != self.member.ipv:
            return
        server_id = int(address.rest)
        assignment = decode(message.payload, Assignment) if message.payload else None
        status = None if assignment is None else assignment.status
        self._record.received(at, self.member.name, self.member.ipv, server_id, status)
        if assignment is None:
            self._held.pop(server_id, None)
            self.rota.remove(server_id)
        else:
            self._held[server_id] = assignment
            self.rota.add(Target(server_id, assignment.ip, assignment.interval))
        self._presence.changed()

    # ---- its status ------------------------------------------------------------------------------------

    def _status(self) -> Status:
        state = ProtocolState(
            status="active",
            probing=True,
            assignments=len(self._held),
            assignments_hash=assignment_set_hash(self._held.values()),
        )
        protocols = {self.member.ipv: state} if self._spec.listen else {}
        return Status(online=True, ts=datetime.now(UTC), version=VERSION, protocols=protocols)

    async def _publish_status(self, status: Status) -> None:
        topic = self._topics.status(self.member.name)
        await self.session.publish(topic, encode(status), retain=True, expiry=STATUS_EXPIRY)

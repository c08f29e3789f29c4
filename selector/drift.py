"""Detect agents whose assignments differ from the ledger, from their status messages.

A status message contains, for each protocol, the number and hash of the assignments that the agent holds. If they
differ from the ledger's, the monitor's retained tree is reconciled. If the tree is correct and the next status has the
same difference, the agent itself has missed a message, and all its assignments are published again.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final

from runtime.db.engine import reading
from runtime.mqtt.session import Incoming
from runtime.wakeup import Wakeup
from runtime.worker import Worker
from schema.messages import Undecodable, assignment_set_hash, decode_status
from schema.names import IpVersion
from selector.assignments import has_topics, read_pairs_of_monitor
from selector.publisher import Publisher
from selector.reconcile import Reconciler
from selector.row_warnings import RowWarnings

PAUSE: Final = 20.0
"""Minimum seconds between two comparisons of one agent, which may report every change, and whose reports lag behind
ours."""

COMING_ONLINE: Final = 300.0
"""Seconds within which an agent that comes online triggers reconciliation at most once, so that a flapping agent does
not keep the selector busy. Its status is still compared."""

RESEND_ALL_AGAIN: Final = 3600.0
"""Minimum seconds between two complete resends of an agent's assignments."""

Held = dict[IpVersion, str]
"""The hash of the assignments of each protocol."""


class DriftWatch:
    """Comparison of the agents' assignments with the ledger."""

    def __init__(
        self,
        worker: Worker,
        publisher: Publisher,
        reconciler: Reconciler,
        row_warnings: RowWarnings,
        *,
        known: Callable[[str], bool],
    ) -> None:
        self._worker = worker
        self._publisher = publisher
        self._reconciler = reconciler
        self._row_warnings = row_warnings
        self._known = known
        self._online: set[str] = set()
        self._reported: OrderedDict[str, Held] = OrderedDict()
        self._compared: dict[str, float] = {}
        self._came_online: dict[str, float] = {}
        self._differing: dict[str, tuple[Held, Held]] = {}
        self._resent_all: dict[str, float] = {}
        self._wakeup = Wakeup()

    @property
    def online(self) -> int:
        """Return how many agents are online according to their status messages."""
        return len(self._online)

    def on_status(self, message: Incoming) -> None:
        """Handle a status message. No state is kept for an agent that is not in the ledger."""
        address = self._worker.topics.parse(message.topic)
        if address is None or address.kind != "status":
            return
        name = address.name
        if not self._known(name):
            self._forget(name)
            return
        if not message.payload:
            self._is_offline(name)
            return
        try:
            status = decode_status(message.payload)
        except Undecodable as error:
            self._row_warnings.warn("status", name, str(error))
            return
        if not status.online:
            self._is_offline(name)
            return
        self._is_online(name)
        self._reported[name] = {ipv: state.assignments_hash for ipv, state in status.protocols.items()}
        self._wakeup.set()

    def _is_online(self, name: str) -> None:
        now = time.monotonic()
        if name not in self._online and now - self._came_online.get(name, -COMING_ONLINE) >= COMING_ONLINE:
            self._came_online[name] = now
            self._reconciler.mark(name)
        self._online.add(name)

    def _is_offline(self, name: str) -> None:
        """Record that the agent is offline, but keep the times of its debounce, since it may be flapping."""
        self._online.discard(name)
        self._reported.pop(name, None)

    async def run(self) -> None:
        """Compare until cancelled."""
        while True:
            await self._compare(await self._next())

    async def _compare(self, name: str) -> None:
        reported = self._reported.pop(name)
        self._compared[name] = time.monotonic()
        if not has_topics(name, self._worker.topics, self._row_warnings):
            return
        ledger = await self._worker.in_database(partial(self._ledger, name))
        differs = any(ledger.get(ipv, _NOTHING) != held for ipv, held in reported.items())
        if not differs:
            self._differing.pop(name, None)
            return
        # The same two sets as last time, although the tree was reconciled in between.
        again = self._differing.get(name) == (reported, ledger) and self._may_resend_all(name)
        self._differing[name] = (reported, ledger)
        self._reconciler.mark(name, resend_all=again)

    def _may_resend_all(self, name: str) -> bool:
        """Limit complete resends to one per hour, since an agent with another hash would cause one per message."""
        now = time.monotonic()
        if now - self._resent_all.get(name, -RESEND_ALL_AGAIN) < RESEND_ALL_AGAIN:
            return False
        self._resent_all[name] = now
        return True

    def _ledger(self, name: str) -> Held:
        with reading(self._worker.engine) as connection:
            rows = read_pairs_of_monitor(connection, name)
        assignments = self._publisher.by_topic(rows)
        held: Held = {}
        for ipv in {row.ipv for row in rows}:
            topics = (self._worker.topics.assignment(name, ipv, row.server_id) for row in rows if row.ipv == ipv)
            found = (assignments.get(topic) for topic in topics)
            held[ipv] = assignment_set_hash(one for one in found if one is not None)
        return held

    async def _next(self) -> str:
        """Wait for the agent with the oldest report among those that may be compared again, and return its name."""
        while True:
            self._wakeup.clear()
            now = time.monotonic()
            waits = [(self._compared.get(name, -PAUSE) + PAUSE - now, name) for name in self._reported]
            for wait, name in waits:
                if wait <= 0:
                    return name
            await self._wakeup.wait(min((wait for wait, _ in waits), default=None))

    def _forget(self, name: str) -> None:
        self._is_offline(name)
        for memory in (self._compared, self._came_online, self._differing, self._resent_all):
            memory.pop(name, None)


_NOTHING: Final = assignment_set_hash(())

"""Publish assignments after the commit: one retained message for each assignment that may have changed.

The assignments are read from the ledger after the commit, published, and read again: if another process changed and
published the same pair in between, the second read corrects a message that overwrote the other's. A message that the
broker does not acknowledge marks its monitor for reconciliation, so no state is kept here.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final

from runtime.db.engine import reading
from runtime.log import OngoingWarning
from runtime.mqtt.session import NotConnected, PublishRefused
from runtime.worker import Worker
from schema.messages import Assignment, encode
from selector.assignments import PairRow, Terms, assignments_by_topic, read_pairs
from selector.metrics import SelectorMetrics
from selector.row_warnings import RowWarnings
from selector.store import Pair

log = logging.getLogger(__name__)

AT_ONCE: Final = 200
"""Messages whose acknowledgements are awaited together."""

ROUNDS: Final = 5
"""Maximum comparisons of published messages with the ledger; reconciliation repairs later changes."""

Published = Mapping[str, Assignment | None]
"""Assignments by topic; None if there is none."""


class Publisher:
    """Publisher of assignments as the ledger has them.

    Args:
        on_lost: called with the name of a monitor for which a message could not be published.
    """

    def __init__(
        self, worker: Worker, row_warnings: RowWarnings, metrics: SelectorMetrics, *, on_lost: Callable[[str], None]
    ) -> None:
        self._worker = worker
        self._row_warnings = row_warnings
        self._metrics = metrics
        self._on_lost = on_lost
        self._warning = OngoingWarning(log)

    async def publish_pairs(self, pairs: Sequence[Pair]) -> None:
        """Publish the current assignments of these pairs."""
        published: dict[str, Assignment | None] = {}
        news: Published = {}
        for _ in range(ROUNDS):
            now = await self._worker.in_database(partial(self._read, pairs))
            news = {topic: what for topic, what in now.items() if topic not in published or published[topic] != what}
            if not news or not await self.send(news):
                return
            published.update(news)
        for topic in news:
            self._mark(topic)

    def by_topic(self, rows: Iterable[PairRow]) -> Published:
        """Return the assignments of these rows. Blocks on the database if settings have to be read again."""
        terms = Terms(self._worker.topics, self._worker.pool.get().monitors, datetime.now(UTC).date())
        return assignments_by_topic(rows, terms, self._row_warnings)

    def _read(self, pairs: Sequence[Pair]) -> Published:
        with reading(self._worker.engine) as connection:
            return self.by_topic(read_pairs(connection, pairs))

    async def send(self, published: Published) -> bool:
        """Publish all messages, retained; return whether all were acknowledged. Mark the monitors of the others."""
        topics = list(published)
        acknowledged = 0
        for first in range(0, len(topics), AT_ONCE):
            some = topics[first : first + AT_ONCE]
            results = await asyncio.gather(*(self._send(topic, published[topic]) for topic in some))
            acknowledged += sum(results)
        self._metrics.published(acknowledged, len(topics) - acknowledged)
        return acknowledged == len(topics)

    async def _send(self, topic: str, what: Assignment | None) -> bool:
        payload = b"" if what is None else encode(what)
        try:
            if not self._worker.broker.connected:
                raise NotConnected(f"not connected to {self._worker.broker.address}")
            await self._worker.broker.publish(topic, payload, retain=True)
        except (NotConnected, PublishRefused) as error:
            self._warning.warning("assignments could not be published and will be reconciled: %s", error)
            self._mark(topic)
            return False
        self._warning.over()
        return True

    def _mark(self, topic: str) -> None:
        address = self._worker.topics.parse(topic)
        if address is not None:
            self._on_lost(address.name)

"""Run the count of monitors' health periodically, and log which labels were raised or cleared."""

import logging
from functools import partial
from typing import Final

from runtime.db.engine import utc_now
from runtime.worker import Worker
from selector.health.count import Counted, count_labels, count_next_hour
from selector.metrics import SelectorMetrics

log = logging.getLogger(__name__)

COUNT_EVERY: Final = 300.0
"""Seconds between two checks for an hour to count; a check that finds none reads one row."""


class HealthJob:
    """Job that counts each hour after its end, in one of the selectors."""

    def __init__(self, worker: Worker, metrics: SelectorMetrics) -> None:
        self._worker = worker
        self._metrics = metrics

    def add_jobs(self) -> None:
        """Add the periodic job."""
        self._worker.jobs.add("health", COUNT_EVERY, self.run, at_once=True, when=self._worker.undisturbed)

    async def run(self) -> None:
        """Count all hours that are due, and set the metrics, whichever selector has counted."""
        counted = await self._worker.in_database(self._count)
        while counted is not None and counted.more:
            counted = await self._worker.in_database(self._count)
        if counted is not None:
            _log(counted)
        self._metrics.health(await self._worker.in_database(partial(count_labels, self._worker.engine)))

    def _count(self) -> Counted | None:
        return count_next_hour(self._worker.engine, utc_now())


def _log(counted: Counted) -> None:
    for change in counted.changes:
        if change.reason is None:
            log.info("%s: %s cleared", change.monitor, change.label)
        else:
            log.info("%s: %s raised: %s", change.monitor, change.label, change.reason)

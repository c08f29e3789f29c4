"""Run the selector once for an operator: review, publish the assignments, report the decisions."""

import asyncio
from datetime import UTC, datetime
from functools import partial
from typing import Final

from ops.errors import OperatorError
from runtime.worker import Worker
from selector.metrics import SelectorMetrics
from selector.pairs import queue_servers
from selector.publisher import Publisher
from selector.reviews import BATCH, Reviewed, review_due, review_server
from selector.row_warnings import RowWarnings

_CONNECT: Final = 10.0
"""Seconds to reach the broker."""


class SelectorOnce:
    """Review one server, or all due servers, including those that have never been reviewed, as in an adopted database.

    ``unnotified`` names the monitors to which the broker did not accept a message.
    """

    def __init__(self, server_id: int | None) -> None:
        self._server_id = server_id
        self._reviewed: list[Reviewed] = []
        self.unnotified: set[str] = set()

    async def work(self, worker: Worker) -> None:
        """Run the review to its end; :func:`runtime.worker.run_task` calls this.

        Raises:
            OperatorError: the broker cannot be reached; no decision was made.
        """
        try:
            async with asyncio.timeout(_CONNECT):
                await worker.broker.wait_ready()
        except TimeoutError:
            raise OperatorError(f"broker {worker.broker.address}: no connection within {_CONNECT:g} s") from None
        metrics = SelectorMetrics(worker.telemetry.meter)
        publisher = Publisher(worker, RowWarnings(), metrics, on_lost=self.unnotified.add)
        if self._server_id is None:
            await worker.in_database(partial(queue_servers, worker.engine, datetime.now(UTC)))
        while reviewed := await worker.in_database(partial(self._review, worker)):
            self._reviewed += reviewed
            touched = [pair for one in reviewed for pair in one.touched]
            if touched:
                await publisher.publish_pairs(touched)
            if self._server_id is not None or len(reviewed) < BATCH:
                return

    def _review(self, worker: Worker) -> list[Reviewed]:
        settings, now = worker.pool.get(), datetime.now(UTC)
        if self._server_id is None:
            return review_due(worker.engine, settings, now)
        reviewed = review_server(worker.engine, self._server_id, settings, now)
        return [] if reviewed is None else [reviewed]

    def lines(self) -> list[str]:
        """Describe the decisions, for people."""
        lines = [f"server {one.server_id}: not reviewed: {one.problem}" for one in self._reviewed if one.problem]
        for one in self._reviewed:
            lines += [
                f"server {one.server_id}: {one.name(change.monitor_id)}: {change.from_status} to {change.to_status}: "
                f"{change.rule}: {change.reason}"
                for change in one.changes
            ]
        changes = sum(len(one.changes) for one in self._reviewed)
        return [*lines, f"{len(self._reviewed)} servers reviewed, {changes} changes"]

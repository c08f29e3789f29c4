"""Reconcile the retained assignments with the ledger, one monitor after another.

The tree and the ledger can differ after a crash between commit and publish, if the broker lost acknowledged messages,
or if another client published on the topics. Only one monitor's tree is in memory at a time. The ledger is read after
the tree, so that a message which a review publishes meanwhile does not count as a difference.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from runtime.db.engine import reading
from runtime.log import OngoingWarning
from runtime.mqtt.retained import read_retained
from runtime.mqtt.session import Incoming, NotConnected
from runtime.retry import Delays
from runtime.wakeup import Wakeup
from runtime.worker import Worker
from schema.messages import Assignment, Undecodable, decode
from selector.assignments import read_pairs_of_monitor
from selector.metrics import SelectorMetrics
from selector.publisher import ROUNDS, Published, Publisher

log = logging.getLogger(__name__)

CYCLE: Final = 45 * 60.0
"""Seconds in which every monitor is reconciled at least once."""

RETRY: Final = Delays(first_seconds=2.0, longest_seconds=30.0, jitter=0.5)
"""Delays before the next attempt after a failure of the broker."""

MOST_MESSAGES: Final = 50_000
"""Maximum messages of one monitor in memory, ten times the servers of the pool; more wait for the next time."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference between a monitor's tree and the ledger. ``repairs`` has the messages to publish; None removes one."""

    repairs: Mapping[str, Assignment | None] = field(default_factory=dict)
    missing: int = 0
    different: int = 0
    stale: int = 0
    """Number of retained messages without an assignment in the ledger."""


Tree = dict[str, bytes]
"""Retained payloads by topic."""


def difference(tree: Mapping[str, Assignment | None], wanted: Published) -> Difference:
    """Compare the retained assignments (None: an invalid payload) with the wanted ones."""
    repairs: dict[str, Assignment | None] = {}
    missing = different = stale = 0
    for topic, assignment in wanted.items():
        if assignment is None or (topic in tree and tree[topic] == assignment):
            continue
        repairs[topic] = assignment
        if topic in tree:
            different += 1
        else:
            missing += 1
    for topic in tree:
        if wanted.get(topic) is None:
            repairs[topic] = None
            stale += 1
    return Difference(repairs, missing, different, stale)


def decoded(tree: Tree) -> dict[str, Assignment | None]:
    """Return the assignments in a tree; None for an invalid payload."""
    return {topic: _assignment(payload) for topic, payload in tree.items()}


class Reconciler:
    """Reconciliation of the marked monitors, and of all others in turn."""

    def __init__(self, worker: Worker, publisher: Publisher, metrics: SelectorMetrics) -> None:
        self._worker = worker
        self._publisher = publisher
        self._metrics = metrics
        self._marked: OrderedDict[str, bool] = OrderedDict()
        self._reconciled_at: dict[str, float] = {}
        self._wakeup = Wakeup()
        self._warning = OngoingWarning(log)

    @property
    def waiting(self) -> int:
        """Return how many monitors are marked."""
        return len(self._marked)

    def mark(self, name: str, *, resend_all: bool = False) -> None:
        """Enqueue this monitor; with ``resend_all``, publish all its assignments again, even correct ones."""
        self._marked[name] = resend_all or self._marked.get(name, False)
        self._wakeup.set()

    def set_monitors(self, names: set[str]) -> None:
        """Set the current monitors, and mark those that were added or removed."""
        for name in names ^ self._reconciled_at.keys():
            self.mark(name)
        self._reconciled_at = {name: self._reconciled_at.get(name, time.monotonic()) for name in names}

    async def run(self) -> None:
        """Reconcile until cancelled, while the broker is connected."""
        failures = 0
        while True:
            name, resend_all = await self._next()
            await self._worker.broker.wait_ready()
            try:
                await self.reconcile(name, resend_all=resend_all)
            except NotConnected as error:
                failures += 1
                self._warning.warning("reconciliation of %s: %s; trying again", name, error)
                self.mark(name, resend_all=resend_all)
                await asyncio.sleep(RETRY.after(failures))
            else:
                failures = 0
                self._warning.over()

    async def reconcile(self, name: str, *, resend_all: bool = False) -> Difference:
        """Repair the retained assignments of one monitor; return the difference that was found.

        Raises:
            NotConnected: the tree could not be read, or the broker did not acknowledge every repair.
        """
        if name in self._reconciled_at:
            self._reconciled_at[name] = time.monotonic()
        tree = decoded(await self._read_tree(name))
        found: Difference | None = None
        for _ in range(ROUNDS):
            wanted = await self._worker.in_database(partial(self._wanted, name))
            differs = difference(tree, wanted)
            found = found or differs
            repairs = dict(wanted) | dict(differs.repairs) if resend_all else differs.repairs
            if not repairs:
                break
            if not await self._publisher.send(repairs):
                raise NotConnected("the broker did not acknowledge every message")
            # Read the ledger again: a review may have published meanwhile.
            resend_all = False
            _apply(tree, repairs)
        assert found is not None
        self._count(name, found)
        return found

    def _wanted(self, name: str) -> Published:
        with reading(self._worker.engine) as connection:
            return self._publisher.by_topic(read_pairs_of_monitor(connection, name))

    async def _read_tree(self, name: str) -> Tree:
        tree: Tree = {}

        def collect(message: Incoming) -> None:
            if not message.payload:
                tree.pop(message.topic, None)
            elif message.topic in tree or len(tree) < MOST_MESSAGES:
                tree[message.topic] = message.payload

        worker = self._worker
        echo = worker.topics.echo(worker.broker.identity.client_id)
        settle = worker.plugin.settle_seconds
        await read_retained(worker.broker, worker.topics.assignments(name), echo, collect, settle=settle)
        return tree

    async def _next(self) -> tuple[str, bool]:
        """Wait for the next monitor: marked ones first, else the one reconciled longest ago, once its cycle is over."""
        while not self._marked:
            self._wakeup.clear()
            name, wait = self._longest_ago()
            if name is not None and wait <= 0:
                return name, False
            await self._wakeup.wait(wait)
        return self._marked.popitem(last=False)

    def _longest_ago(self) -> tuple[str | None, float]:
        if not self._reconciled_at:
            return None, CYCLE
        name = min(self._reconciled_at, key=self._reconciled_at.__getitem__)
        return name, self._reconciled_at[name] + CYCLE - time.monotonic()

    def _count(self, name: str, found: Difference) -> None:
        for what in ("missing", "different", "stale"):
            self._metrics.repaired(what, getattr(found, what))
        if found.repairs:
            log.info(
                "%s: %d assignments were missing, %d different, %d stale",
                name,
                found.missing,
                found.different,
                found.stale,
            )


def _assignment(payload: bytes) -> Assignment | None:
    try:
        return decode(payload, Assignment)
    except Undecodable:
        return None


def _apply(tree: dict[str, Assignment | None], repairs: Mapping[str, Assignment | None]) -> None:
    for topic, assignment in repairs.items():
        if assignment is None:
            tree.pop(topic, None)
        else:
            tree[topic] = assignment

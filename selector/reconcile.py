"""Repairs the retained assignments of one monitor after another, so that they say what the ledger says.

A crash between commit and publish, a broker that lost what it had acknowledged, a message from somebody else: whatever
the reason, the tree and the ledger part, and here they meet again. Only one monitor's part is in memory at a time. The
ledger is read after the tree, so that what a review published meanwhile is not taken for an error.
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
"""Seconds in which every monitor is looked at although nothing calls for it."""

RETRY: Final = Delays(first_seconds=2.0, longest_seconds=30.0, jitter=0.5)
"""Before the next attempt after the broker failed."""

MOST_MESSAGES: Final = 50_000
"""Of one monitor, that are held in memory: ten times what the whole pool is. What is more waits for the next time."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What has to be published for a monitor's tree to say what the ledger says; None removes."""

    repairs: Mapping[str, Assignment | None] = field(default_factory=dict)
    missing: int = 0
    different: int = 0
    stale: int = 0
    """There, but no assignment: no longer one, or never ours."""


Tree = dict[str, bytes]
"""Retained payloads by topic."""


def difference(tree: Mapping[str, Assignment | None], wanted: Published) -> Difference:
    """Compares what is there (None: there, but not to be understood) with what should be."""
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


def understood(tree: Tree) -> dict[str, Assignment | None]:
    """The assignments in a tree; None for a payload that is none."""
    return {topic: _assignment(payload) for topic, payload in tree.items()}


class Reconciler:
    """Looks at the monitors that were marked, and at all others in turn."""

    def __init__(self, worker: Worker, publisher: Publisher, metrics: SelectorMetrics) -> None:
        self._worker = worker
        self._publisher = publisher
        self._metrics = metrics
        self._marked: OrderedDict[str, bool] = OrderedDict()
        self._looked: dict[str, float] = {}
        self._wakeup = Wakeup()
        self._warning = OngoingWarning(log)

    @property
    def waiting(self) -> int:
        """How many monitors are marked."""
        return len(self._marked)

    def mark(self, name: str, *, resend_all: bool = False) -> None:
        """Queues this monitor; with ``resend_all``, all its assignments are published again, right or not."""
        self._marked[name] = resend_all or self._marked.get(name, False)
        self._wakeup.set()

    def set_monitors(self, names: set[str]) -> None:
        """These are all the monitors. New ones are looked at soon, and so are those that are no longer among them."""
        for name in names ^ self._looked.keys():
            self.mark(name)
        self._looked = {name: self._looked.get(name, time.monotonic()) for name in names}

    async def run(self) -> None:
        """Reconciles until cancelled, whenever the broker is there."""
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
        """Repairs the retained assignments of one monitor; returns what was wrong with them.

        Raises:
            NotConnected: the tree could not be read, or the broker did not take every repair.
        """
        if name in self._looked:
            self._looked[name] = time.monotonic()
        tree = understood(await self._read_tree(name))
        found: Difference | None = None
        for _ in range(ROUNDS):
            wanted = await self._worker.in_database(partial(self._wanted, name))
            differs = difference(tree, wanted)
            found = found or differs
            repairs = dict(wanted) | dict(differs.repairs) if resend_all else differs.repairs
            if not repairs:
                break
            if not await self._publisher.send(repairs):
                raise NotConnected("the broker did not take every message")
            # Read the ledger once more: a review may have published while we did.
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

        def take(message: Incoming) -> None:
            if not message.payload:
                tree.pop(message.topic, None)
            elif message.topic in tree or len(tree) < MOST_MESSAGES:
                tree[message.topic] = message.payload

        worker = self._worker
        echo = worker.topics.echo(worker.broker.identity.client_id)
        await read_retained(worker.broker, worker.topics.assignments(name), echo, take)
        return tree

    async def _next(self) -> tuple[str, bool]:
        """The monitor to look at now: marked ones first, else the one not looked at for longest, when its time is."""
        while not self._marked:
            self._wakeup.clear()
            name, wait = self._longest_ago()
            if name is not None and wait <= 0:
                return name, False
            await self._wakeup.wait(wait)
        return self._marked.popitem(last=False)

    def _longest_ago(self) -> tuple[str | None, float]:
        if not self._looked:
            return None, CYCLE
        name = min(self._looked, key=self._looked.__getitem__)
        return name, self._looked[name] + CYCLE - time.monotonic()

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

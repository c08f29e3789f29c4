"""Define the bounded queue between the broker and the ledger.

Batches wait here while the ledger is slower than the monitors. When the queue is full, new batches are dropped, and
their senders retry, since they get no ack.
"""

import asyncio
from collections import deque
from typing import Final

from ingest.messages import Submission

MOST_RESULTS: Final = 20_000
"""Maximum results in the queue: about three seconds of work, and 20 MB."""

MOST_BYTES: Final = 32 * 1024 * 1024
"""Maximum bytes of payload in the queue, for batches with little else than unknown fields."""

_BATCH_WEIGHT: Final = 1
"""Minimum weight, since an empty batch also needs memory."""


class SubmissionQueue:
    """FIFO queue of submissions, bounded by results and by bytes."""

    def __init__(self, most_results: int = MOST_RESULTS, most_bytes: int = MOST_BYTES) -> None:
        self._most_results = most_results
        self._most_bytes = most_bytes
        self._waiting: deque[Submission] = deque()
        self._arrived = asyncio.Event()
        self.results = 0
        """Results in the queue; an empty batch counts as one."""
        self.bytes = 0
        """Bytes of payload in the queue."""

    def __len__(self) -> int:
        """Return the number of batches in the queue."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Return whether the queue accepts no further batch."""
        return self.results >= self._most_results or self.bytes >= self._most_bytes

    def put(self, submission: Submission) -> bool:
        """Enqueue ``submission``; return False if the queue is full."""
        if self.full:
            return False
        self._waiting.append(submission)
        self.results += _weight(submission)
        self.bytes += submission.size
        self._arrived.set()
        return True

    async def pop(self, most: int) -> list[Submission]:
        """Wait for a submission; remove and return the oldest ones, with at most ``most`` results but at least one."""
        await self._arrived.wait()
        popped = [self._pop()]
        results = _weight(popped[0])
        while self._waiting and (results := results + _weight(self._waiting[0])) <= most:
            popped.append(self._pop())
        return popped

    def _pop(self) -> Submission:
        submission = self._waiting.popleft()
        self.results -= _weight(submission)
        self.bytes -= submission.size
        if not self._waiting:
            self._arrived.clear()
        return submission


def _weight(submission: Submission) -> int:
    return max(_BATCH_WEIGHT, len(submission.batch.results))

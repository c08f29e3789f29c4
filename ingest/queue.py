"""The bounded queue between the broker and the ledger.

When the ledger is slower than the monitors, batches wait here; when too many wait, new ones are left aside, and their
senders send them again since nobody acknowledged them.
"""

import asyncio
from collections import deque
from typing import Final

from ingest.messages import Submission

MOST_RESULTS: Final = 20_000
"""Results that may wait: about three seconds of work, and 20 MB."""

MOST_BYTES: Final = 32 * 1024 * 1024
"""Bytes of payload that may wait, for batches that are mostly something else than results."""

_BATCH_WEIGHT: Final = 1
"""An empty batch takes room too."""


class SubmissionQueue:
    """Submissions in order of arrival, counted by results and by bytes."""

    def __init__(self, most_results: int = MOST_RESULTS, most_bytes: int = MOST_BYTES) -> None:
        self._most_results = most_results
        self._most_bytes = most_bytes
        self._waiting: deque[Submission] = deque()
        self._arrived = asyncio.Event()
        self.results = 0
        """Results that wait; an empty batch counts as one."""
        self.bytes = 0
        """Bytes of their payloads."""

    def __len__(self) -> int:
        """Batches that wait."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether there is no room for another batch."""
        return self.results >= self._most_results or self.bytes >= self._most_bytes

    def put(self, submission: Submission) -> bool:
        """Whether there was room for ``submission``."""
        if self.full:
            return False
        self._waiting.append(submission)
        self.results += _weight(submission)
        self.bytes += submission.size
        self._arrived.set()
        return True

    async def pop(self, most: int) -> list[Submission]:
        """The oldest submissions with ``most`` results together, at least one; waits for one."""
        await self._arrived.wait()
        taken = [self._pop()]
        results = _weight(taken[0])
        while self._waiting and (results := results + _weight(self._waiting[0])) <= most:
            taken.append(self._pop())
        return taken

    def _pop(self) -> Submission:
        submission = self._waiting.popleft()
        self.results -= _weight(submission)
        self.bytes -= submission.size
        if not self._waiting:
            self._arrived.clear()
        return submission


def _weight(submission: Submission) -> int:
    return max(_BATCH_WEIGHT, len(submission.batch.results))

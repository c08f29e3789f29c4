"""What happens to a message that cannot be read or stored: it is kept, counted, told to those who watch, and answered.

The answer ``refused`` makes the agent set the batch aside, so that it is not sent for ever. It is given after the
message was kept, or else there would be nothing to find out from.
"""

import asyncio
import logging
from dataclasses import replace
from functools import partial
from typing import Final

from ingest.acks import Acks
from ingest.messages import Unreadable
from ingest.metrics import UNREADABLE_FULL, Numbers
from ingest.retry import persist_each
from ingest.undecodable_store import RejectedMessage, keep, rejected_message
from runtime.db.engine import utc_now
from runtime.log import Sparing
from runtime.worker import Worker
from schema.messages import BatchRefused, MessageRejected

log = logging.getLogger(__name__)

MOST_WAITING: Final = 200
"""Messages that wait to be kept, with 64 KiB each at most."""

_TOGETHER: Final = 50
"""Messages of one transaction."""


class Refusals:
    """Takes messages that are of no use, and deals with them in its own time."""

    def __init__(self, worker: Worker, acks: Acks, numbers: Numbers) -> None:
        self._worker = worker
        self._acks = acks
        self._numbers = numbers
        self._waiting: asyncio.Queue[tuple[Unreadable, RejectedMessage]] = asyncio.Queue(MOST_WAITING)
        self._complaint = Sparing(log)

    def offer(self, unreadable: Unreadable) -> None:
        """Deals with ``unreadable`` soon, unless too many wait already."""
        self._numbers.unreadable()
        self._log(unreadable)
        if self._waiting.full():
            self._numbers.dropped(UNREADABLE_FULL)
            return
        message = rejected_message(unreadable.topic, unreadable.payload, unreadable.reason, utc_now())
        self._waiting.put_nowait((without_payload(unreadable), message))

    def _log(self, unreadable: Unreadable) -> None:
        # The counters tell how many; a sender of nonsense must not fill the log as well.
        self._complaint.say(
            logging.WARNING, unreadable.name, "message on %s refused: %s", unreadable.topic, unreadable.reason
        )

    async def run(self) -> None:
        """Keeps and answers what is offered, until cancelled."""
        while True:
            taken = [await self._waiting.get()]
            while len(taken) < _TOGETHER and not self._waiting.empty():
                taken.append(self._waiting.get_nowait())
            messages = [message for _, message in taken]
            await persist_each(self._worker, partial(keep, self._worker.engine), messages, self._lost)
            for unreadable, _ in taken:
                self._answer(unreadable)

    def _lost(self, message: RejectedMessage, why: str) -> None:
        self._complaint.say(logging.ERROR, message.topic, "message on %s could not be kept: %s", message.topic, why)

    def _answer(self, unreadable: Unreadable) -> None:
        event = MessageRejected(topic=unreadable.topic, reason=unreadable.reason)
        self._worker.live.offer(self._worker.topics.rejected_event, event)
        if unreadable.batch is not None and unreadable.ipv is not None:
            refused = BatchRefused(batch=unreadable.batch, reason=unreadable.reason)
            self._acks.offer(unreadable.name, unreadable.ipv, refused)


def without_payload(unreadable: Unreadable) -> Unreadable:
    """``unreadable`` as it may wait: what is kept of its payload is cut already."""
    return replace(unreadable, payload=b"")

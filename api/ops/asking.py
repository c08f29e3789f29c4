"""Ask agents through the broker, and collect what they answer: any number of requests over one session.

The answers to each request have a topic level of their own, which only those learn who are asked, and the session
subscribes to it only meanwhile. So an agent cannot send anything here unasked, nor for another agent, since the broker
lets it publish below its own name only.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from runtime.mqtt.request import new_key
from runtime.mqtt.session import NotConnected, PublishRefused
from runtime.mqtt.types import Incoming, Subscription
from schema.messages import AdHocRequest, encode
from schema.topics import ANY, Topics

BROKER_WITHIN: Final = 1.5
"""Seconds for the broker to be there, and to accept the subscription. A renewal of the session's token takes less."""

_LEAVE_WITHIN: Final = 0.25
"""Seconds for the end of a subscription; one that the broker does not confirm ends with the connection."""

_NO_ANSWER: Final = "did not answer in time"
_LOST: Final = "had not answered when the connection to the broker was lost"


class Session(Protocol):
    """The part of :class:`runtime.mqtt.session.BrokerSession` that is needed."""

    async def wait_ready(self) -> None:
        """Wait until connected."""

    def watching(self, subscription: Subscription) -> AbstractAsyncContextManager["asyncio.Future[None]"]:
        """Subscribe within the ``with`` block, which yields a future that is done when the connection ends.

        Raises:
            NotConnected: there is no connection, or the broker refused.
        """

    async def publish(self, topic: str, payload: bytes, *, qos: int) -> None:
        """Publish.

        Raises:
            NotConnected, PublishRefused: the message was not sent.
        """


class BrokerAway(Exception):
    """The broker is unavailable, so no agent can be asked. The message gives the reason."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of the request to one agent."""

    name: str
    payload: bytes | None
    """As the agent sent it; ``None`` if it did not answer."""
    why: str = ""
    """Why it did not answer, to follow its name."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request to an agent, before it has an id."""

    check: str
    """Last part of the topic: ``ntp``, ``traceroute`` or ``metrics``."""
    ip: str | None = None
    port: int = 123
    samples: int = 1

    def request(self, key: str) -> AdHocRequest:
        """Return the request with this id."""
        return AdHocRequest(id=key, ip=self.ip, port=self.port, samples=self.samples)


class Asked:
    """A request to several agents, on its way."""

    def __init__(self, topics: Topics, key: str, names: Iterable[str]) -> None:
        self.key = key
        """Its id, which each answer has to repeat."""
        self._open = {topics.data(name, key): name for name in names}
        self._arrived: deque[Reply] = deque()
        self._news = asyncio.Event()

    def on_message(self, message: Incoming) -> None:
        """Take the first answer of each agent."""
        self._take(message.topic, message.payload, "")

    def refused(self, topic: str, why: str) -> None:
        """Record that the agent that would answer on this topic could not be asked."""
        self._take(topic, None, why)

    def _take(self, topic: str, payload: bytes | None, why: str) -> None:
        name = self._open.pop(topic, None)
        if name is not None:
            self._arrived.append(Reply(name, payload, why))
            self._news.set()

    async def replies(self, lost: "asyncio.Future[None]", deadline: float) -> AsyncIterator[Reply]:
        """Yield one reply for each agent: answers as they come, then those of agents that did not answer.

        Args:
            lost: is done when the connection ends.
            deadline: by the event loop's clock.
        """
        while self._arrived or (self._open and await self._wait(lost, deadline)):
            yield self._arrived.popleft()
        why = _LOST if lost.done() else _NO_ANSWER
        for name in sorted(self._open.values()):
            yield Reply(name, None, why)

    async def _wait(self, lost: "asyncio.Future[None]", deadline: float) -> bool:
        """Return whether a reply has arrived before the time was over or the connection was lost."""
        self._news.clear()
        arrival = asyncio.create_task(self._news.wait(), name="answer")
        either: set[asyncio.Future[Any]] = {arrival, lost}
        left = deadline - asyncio.get_running_loop().time()
        try:
            await asyncio.wait(either, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
        finally:
            arrival.cancel()
        return bool(self._arrived)


@dataclass(frozen=True, slots=True)
class Answering:
    """The answers to a request, from when it was sent."""

    key: str
    replies: AsyncIterator[Reply]


@asynccontextmanager
async def asking(
    session: Session, topics: Topics, question: Question, names: Sequence[str], deadline: float
) -> AsyncIterator[Answering]:
    """Send a request to each of these agents; the answers arrive within the ``with`` block.

    Args:
        deadline: time by which they have to answer, by the event loop's clock.

    Raises:
        BrokerAway: the broker is unavailable; no agent was asked.
    """
    asked = Asked(topics, new_key(), names)
    # With QoS 0, as agents answer: who is not there now will not answer in time.
    answers = Subscription(topics.data(ANY, asked.key), asked.on_message, qos=0)
    async with _watching(session, answers) as lost:
        payload = encode(question.request(asked.key))
        for name in names:
            try:
                await session.publish(topics.request(name, question.check), payload, qos=0)
            except (NotConnected, PublishRefused):
                asked.refused(topics.data(name, asked.key), "could not be asked: the broker did not take the request")
        yield Answering(asked.key, asked.replies(lost, deadline))


@asynccontextmanager
async def _watching(session: Session, answers: Subscription) -> AsyncIterator["asyncio.Future[None]"]:
    """Subscribe as :meth:`BrokerSession.watching` does, but never wait long for a broker that is silent."""
    watch = session.watching(answers)
    try:
        # A watch that is cancelled ends its subscription, for which it would wait, too: hence the outer limit.
        async with asyncio.timeout(BROKER_WITHIN + _LEAVE_WITHIN), asyncio.timeout(BROKER_WITHIN):
            await session.wait_ready()
            lost = await watch.__aenter__()
    except TimeoutError:
        raise BrokerAway("The broker does not answer; try again later.") from None
    except NotConnected as error:
        raise BrokerAway(f"The broker cannot be used now: {error}.") from None
    try:
        yield lost
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_WITHIN):
                await watch.__aexit__(None, None, None)

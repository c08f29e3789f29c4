"""Send requests over MQTT: publish with a response topic and correlation data, and collect the answers.

For operators' commands and similar clients. Every failure on the way to the broker is one exception with a readable
message, and every wait has a time limit.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from runtime.mqtt.session import BrokerSession, NotConnected, PublishRefused
from runtime.mqtt.types import BrokerAddress, Identity, Incoming, Lost, Subscription, TokenSource

_BROKER_WITHIN: Final = 10.0
"""Maximum seconds to connect, and for the broker to acknowledge a request."""


class RequestFailed(Exception):
    """The request did not reach the broker, or the broker refused it; the message gives the reason."""


def new_key() -> str:
    """Return a unique topic level."""
    return secrets.token_hex(8)


class RequestClient:
    """Client for any number of concurrent requests over one session.

    For one request, use :meth:`connected`; else run :attr:`session` as a task.

    Args:
        answers: topic filter on which all answers arrive.
        broker_within_seconds: time limit for connecting, and for the broker to acknowledge a request.
    """

    def __init__(
        self,
        address: BrokerAddress,
        identity: Identity,
        token: TokenSource,
        *,
        answers: str,
        broker_within_seconds: float = _BROKER_WITHIN,
    ) -> None:
        self._lost: asyncio.Queue[Lost] = asyncio.Queue(maxsize=1)
        self._waiting: dict[str, _Request] = {}
        self._within = broker_within_seconds
        self.session = BrokerSession(
            address,
            identity,
            token,
            subscriptions=[Subscription(answers, self._on_message)],
            on_lost=self._on_lost,
        )

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Run the session within the ``with`` block.

        Raises:
            RequestFailed: the first attempt failed. It is not retried, since an operator is waiting.
        """
        running = asyncio.create_task(self.session.run(), name="broker session")
        try:
            await self._first_connection()
            yield
        finally:
            running.cancel()
            await asyncio.wait({running})

    async def request(
        self, topic: str, payload: bytes, response_topic: str, *, timeout: float, limit: int | None = None
    ) -> list[bytes]:
        """Publish a request and return the payloads of its answers, in the order of arrival.

        Args:
            response_topic: unique among concurrent requests; see :func:`new_key`.
            timeout: seconds to wait for answers after the broker has acknowledged the request.
            limit: number of answers to wait for; None waits for all that arrive in time.

        Raises:
            RequestFailed: the broker is unreachable, or refuses the request.
        """
        request = self._waiting[response_topic] = _Request(limit)
        try:
            await self.session.publish(
                topic, payload, response_topic=response_topic, correlation=request.correlation, timeout=self._within
            )
            return await request.collect(timeout)
        except (NotConnected, PublishRefused) as error:
            raise RequestFailed(f"broker: {error}") from error
        finally:
            del self._waiting[response_topic]

    async def request_one(self, topic: str, payload: bytes, response_topic: str, *, timeout: float) -> bytes | None:
        """Send a request like :meth:`request`, and return the first answer; None if there is none in time."""
        answers = await self.request(topic, payload, response_topic, timeout=timeout, limit=1)
        return answers[0] if answers else None

    def _on_message(self, message: Incoming) -> None:
        request = self._waiting.get(message.topic)
        if request is not None:
            request.on_answer(message)

    def _on_lost(self, lost: Lost) -> None:
        with suppress(asyncio.QueueFull):
            self._lost.put_nowait(lost)

    async def _first_connection(self) -> None:
        """Wait until connected and subscribed."""
        ready = asyncio.create_task(self.session.wait_ready(), name="ready")
        failed = asyncio.create_task(self._lost.get(), name="failed")
        done, pending = await asyncio.wait({ready, failed}, timeout=self._within, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        if failed in done:
            raise RequestFailed(f"broker {self.session.address}: {failed.result().reason}")
        if not done:
            raise RequestFailed(f"broker {self.session.address}: no connection within {self._within:g} s")


class _Request:
    """A request that waits for answers; it keeps at most ``limit`` of them."""

    def __init__(self, limit: int | None) -> None:
        self.correlation = secrets.token_bytes(8)
        self._limit = limit
        self._answers: list[bytes] = []
        self._complete = asyncio.Event()

    def on_answer(self, message: Incoming) -> None:
        """Store the answer. One without correlation data counts, since the topic is unique to this request."""
        if self._complete.is_set() or message.correlation not in (None, self.correlation):
            return
        self._answers.append(message.payload)
        if len(self._answers) == self._limit:
            self._complete.set()

    async def collect(self, timeout: float) -> list[bytes]:
        """Return the answers of the next ``timeout`` seconds, or as soon as there are enough."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._complete.wait()
        return self._answers

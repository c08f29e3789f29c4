"""Our side of one connection to the broker: who waits for which answer, and what its end means for them."""

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any, Final, Protocol

import mqtt5

from runtime.broker_types import Incoming, Subscription
from runtime.mqtt_packets import as_incoming, publish_packet, subscribe_packet
from runtime.mqtt_stream import Malformed, PacketStream, in_words

_ANSWER: Final = 15.0
"""Seconds for the broker to answer anything but a message."""

_GOODBYE: Final = 2.0
"""Seconds for telling the broker that we leave; a process that ends does not wait for longer."""

_PING: Final = 0.75
"""Of the keepalive: how often the broker is asked for a sign of life. After 1.5 of it without any, it drops us
(MQTT 5, 3.1.2.10), and so it does us when we have not heard from it at the next time."""

_Reason = mqtt5.DisconnectReasonCode

_IDENTIFIERS: Final = 65_535
"""Packet identifiers are 1 to this (MQTT 5, 2.2.1)."""


class MqttError(Exception):
    """There is no connection, or there is none any more. ``code`` is the reason code that the broker gave, or that MQTT
    has for what we found; None when the connection just ended, or was never made."""

    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(reason)
        self.code = code


class PublishRefused(Exception):
    """The broker accepted the connection but not this message, for instance because the token does not allow it."""


class _Answer(Protocol):
    """What answers a packet of ours."""

    @property
    def packet_id(self) -> int: ...


class Client:
    """Our side of a connection. Made by :func:`runtime.mqtt_connection.connection`."""

    def __init__(self, deliver: Callable[[Incoming], None], keepalive: int, max_inflight: int) -> None:
        self.stream = PacketStream(self._take, self._ended)
        self.session_present = False
        self._deliver = deliver
        self._keepalive = keepalive
        self._room = max_inflight
        self._loop = asyncio.get_running_loop()
        self._numbers = cycle(range(1, _IDENTIFIERS + 1))
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._inflight: set[int] = set()
        self._queue: deque[tuple[int, bytes]] = deque()
        self._welcome: asyncio.Future[mqtt5.ConnAckPacket] = self._loop.create_future()
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._left = False
        self._reason: MqttError | None = None
        self._silent = False
        self._beat: asyncio.TimerHandle | None = None
        self._handlers: dict[type, Callable[[Any], None]] = {mqtt5.ConnAckPacket: self._on_connack}

    @property
    def lost(self) -> asyncio.Future[None]:
        """Done when the connection is over; unless we ended it, with a :class:`MqttError` that says why."""
        return self._lost

    async def enter(self, hello: bytes) -> None:
        """Introduces us, and returns when the broker has welcomed us.

        Raises:
            MqttError: it did not.
        """
        self.stream.send(hello)
        try:
            async with asyncio.timeout(_ANSWER):
                welcome = await self._welcome
        except TimeoutError:
            raise MqttError("the broker did not answer") from None
        if welcome.reason_code != mqtt5.ConnAckReasonCode.SUCCESS:
            raise MqttError(f"the broker refused the connection: {_text(welcome.reason_code)}", welcome.reason_code)
        self.session_present = welcome.session_present
        self._room = min(self._room, welcome.receive_max)
        self._keepalive = welcome.server_keep_alive or self._keepalive
        self._ask_later()

    async def leave(self) -> None:
        """Tells the broker that we leave, so that it sends no will, and waits a little until it was told."""
        self._left = True
        self.stream.send(mqtt5.DisconnectPacket().write())
        self.stream.close()
        await asyncio.wait({self._lost}, timeout=_GOODBYE)

    async def settled(self, timeout: float) -> None:
        """Returns when the broker has acknowledged all that was sent, or after ``timeout`` seconds."""
        if self._answers:
            await asyncio.wait(set(self._answers.values()), timeout=timeout)

    async def publish(self, topic: str, payload: bytes, *, qos: int, timeout: float, **properties: Any) -> None:
        """Publishes, and with QoS 1 waits for the broker's acknowledgement. As many messages as the broker allows are
        under way at the same time; further ones follow in their order.

        Args:
            properties: as :func:`runtime.mqtt_packets.publish_packet` takes them.

        Raises:
            PublishRefused: the broker answered with a failure.
            MqttError: the connection is lost.
            TimeoutError: no answer came within ``timeout`` seconds.
            ValueError: the message is impossible.
        """
        if qos == 0:
            self._check()
            self.stream.send(publish_packet(None, topic, payload, **properties))
            return
        number = self._new_identifier()
        self._queue.append((number, publish_packet(number, topic, payload, **properties)))
        acknowledged = self._expect(number)
        self._send_queued()
        reason = (await self._answer(number, acknowledged, timeout)).reason_code
        if reason.value >= 0x80:
            raise PublishRefused(f"the broker refused a message on {topic}: {_text(reason)}")

    async def subscribe(self, subscription: Subscription, *, retain_handling: int) -> None:
        """Subscribes; returns when the broker has agreed.

        Raises:
            MqttError: it did not, or the connection is lost.
        """
        number = self._new_identifier()
        try:
            packet = subscribe_packet(number, subscription, retain_handling)
        except ValueError as error:
            raise MqttError(f"{subscription.topic_filter} is no topic filter: {error}") from error
        for reason in (await self._request(number, packet)).reason_codes:
            if reason.value >= 0x80:
                raise MqttError(f"not allowed to subscribe to {subscription.topic_filter}: {_text(reason)}")

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Ends a subscription; returns when the broker knows.

        Raises:
            MqttError: the connection is lost.
        """
        number = self._new_identifier()
        await self._request(number, mqtt5.UnsubscribePacket(number, [subscription.topic_filter]).write())

    # ---- answers ---------------------------------------------------------------------------------------------------

    def _new_identifier(self) -> int:
        """One that nothing under way has.

        Raises:
            MqttError: the connection is lost, or so much is under way that there is none.
        """
        self._check()
        for number in islice(self._numbers, _IDENTIFIERS):
            if number not in self._answers and number not in self._inflight:
                return number
        raise MqttError("too much is under way")

    def _check(self) -> None:
        if self._lost.done():
            raise self._failure()

    async def _request(self, number: int, packet: bytes) -> Any:
        answer = self._expect(number)
        self.stream.send(packet)
        try:
            return await self._answer(number, answer, _ANSWER)
        except TimeoutError:
            raise MqttError("the broker did not answer") from None

    def _expect(self, number: int) -> asyncio.Future[Any]:
        answer = self._answers[number] = self._loop.create_future()
        return answer

    async def _answer(self, number: int, answer: asyncio.Future[Any], timeout: float) -> Any:
        # A timer costs a fraction of asyncio.timeout(), and there is one for each message.
        timer = self._loop.call_later(timeout, _give_up, answer)
        try:
            return await answer
        finally:
            timer.cancel()
            self._answers.pop(number, None)

    def _send_queued(self) -> None:
        while self._queue and len(self._inflight) < self._room:
            number, packet = self._queue.popleft()
            if number in self._answers:  # otherwise nobody waits for it any more
                self._inflight.add(number)
                self.stream.send(packet)

    # ---- what the broker sends -------------------------------------------------------------------------------------

    def _take(self, packet: mqtt5.Packet) -> None:
        self._silent = False
        handler = self._handlers.get(type(packet))
        if handler is None:
            self._end(_Reason.PROTOCOL_ERROR, f"protocol error: the broker sent a {type(packet).__name__}")
        else:
            handler(packet)

    def _on_connack(self, packet: mqtt5.ConnAckPacket) -> None:
        self._handlers = {
            mqtt5.PublishPacket: self._on_publish,
            mqtt5.PubAckPacket: self._on_puback,
            mqtt5.SubAckPacket: self._on_answer,
            mqtt5.UnsubAckPacket: self._on_answer,
            mqtt5.PingRespPacket: lambda packet: None,
            mqtt5.DisconnectPacket: self._on_disconnect,
        }
        if not self._welcome.done():
            self._welcome.set_result(packet)

    def _on_publish(self, packet: mqtt5.PublishPacket) -> None:
        self._deliver(as_incoming(packet))
        if packet.packet_id is not None:
            # We subscribe with QoS 1 at most, so that is what this is.
            self.stream.send(mqtt5.PubAckPacket(packet.packet_id).write())

    def _on_puback(self, packet: mqtt5.PubAckPacket) -> None:
        self._inflight.discard(packet.packet_id)
        self._on_answer(packet)
        self._send_queued()

    def _on_answer(self, packet: _Answer) -> None:
        answer = self._answers.get(packet.packet_id)
        if answer is not None and not answer.done():
            answer.set_result(packet)

    def _on_disconnect(self, packet: mqtt5.DisconnectPacket) -> None:
        self._end(packet.reason_code, f"disconnected: {_text(packet.reason_code)}")

    # ---- the end ---------------------------------------------------------------------------------------------------

    def _ask_later(self) -> None:
        self._beat = self._loop.call_later(self._keepalive * _PING, self._ask)

    def _ask(self) -> None:
        """Asks the broker for a sign of life, unless there was none since it was asked before."""
        if self._silent:
            self._end(_Reason.KEEP_ALIVE_TIMEOUT, "the broker is silent")
            return
        self._silent = True
        self.stream.send(mqtt5.PingReqPacket().write())
        self._ask_later()

    def _end(self, code: mqtt5.DisconnectReasonCode, reason: str) -> None:
        self._reason = self._reason or MqttError(reason, code)
        self.stream.abort()

    def _ended(self, error: Exception | None) -> None:
        if self._lost.done():
            return  # an attempt that ended as it succeeded, and then the connection with the broker's next address
        if self._beat is not None:
            self._beat.cancel()
        if self._reason is None and error is not None:
            code = _Reason.MALFORMED_PACKET if isinstance(error, Malformed) else None
            self._reason = MqttError(in_words(error) if isinstance(error, OSError) else str(error), code)
        if self._left:
            self._lost.set_result(None)
        else:
            self._lost.set_exception(self._failure())
            self._lost.exception()  # whoever waits is told; if nobody does, that is no error
        for waiting in (self._welcome, *self._answers.values()):
            if not waiting.done():
                waiting.set_exception(self._failure())
        if not self._welcome.cancelled():
            self._welcome.exception()

    def _failure(self) -> MqttError:
        reason = self._reason or MqttError("the broker closed the connection")
        return MqttError(str(reason), reason.code)


def _give_up(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


def _text(reason: Any) -> str:
    """A reason code in words."""
    return str(reason.name).replace("_", " ").capitalize()

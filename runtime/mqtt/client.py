"""Extend aiomqtt's client for one connection to the broker, with features of MQTT 5 that it does not expose.

These names of the libraries are private, and each is needed:

- ``Client._client``, and its ``_create_socket`` and ``_sock_close``: the connection is opened and closed without a
  thread, so that the end of a process does not wait for one, and no socket stays open.
- ``Client._on_connect``: the limits that the broker announces, and whether it kept the session.
- ``Client._on_disconnect``, ``_disconnected``: the reason why a connection ended, also together with the CONNACK or
  instead of it.
- ``Client._on_publish``: the reason why the broker refused a message.
- ``Client._on_message``: messages are handled as they are read. aiomqtt's iterator runs in a separate task, in which
  answers can overtake messages.
- ``Client._on_socket_register_write``, ``_on_socket_unregister_write``: all packets of one iteration of the event loop
  are sent together.
- ``Client._wait_for``, ``_pending_subscribes``, ``_pending_unsubscribes``: a lost connection ends every wait at once,
  and ``asyncio.wait_for`` of Python 3.11 loses a cancellation that arrives together with the answer.

For this reason ``pyproject.toml`` allows only one minor version. An instance serves one connection.
"""

import asyncio
import logging
import ssl
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import aiomqtt
import paho.mqtt.client as paho
from aiomqtt import MqttError
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from runtime.mqtt.packets import (
    as_aiomqtt_will,
    as_incoming,
    check_text,
    connect_properties,
    limits_of,
    publish_size,
    surely_fits,
)
from runtime.mqtt.socket import BufferedSocket, Unreachable, describe, open_socket
from runtime.mqtt.types import BrokerAddress, Identity, Incoming, Limits, Will

log = logging.getLogger(__name__)
T = TypeVar("T")

_ANSWER: Final = 15.0
"""Maximum seconds for the broker's answer to any packet except a message."""

_GOODBYE: Final = 2.0
"""Maximum seconds for a clean disconnect, since the end of a process must not wait for longer."""

_BACKLOG: Final = 16 * 1024 * 1024
"""Maximum unsent bytes with which a message with QoS 0 is still published."""

_PROTOCOL_ERROR: Final = 0x82  # MQTT 5, 2.4
_KEEP_ALIVE_TIMEOUT: Final = 0x8D


class PublishRefused(Exception):
    """The broker accepted the connection but refused this message, for example because the token does not allow it."""


class TooLarge(PublishRefused):
    """The message exceeds the broker's maximum size, so that sending it would end this connection and the next one."""


class Disconnected(MqttError):
    """The connection was refused or has ended. ``code`` is the broker's reason code, or that of MQTT 5 for the error
    that the client detected; None if the connection just ended or was never established."""

    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(reason)
        self.code = code


class Client(aiomqtt.Client):
    """Connection to the broker, open inside an ``async with`` block.

    Args:
        keep: time for which the broker keeps the session after the connection; zero for a clean start.
        max_inflight: maximum unacknowledged messages; fewer if the broker announces a lower limit.
        deliver: called with each message. It must not raise.

    Raises:
        ValueError: the token does not fit into a packet.
    """

    def __init__(
        self,
        address: BrokerAddress,
        identity: Identity,
        token: str,
        *,
        tls: ssl.SSLContext | None,
        will: Will | None,
        keep: timedelta,
        keepalive: int,
        max_inflight: int,
        deliver: Callable[[Incoming], None],
    ) -> None:
        check_text(token)
        super().__init__(
            address.host,
            address.port,
            identifier=identity.client_id,
            username=identity.name,
            password=token,
            protocol=aiomqtt.ProtocolVersion.V5,
            will=None if will is None else as_aiomqtt_will(will),
            clean_start=not keep,
            properties=connect_properties(keep),
            keepalive=keepalive,
            timeout=_ANSWER,
            max_inflight_messages=0,  # limited here: the library's queue is unbounded and keeps abandoned messages
        )
        self._client.disable_logger()  # its errors are reported as reasons and logged once
        self.session_present = False
        self.limits = Limits()
        """Limits that the broker announced in its CONNACK."""
        self._tls = tls
        self._deliver = deliver
        self._room = max_inflight
        self._unacknowledged: dict[int, asyncio.Future[ReasonCode]] = {}
        self._waiting: OrderedDict[asyncio.Future[ReasonCode], tuple[str, bytes, int, bool, Properties]] = OrderedDict()
        self._writing = False
        self._welcome: asyncio.Future[None] = self._loop.create_future()
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._disconnected.add_done_callback(self._failed)

    @property
    def lost(self) -> asyncio.Future[None]:
        """Return a future that is done when the connection has ended, with :class:`Disconnected` unless we ended it."""
        return self._lost

    async def __aenter__(self) -> Self:
        """Connect, and wait for the broker's CONNACK.

        Raises:
            aiomqtt.MqttError: it is unreachable, or refuses the connection.
        """
        try:
            self._socket = BufferedSocket(await open_socket(self._hostname, self._port, self._tls))
        except Unreachable as error:
            raise Disconnected(str(error)) from error
        try:
            self._client._create_socket = lambda: self._socket  # type: ignore[method-assign]
            self._client.connect(
                self._hostname,
                self._port,
                self._keepalive,
                clean_start=self._clean_start,
                properties=self._properties,
            )
            await self._wait_for(self._welcome, None)
        except BaseException:
            self.abort()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect cleanly within two seconds, so that the broker does not publish the will."""
        try:
            if not self._lost.done():
                async with asyncio.timeout(_GOODBYE):
                    self._write()
                    await self._socket.flushed()
                    self._client.disconnect()
                    await asyncio.wait({self._lost})
        except TimeoutError:
            log.debug("the broker did not answer the disconnect")
        finally:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once, without a DISCONNECT."""
        with suppress(OSError):
            self._client._sock_close()
        self._socket.close()
        self._end(Disconnected("disconnected"))

    async def settled(self, timeout: float) -> None:
        """Wait until the broker has acknowledged all messages, for at most ``timeout`` seconds."""
        waiting = {*self._unacknowledged.values(), *self._waiting}
        if waiting:
            await asyncio.wait(waiting, timeout=timeout)

    async def send(
        self, topic: str, payload: bytes, *, qos: int, retain: bool, properties: Properties, timeout: float
    ) -> None:
        """Publish, and with QoS 1 wait for the broker's acknowledgement.

        As many messages as the broker allows are in flight at the same time; further ones are queued until their
        time-out.

        A broker without retained messages or QoS 1 would end the connection, so ``retain`` and ``qos`` are reduced to
        the broker's limits.

        Raises:
            PublishRefused: the broker answered with a failure.
            TooLarge: the message exceeds the broker's maximum size.
            aiomqtt.MqttError: the connection was lost.
            TimeoutError: no answer arrived within ``timeout`` seconds, or the broker does not keep up with QoS 0.
            ValueError: the topic is invalid for publishing.
        """
        if self._lost.done():
            raise self._failure()
        qos, retain = min(qos, self.limits.qos), retain and self.limits.retain
        self._check_size(topic, payload, qos, properties)
        if qos == 0:
            if self._socket.backlog > _BACKLOG:
                raise TimeoutError
            self._client.publish(topic, payload, 0, retain, properties)
            return
        acknowledged: asyncio.Future[ReasonCode] = self._loop.create_future()
        self._waiting[acknowledged] = (topic, payload, qos, retain, properties)
        # Each message needs a timer, which costs a fraction of asyncio.timeout().
        timer = self._loop.call_later(timeout, _give_up, acknowledged)
        try:
            self._send_queued()
            reason = await acknowledged
        finally:
            timer.cancel()
            self._waiting.pop(acknowledged, None)
        if reason.is_failure:
            raise PublishRefused(f"the broker refused a message on {topic}: {reason}")

    def _check_size(self, topic: str, payload: bytes, qos: int, properties: Properties) -> None:
        most = self.limits.packet
        if most is None or surely_fits(most, topic, payload):
            return
        size = publish_size(topic, payload, qos, properties)
        if size > most:
            raise TooLarge(f"a message of {size} bytes on {topic} is larger than the {most} that the broker accepts")

    # ---- sending -----------------------------------------------------------------------------------------------------

    def _send_queued(self) -> None:
        while self._waiting and len(self._unacknowledged) < self._room:
            acknowledged, message = self._waiting.popitem(last=False)
            if not acknowledged.done():
                self._transmit(acknowledged, message)

    def _transmit(
        self, acknowledged: asyncio.Future[ReasonCode], message: tuple[str, bytes, int, bool, Properties]
    ) -> None:
        for _ in range(len(self._unacknowledged) + 1):
            info = self._client.publish(*message)
            if info.rc != paho.MQTT_ERR_QUEUE_SIZE:  # a message in flight still has this packet identifier
                break
        if info.rc == paho.MQTT_ERR_SUCCESS:
            self._unacknowledged[info.mid] = acknowledged
        else:
            acknowledged.set_exception(Disconnected(paho.error_string(info.rc)))

    def _on_publish(
        self, client: paho.Client, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        if self._writing:
            return  # the library reports a message with QoS 0 as sent
        acknowledged = self._unacknowledged.pop(mid, None)
        if acknowledged is not None and not acknowledged.done():
            acknowledged.set_result(reason_code)
        self._send_queued()

    def _on_socket_register_write(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        # The socket buffers everything, so there is no need to wait until it is writable. Packets of this iteration of
        # the event loop are sent together.
        self._loop.call_soon(self._write)

    def _on_socket_unregister_write(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        pass

    def _write(self) -> None:
        self._writing = True
        try:
            self._client.loop_write()
        finally:
            self._writing = False
        self._socket.flush()

    # ---- receiving ---------------------------------------------------------------------------------------------------

    def _on_connect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if self._welcome.done():
            return
        if reason_code.is_failure:
            self._end(Disconnected(f"the broker refused the connection: {reason_code}", reason_code.value))
            return
        self.session_present = flags.session_present
        self._room = min(self._room, getattr(properties, "ReceiveMaximum", self._room))
        self.limits = limits_of(properties)
        self._welcome.set_result(None)

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        self._deliver(as_incoming(message))

    async def _wait_for(self, fut: Awaitable[T], timeout: float | None) -> T:
        try:
            async with asyncio.timeout(self.timeout if timeout is None else timeout):
                return await fut
        except TimeoutError:
            raise MqttError("the broker did not answer") from None

    # ---- the end -----------------------------------------------------------------------------------------------------

    def _on_disconnect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._end(Disconnected(f"disconnected: {reason_code}", reason_code.value))
        elif reason_code.value == _KEEP_ALIVE_TIMEOUT:
            self._end(Disconnected("the broker is silent", _KEEP_ALIVE_TIMEOUT))
        elif reason_code.value == _PROTOCOL_ERROR:
            self._end(Disconnected("the broker sent a malformed packet", _PROTOCOL_ERROR))
        elif reason_code.is_failure:
            failure = self._socket.failure
            self._end(Disconnected("the broker closed the connection" if failure is None else describe(failure)))
        else:
            self._end(None)

    def _failed(self, disconnected: asyncio.Future[None]) -> None:
        """Handle an error of reading that aiomqtt reports but paho does not classify."""
        error = None if disconnected.cancelled() else disconnected.exception()
        self._end(Disconnected(f"the broker sent a malformed packet: {type(error).__name__}", _PROTOCOL_ERROR))
        self.abort()

    def _end(self, error: Disconnected | None) -> None:
        """Record the end of the connection, and end all waits."""
        if self._lost.done():
            return
        if error is None:
            self._lost.set_result(None)
        else:
            self._lost.set_exception(error)
            self._lost.exception()  # marked as retrieved, since it need not be awaited
        waiting: list[asyncio.Future[Any]] = [self._welcome, *self._unacknowledged.values(), *self._waiting]
        for future in (*waiting, *self._pending_subscribes.values()):
            if not future.done():
                future.set_exception(self._failure())
        if not self._welcome.cancelled():
            self._welcome.exception()
        for unsubscribed in self._pending_unsubscribes.values():
            unsubscribed.set()

    def _failure(self) -> Disconnected:
        """Return a new error for each waiting caller, so that tracebacks do not mix."""
        error = self._lost.exception()
        return Disconnected(str(error), error.code) if isinstance(error, Disconnected) else Disconnected("disconnected")


def _give_up(acknowledged: asyncio.Future[ReasonCode]) -> None:
    if not acknowledged.done():
        acknowledged.set_exception(TimeoutError())

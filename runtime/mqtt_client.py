"""aiomqtt's client with the facts of MQTT 5 that it keeps to itself.

We need to know whether the broker kept our session, why a publish was refused, and why we were disconnected; and we
take messages in the callback, not through a queue and a task for each. Only callbacks that aiomqtt itself registers
are overridden; the tests of the session hold the pinned version to this. An instance serves one connection.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from runtime.mqtt_socket import BufferedSocket

log = logging.getLogger(__name__)
T = TypeVar("T")

_ATTEMPT: Final = 2.5
"""Seconds for reaching the broker, and again for the TLS handshake: they block a thread that a process which is told to
stop waits for."""

_GOODBYE: Final = 2.0
"""Seconds for telling the broker that we leave; a process that ends does not wait for longer."""


class PublishRefused(Exception):
    """The broker accepted the connection but not this message, for instance because the token does not allow it."""


class Client(aiomqtt.Client):
    """One connection to the broker, speaking MQTT 5."""

    def __init__(self, *args: Any, deliver: Callable[[paho.MQTTMessage], None], **kwargs: Any) -> None:
        super().__init__(*args, protocol=aiomqtt.ProtocolVersion.V5, **kwargs)
        self._client.connect_timeout = _ATTEMPT
        self.session_present = False
        self._deliver = deliver
        self._unacknowledged: dict[int, asyncio.Future[ReasonCode]] = {}
        self._attempted: asyncio.Future[None] = self._loop.create_future()
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._disconnected.add_done_callback(self._over)

    @property
    def lost(self) -> asyncio.Future[None]:
        """Done when the connection is over; unless we ended it, with an :class:`aiomqtt.MqttError` that says why."""
        return self._lost

    async def __aenter__(self) -> Self:
        first = self._disconnected
        try:
            await super().__aenter__()
        except BaseException:
            await asyncio.wait({self._attempted}, timeout=2 * _ATTEMPT)  # the thread goes on when its task is cancelled
            self._close_socket()
            raise
        if self._disconnected is not first:
            # aiomqtt forgets an end that comes together with the broker's welcome. ``lost`` does not.
            self._disconnected.add_done_callback(self._over)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.timeout = _GOODBYE
        try:
            await super().__aexit__(kind, error, trace)
        except aiomqtt.MqttError as failure:
            log.debug("the broker did not take our leave: %s", failure)
        finally:
            self._close_socket()

    async def settled(self, timeout: float) -> None:
        """Returns when the broker has acknowledged all that was sent, or after ``timeout`` seconds."""
        if self._unacknowledged:
            await asyncio.wait(set(self._unacknowledged.values()), timeout=timeout)

    async def send(
        self, topic: str, payload: bytes, *, qos: int, retain: bool, properties: Properties, timeout: float
    ) -> None:
        """Publishes, and with QoS 1 waits for the broker's acknowledgement.

        Raises:
            PublishRefused: the broker answered with a failure.
            aiomqtt.MqttError: the connection is lost.
            TimeoutError: no answer came within ``timeout`` seconds.
        """
        info = self._client.publish(topic, payload, qos, retain, properties)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            raise aiomqtt.MqttCodeError(info.rc, "Could not publish message")
        if qos == 0:
            return
        acknowledged: asyncio.Future[ReasonCode] = self._loop.create_future()
        self._unacknowledged[info.mid] = acknowledged
        try:
            async with asyncio.timeout(timeout):
                reason = await acknowledged
        finally:
            self._unacknowledged.pop(info.mid, None)
        if reason.is_failure:
            raise PublishRefused(f"the broker refused a message on {topic}: {reason}")

    async def _wait_for(self, fut: Awaitable[T], timeout: float | None) -> T:
        """Raises CancelledError whenever the task was cancelled meanwhile.

        Before Python 3.12, ``asyncio.wait_for`` takes no notice of a cancellation that comes together with what it
        waits for, be it a result or an error: a session that is told to end in the moment of the broker's welcome
        would go on for ever.
        """
        task = asyncio.current_task()
        before = 0 if task is None else task.cancelling()
        try:
            return await super()._wait_for(fut, timeout)
        finally:
            if task is not None and task.cancelling() > before:
                raise asyncio.CancelledError

    def _client_connect(self) -> None:
        try:
            super()._client_connect()
        finally:
            self._loop.call_soon_threadsafe(self._attempted.set_result, None)

    def _over(self, disconnected: asyncio.Future[None]) -> None:
        reason = None if disconnected.cancelled() else disconnected.exception()
        if self._lost.done():
            return
        if reason is None:
            self._lost.set_result(None)
        else:
            # Packets that cannot be decoded end a connection with whatever the decoder raised.
            known = isinstance(reason, aiomqtt.MqttError)
            self._lost.set_exception(reason if known else aiomqtt.MqttError(f"{type(reason).__name__}: {reason}"))
            self._lost.exception()  # whoever waits is told; if nobody does, that is no error
        for acknowledged in self._unacknowledged.values():
            if not acknowledged.done():
                acknowledged.set_exception(aiomqtt.MqttError(str(reason or "disconnected")))

    def _close_socket(self) -> None:
        """Lets go of what a connection that ended out of order leaves behind."""
        sock = self._client.socket()
        if sock is not None and sock.fileno() >= 0:
            self._loop.remove_writer(sock.fileno())
            self._on_socket_close(self._client, None, sock)
            sock.close()

    def _on_socket_open(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        self._socket = BufferedSocket(sock, self._loop)
        client._sock = self._socket  # as much of a socket as paho asks for
        super()._on_socket_open(client, userdata, self._socket)

    def _on_socket_register_write(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        # The socket takes everything at once: there is no need to ask the system whether it would. Whatever is
        # published until then goes with it.
        self._loop.call_soon_threadsafe(self._write)

    def _on_socket_unregister_write(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        pass

    def _write(self) -> None:
        try:
            self._client.loop_write()
            self._socket.flush()
        except Exception as error:
            # As aiomqtt does when it writes: a connection on which that fails is over.
            if not self._disconnected.done():
                self._disconnected.set_exception(error)

    def _on_connect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        self.session_present = flags.session_present
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if not self._connected.done():
            # aiomqtt would go on waiting for a welcome that cannot come any more.
            self._connected.set_exception(aiomqtt.MqttError(f"closed before the broker answered: {reason_code}"))
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _on_publish(
        self, client: paho.Client, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        acknowledged = self._unacknowledged.pop(mid, None)
        if acknowledged is not None and not acknowledged.done():
            acknowledged.set_result(reason_code)

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        self._deliver(message)

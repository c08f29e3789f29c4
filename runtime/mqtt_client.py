"""aiomqtt's client with the facts of MQTT 5 that it keeps to itself.

We need to know whether the broker kept our session, why a publish was refused, and why we were disconnected; and we
take messages in the callback, not through a queue and a task for each. Only callbacks that aiomqtt itself registers
are overridden; the tests of the session hold the pinned version to this. An instance serves one connection.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode


class PublishRefused(Exception):
    """The broker accepted the connection but not this message, for instance because the token does not allow it."""


class Client(aiomqtt.Client):
    """One connection to the broker, speaking MQTT 5."""

    def __init__(self, *args: Any, deliver: Callable[[paho.MQTTMessage], None], **kwargs: Any) -> None:
        super().__init__(*args, protocol=aiomqtt.ProtocolVersion.V5, **kwargs)
        self.session_present = False
        self._deliver = deliver
        self._unacknowledged: dict[int, asyncio.Future[ReasonCode]] = {}
        self._disconnected.add_done_callback(self._fail_unacknowledged)

    @property
    def lost(self) -> asyncio.Future[None]:
        """Done when the connection is over, with the reason as its exception if it was not wanted."""
        return self._disconnected

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

    def _fail_unacknowledged(self, lost: asyncio.Future[None]) -> None:
        reason = None if lost.cancelled() else lost.exception()
        for acknowledged in self._unacknowledged.values():
            if not acknowledged.done():
                acknowledged.set_exception(aiomqtt.MqttError(str(reason or "disconnected")))

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

    def _on_publish(
        self, client: paho.Client, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        acknowledged = self._unacknowledged.pop(mid, None)
        if acknowledged is not None and not acknowledged.done():
            acknowledged.set_result(reason_code)

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        self._deliver(message)

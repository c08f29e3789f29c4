"""Provide the broker session that every process uses.

A session connects, subscribes, renews its token, reconnects with back-off and passes messages to their handlers. It
does not sign tokens; a function supplies them. It does not guarantee delivery: important messages are acknowledged end
to end, so a publish simply fails if the broker is unreachable.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, Final, NoReturn

from aiomqtt import MqttError
from paho.mqtt.subscribeoptions import SubscribeOptions

from runtime.log import OngoingWarning, RateLimitedLog
from runtime.mqtt.client import Client, Disconnected, PublishRefused, TooLarge
from runtime.mqtt.packets import publish_properties
from runtime.mqtt.tls_files import TlsFiles
from runtime.mqtt.token_life import OPAQUE, TokenUnavailable, seconds_to_renewal
from runtime.mqtt.types import (
    BackOff,
    BrokerAddress,
    Identity,
    Incoming,
    Limits,
    Lost,
    Subscription,
    TlsUnusable,
    TokenSource,
    Will,
    bearable,
    quick_back_off,
)

__all__ = [
    "BrokerAddress",
    "BrokerSession",
    "Identity",
    "Incoming",
    "Lost",
    "NotConnected",
    "PublishRefused",
    "Subscription",
    "TooLarge",
    "Will",
    "quick_back_off",
]

log = logging.getLogger(__name__)

_SETTLE: Final = 15.0
"""Maximum seconds to wait for outstanding acknowledgements before a reconnect with a new token."""


class NotConnected(Exception):
    """The broker was not reachable in time; the message was not sent, or not acknowledged."""


class BrokerSession:
    """Persistent session. Run :meth:`run` as a task; publish from any other task.

    Args:
        subscriptions: subscribed on every connect.
        keep: time for which the broker keeps the session while disconnected; zero for a clean start every time.
        on_session: called on every connect before subscribing, with whether the broker kept the session.
        on_ready: called after subscribing.
        on_lost: called when a connection ends or an attempt fails.
        tls: certificates and key of ``address``, if the caller has read them already.
    """

    def __init__(
        self,
        address: BrokerAddress,
        identity: Identity,
        token: TokenSource,
        *,
        subscriptions: Sequence[Subscription] = (),
        will: Will | None = None,
        keep: timedelta = timedelta(0),
        on_session: Callable[[bool], None] | None = None,
        on_ready: Callable[[], None] | None = None,
        on_lost: Callable[[Lost], None] | None = None,
        back_off: BackOff = quick_back_off,
        keepalive: int = 30,
        max_inflight: int = 100,
        tls: TlsFiles | None = None,
    ) -> None:
        self.address = address
        self.identity = identity
        self._token = token
        self._tls = tls or TlsFiles(address)
        self._subscriptions = list(subscriptions)
        self._watches: list[Subscription] = []
        self._will = will
        self._next_will = will
        self._keep = keep
        self._on_session = on_session
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._back_off = back_off
        self._keepalive = keepalive
        self._max_inflight = max_inflight
        self._client: Client | None = None
        self._limits = Limits()
        self._informed = False
        self._ready = asyncio.Event()
        self._swap = asyncio.Event()
        self._connections = 0
        self._warning = OngoingWarning(log)
        self._unhandled = RateLimitedLog(log)

    @property
    def connected(self) -> bool:
        """Return whether the session is connected and subscribed now."""
        return self._ready.is_set()

    @property
    def connections(self) -> int:
        """Return the number of connections so far; an increase means that the connection was lost in between."""
        return self._connections

    @property
    def limits(self) -> Limits:
        """Return the limits of the broker at the current or last connection."""
        return self._limits

    def subscribe(self, subscription: Subscription) -> None:
        """Add a subscription before :meth:`run`, since subscriptions are made when connecting."""
        self._subscriptions.append(subscription)

    async def wait_ready(self) -> None:
        """Wait until connected and subscribed."""
        await self._ready.wait()

    def reconnect(self) -> None:
        """Replace the current connection in order, since there is a new certificate for it.

        The broker keeps the session, so nothing is lost, and no will is published.
        """
        self._swap.set()

    async def run(self) -> NoReturn:
        """Maintain the session until cancelled; then disconnect cleanly, so that no will is published."""
        failures = 0
        while True:
            lost = await self._connect_once()
            if lost is None:
                failures = 0
                self._next_will = self._will
                continue  # there is a new token or certificate: reconnect at once
            # If the broker refused the will, retry with a reduced one. After that connection, use the full one again,
            # since with a will that is not retained the status would stay online.
            self._next_will = bearable(self._next_will if lost.lasted == 0 else self._will, lost.code)
            if self._on_lost is not None:
                self._on_lost(lost)
            failures = 0 if lost.lasted > 60 else failures + 1
            self._warning.warning("broker %s: %s; trying again", self.address, lost.reason)
            await asyncio.sleep(self._back_off(lost, failures))

    @asynccontextmanager
    async def watching(self, subscription: Subscription) -> AsyncIterator["asyncio.Future[None]"]:
        """Subscribe on the current connection within the ``with`` block; retained messages arrive first.

        Yields a future that is done when that connection ends. The subscription is not renewed on the next one.

        Raises:
            NotConnected: there is no connection, or it ended before the SUBACK, or the broker refused.
        """
        client = self._client
        if client is None:
            raise NotConnected(f"not connected to {self.address}")
        self._watches.append(subscription)
        try:
            try:
                await _subscribe(client, subscription, retain_handling=0)
            except MqttError as error:
                raise NotConnected(str(error)) from error
            yield client.lost
        finally:
            self._watches.remove(subscription)
            with suppress(MqttError):
                await client.unsubscribe(subscription.topic_filter)

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry: timedelta | None = None,
        response_topic: str | None = None,
        correlation: bytes | None = None,
        user_properties: Sequence[tuple[str, str]] = (),
        timeout: float = 10.0,
    ) -> None:
        """Publish; with QoS 1 wait for the broker's acknowledgement.

        With QoS 1, wait up to ``timeout`` seconds for a connection (a renewal of the token takes less).

        Raises:
            NotConnected: no connection or no acknowledgement in time. The message may still have arrived.
            PublishRefused: the broker refused it, or the topic is invalid. :class:`TooLarge`: a retry is useless.
        """
        if not topic.isprintable() or not topic:
            raise PublishRefused(f"{topic!r} is not a topic")  # the broker would end the connection
        try:
            properties = publish_properties(
                expiry=expiry, response_topic=response_topic, correlation=correlation, user_properties=user_properties
            )
            client = self._client
            if client is None and qos == 0:
                raise NotConnected(f"not connected to {self.address}")
            if client is None or (qos > 0 and not self._is_live(client)):
                async with asyncio.timeout(timeout):
                    client = await self._live_client()
            await client.send(topic, payload, qos=qos, retain=retain, properties=properties, timeout=timeout)
        except TimeoutError:
            raise NotConnected(f"{self.address} did not answer within {timeout:g} s") from None
        except MqttError as error:
            raise NotConnected(f"connection to {self.address} lost: {error}") from error
        except ValueError as error:
            # A topic may be external, such as a response topic.
            raise PublishRefused(f"cannot publish on {topic!r}: {error}") from error

    async def _live_client(self) -> Client:
        while True:
            await self._ready.wait()
            if self._client is not None and self._is_live(self._client):
                return self._client
            await asyncio.sleep(0)  # the connection was just lost, and run() has not noticed yet

    def _is_live(self, client: Client) -> bool:
        return self._ready.is_set() and not client.lost.done()

    async def _connect_once(self) -> Lost | None:
        """Run one connection; return None if it must be replaced by a new one, else the reason for its loss."""
        self._swap.clear()
        try:
            tls = self._tls.context()
            token = await self._fresh_token()
            connection = self._new_client(token, tls)
        except (TlsUnusable, TokenUnavailable, ValueError) as error:  # ValueError: the token does not fit into a packet
            return Lost(str(error), None, 0.0)
        began: float | None = None
        try:
            async with connection as client:
                began = time.monotonic()
                await self._enter(client)
                try:
                    await self._hold(client, token)
                    self._ready.clear()  # publishes from now on wait for the next connection
                    await client.settled(_SETTLE)
                finally:
                    self._ready.clear()
                    self._client = None
        except MqttError as error:
            code = error.code if isinstance(error, Disconnected) else None
            return Lost(str(error), code, 0.0 if began is None else time.monotonic() - began)
        return None

    async def _enter(self, client: Client) -> None:
        if self._on_session is not None:
            self._on_session(client.session_present)
        for subscription in self._subscriptions:
            # Request retained messages only for a new subscription, since a kept session receives every change. But the
            # first time all of them, since the session may be that of an earlier process, whose state is lost.
            await _subscribe(client, subscription, retain_handling=1 if self._informed else 0)
        self._informed = True
        self._client, self._limits = client, client.limits
        self._connections += 1
        self._ready.set()
        log.info("connected to %s as %s", self.address, self.identity.client_id)
        if not client.limits.retain:
            log.warning("%s retains no messages: assignments and presence are not kept there", self.address)
        self._warning.over()
        if self._on_ready is not None:
            self._on_ready()

    async def _hold(self, client: Client, token: str) -> None:
        """Wait until there is a new token or certificate. Raise the error that ended the connection."""
        wait = seconds_to_renewal(token)
        swap = asyncio.ensure_future(self._swap.wait())
        either: set[asyncio.Future[Any]] = {client.lost, swap}
        try:
            while True:
                done, _ = await asyncio.wait(either, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                if client.lost in done:
                    client.lost.result()
                    raise MqttError("disconnected")
                if done:
                    return
                with suppress(TokenUnavailable):
                    if await self._fresh_token() != token:
                        return
                wait = OPAQUE
        finally:
            swap.cancel()

    async def _fresh_token(self) -> str:
        try:
            token = self._token()
            return token if isinstance(token, str) else await token
        except Exception as error:
            raise TokenUnavailable(f"no token: {error}") from error

    def _new_client(self, token: str, tls: ssl.SSLContext | None) -> Client:
        return Client(
            self.address,
            self.identity,
            token,
            tls=tls,
            will=self._next_will,
            keep=self._keep,
            keepalive=self._keepalive,
            max_inflight=self._max_inflight,
            deliver=self._dispatch,
        )

    def _dispatch(self, incoming: Incoming) -> None:
        for subscription in (*self._watches, *self._subscriptions):
            if subscription.matches(incoming.topic):
                try:
                    subscription.handler(incoming)
                except Exception:
                    # One hostile message must not end the connection for all others.
                    self._unhandled.log(
                        logging.ERROR,
                        incoming.topic,
                        "message on %s could not be handled",
                        incoming.topic,
                        exc_info=True,
                    )
                return
        log.debug("message on %s matches no subscription", incoming.topic)


async def _subscribe(client: Client, subscription: Subscription, *, retain_handling: int) -> None:
    """Subscribe, and wait for the SUBACK. ``retain_handling`` as in MQTT 5, 3.8.3.1.

    Raises:
        MqttError: the broker refused, or the connection was lost.
    """
    options = SubscribeOptions(qos=subscription.qos, retainHandling=retain_handling)
    try:
        reasons = await client.subscribe(subscription.topic_filter, options=options)
    except ValueError as error:
        raise MqttError(f"{subscription.topic_filter} is not a topic filter: {error}") from error
    for reason in reasons:
        if getattr(reason, "is_failure", False):
            raise MqttError(f"not allowed to subscribe to {subscription.topic_filter}: {reason}")

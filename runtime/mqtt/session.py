"""The one broker session that every process uses.

A session connects, subscribes, renews its token, reconnects with back-off and hands messages to their handlers. It
signs nothing: a function that yields a fresh token is given to it. Delivery is not its promise: what must not be lost
is acknowledged end to end by those who send it, so a publish simply fails when the broker cannot be reached.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Final, NoReturn

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
"""Seconds to wait for what is unanswered when the token is renewed."""


class NotConnected(Exception):
    """The broker could not be reached in time; the message was not sent, or not acknowledged."""


class BrokerSession:
    """A lasting session. :meth:`run` it as a task; publish from any other task.

    Args:
        subscriptions: made on every connect.
        keep: for how long the broker keeps the session when we are gone; zero starts clean every time.
        on_session: called on every connect before subscribing, told whether the broker kept the session.
        on_ready: called after subscribing.
        on_lost: called when a connection ends or an attempt fails.
        tls: certificates and key of ``address``; given by those who have read them already.
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
        self._connections = 0
        self._warning = OngoingWarning(log)
        self._unhandled = RateLimitedLog(log)

    @property
    def connected(self) -> bool:
        """Whether we are connected and subscribed right now."""
        return self._ready.is_set()

    @property
    def connections(self) -> int:
        """How often we were connected and subscribed; when it has grown, the broker was away in between."""
        return self._connections

    @property
    def limits(self) -> Limits:
        """What the broker allows, or allowed when we were last connected."""
        return self._limits

    def subscribe(self, subscription: Subscription) -> None:
        """Adds a subscription; before :meth:`run`, since it is made when connecting."""
        self._subscriptions.append(subscription)

    async def wait_ready(self) -> None:
        """Returns once connected and subscribed."""
        await self._ready.wait()

    async def run(self) -> NoReturn:
        """Keeps the session up until cancelled; then disconnects in order, so that no will is sent."""
        failures = 0
        while True:
            lost = await self._connect_once()
            if lost is None:
                failures = 0
                self._next_will = self._will
                continue  # the token was renewed: reconnect at once
            # Whoever refused our will is asked with less of it. After that connection it is the whole one again: a will
            # that is not retained leaves us online for good.
            self._next_will = bearable(self._next_will if lost.lasted == 0 else self._will, lost.code)
            if self._on_lost is not None:
                self._on_lost(lost)
            failures = 0 if lost.lasted > 60 else failures + 1
            self._warning.warning("broker %s: %s; trying again", self.address, lost.reason)
            await asyncio.sleep(self._back_off(lost, failures))

    @asynccontextmanager
    async def watching(self, subscription: Subscription) -> AsyncIterator["asyncio.Future[None]"]:
        """Subscribes on the connection of now, for as long as the ``with`` block lasts; retained messages come first.

        Yields a future that is done when that connection ends. The watch ends with it and is not taken up again.

        Raises:
            NotConnected: there is no connection, or it ended before the broker agreed, or the broker did not agree.
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
        """Publishes; with QoS 1 returns when the broker has acknowledged.

        Waits for a connection within ``timeout`` seconds (a renewal of the token is shorter), QoS 0 does not wait.

        Raises:
            NotConnected: no connection, or no acknowledgement, in time. The message may have arrived all the same.
            PublishRefused: the broker does not allow it, or it is no topic. :class:`TooLarge`: nor will it ever.
        """
        if not topic.isprintable() or not topic:
            raise PublishRefused(f"{topic!r} is no topic")  # the broker would end the connection
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
            # A topic may come from outside, as that of an answer does.
            raise PublishRefused(f"cannot publish on {topic!r}: {error}") from error

    async def _live_client(self) -> Client:
        while True:
            await self._ready.wait()
            if self._client is not None and self._is_live(self._client):
                return self._client
            await asyncio.sleep(0)  # the connection was lost just now, and run() has yet to see it

    def _is_live(self, client: Client) -> bool:
        return self._ready.is_set() and not client.lost.done()

    async def _connect_once(self) -> Lost | None:
        """One connection from beginning to end: None when its token was due for renewal, else why it was lost."""
        try:
            tls = self._tls.context()
            token = await self._fresh_token()
            connection = self._new_client(token, tls)
        except (TlsUnusable, TokenUnavailable, ValueError) as error:  # ValueError: MQTT has no room for such a token
            return Lost(str(error), None, 0.0)
        began: float | None = None
        try:
            async with connection as client:
                began = time.monotonic()
                await self._enter(client)
                try:
                    await self._hold(client, token)
                    self._ready.clear()  # what is published from now on waits for the next connection
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
            # Retained messages only with a new subscription: a kept session has been told of every change. But the
            # session may have been kept from a former process, whose memory we do not have: then all of them at first.
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
        """Returns when a newer token is to be used; raises what the connection was lost by."""
        wait = seconds_to_renewal(token)
        while True:
            done, _ = await asyncio.wait({client.lost}, timeout=wait)
            if done:
                client.lost.result()
                raise MqttError("disconnected")
            with suppress(TokenUnavailable):
                if await self._fresh_token() != token:
                    return
            wait = OPAQUE

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
            if subscription.takes(incoming.topic):
                try:
                    subscription.handler(incoming)
                except Exception:
                    # One hostile message must not end the connection that all others come through.
                    self._unhandled.say(
                        logging.ERROR,
                        incoming.topic,
                        "message on %s could not be handled",
                        incoming.topic,
                        exc_info=True,
                    )
                return
        log.debug("message on %s is not for us", incoming.topic)


async def _subscribe(client: Client, subscription: Subscription, *, retain_handling: int) -> None:
    """Subscribes; returns when the broker has agreed. ``retain_handling`` as in MQTT 5, 3.8.3.1.

    Raises:
        MqttError: it did not agree, or the connection is lost.
    """
    options = SubscribeOptions(qos=subscription.qos, retainHandling=retain_handling)
    try:
        reasons = await client.subscribe(subscription.topic_filter, options=options)
    except ValueError as error:
        raise MqttError(f"{subscription.topic_filter} is no topic filter: {error}") from error
    for reason in reasons:
        if getattr(reason, "is_failure", False):
            raise MqttError(f"not allowed to subscribe to {subscription.topic_filter}: {reason}")

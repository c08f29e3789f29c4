"""Find out whether the broker has this project's plugin, since any other broker lacks what the plugin does.

The plugin names the sender of every control command, and nothing else does. So the session sends itself a message on a
topic of control commands, without a sender, and looks whether it returns with one.
"""

import asyncio
import logging
import secrets
from typing import Any, Final, NoReturn

from runtime.mqtt.session import BrokerSession, NotConnected, PublishRefused
from runtime.mqtt.types import Incoming, Subscription
from runtime.wakeup import Wakeup

log = logging.getLogger(__name__)

SENDER: Final = "sender"
"""User property with the name of a control command's sender."""

_WITHOUT: Final = "without the plugin: senders of commands are unverified, and revocations are not carried out"
_SETTLE: Final = 1.0
_WITHIN: Final = 10.0
_AGAIN_AFTER: Final = 30.0
"""Seconds until the check is repeated if it failed and the connection lasted."""


class BrokerPlugin:
    """Whether the broker has the plugin. It is checked at each connection, since brokers change behind an address."""

    def __init__(self) -> None:
        self.present: bool | None = None
        """None: not known yet."""
        self._connected = Wakeup()

    def on_ready(self) -> None:
        """Check again, since there is a new connection."""
        self._connected.set()

    @property
    def settle_seconds(self) -> float:
        """Return how long no retained message must have arrived until a set of them is complete (see
        :func:`runtime.mqtt.retained.read_retained`). The plugin is Mosquitto's, which sends them in order; of other
        brokers nothing is known."""
        return _SETTLE if self.present is False else 0.0

    def describe(self) -> str:
        """Return the result in words, for operators."""
        match self.present:
            case None:
                return "not checked yet"
            case True:
                return "with the plugin"
        return _WITHOUT

    async def run(self, session: BrokerSession, topic: str) -> NoReturn:
        """Check at each connection of ``session``, with messages below ``topic``, until cancelled."""
        await self._connected.wait()
        while True:
            try:
                self._note(session, await names_sender(session, topic))
            except (NotConnected, PublishRefused) as error:
                log.debug("the broker's plugin could not be checked: %s", error)
                await self._connected.wait(_AGAIN_AFTER)
            else:
                await self._connected.wait()

    def _note(self, session: BrokerSession, present: bool) -> None:
        if not present and self.present is not False:
            log.warning("broker %s is %s", session.address, _WITHOUT)
        self.present = present


async def names_sender(session: BrokerSession, topic: str) -> bool:
    """Return whether the broker names the sender of a message below ``topic``.

    Raises:
        NotConnected: the connection was lost, or the message did not return in time.
        PublishRefused: the broker refused the message.
    """
    mark = f"{topic}/{secrets.token_hex(8)}"
    named: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def on_message(message: Incoming) -> None:
        if not named.done():
            named.set_result(SENDER in dict(message.user_properties))

    async with session.watching(Subscription(mark, on_message)) as lost:
        await session.publish(mark, b"")
        ends: set[asyncio.Future[Any]] = {named, lost}
        await asyncio.wait(ends, timeout=_WITHIN, return_when=asyncio.FIRST_COMPLETED)
    if not named.done():
        raise NotConnected(f"a message on {topic} did not return")
    return named.result()

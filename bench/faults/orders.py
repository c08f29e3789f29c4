"""A fault run as an operator: tells agents and workers to pause and to go on, and asks agents for their counts."""

import asyncio
import secrets
from collections.abc import Callable
from typing import Final

from auth.tokens import Role, SigningKey, sign
from runtime.mqtt.session import BrokerSession, Identity, Incoming, NotConnected, PublishRefused, Subscription
from runtime.mqtt.types import BrokerAddress
from schema.messages import AdHocAnswer, AdHocRequest, ControlAnswer, ControlCommand, Undecodable, decode, encode
from schema.topics import ANY, Topics
from testbed.demo.operator import results_in
from testbed.demo.world import ENV

_NAME: Final = "faults"
_ANSWER_WITHIN: Final = 3.0


class Orders:
    """A session with the rights of a server; :meth:`run` ``session`` as a task.

    Args:
        key: the key of now, which changes in a rotation.
    """

    def __init__(self, address: BrokerAddress, key: Callable[[], SigningKey]) -> None:
        self.topics = Topics(ENV)
        self._answers: dict[str, asyncio.Future[bytes]] = {}
        self.session = BrokerSession(
            address,
            Identity(_NAME, _NAME),
            lambda: sign(key(), Role.SERVER, _NAME, ENV),
            subscriptions=[Subscription(self.topics.data(ANY, ANY), self._take)],
        )

    async def agent(self, name: str, command: str) -> bool:
        """Gives an order to an agent; whether it said that it obeys."""
        return await self._order(self.topics.monitor_control(name), name, command)

    async def service(self, service: str, command: str) -> bool:
        """Gives an order to the workers of a service; whether one of them said that it obeys."""
        return await self._order(self.topics.service_control(service), service, command)

    async def measured(self, name: str) -> int | None:
        """How many results an agent has measured and not discarded since its start; None when it does not say."""
        key = secrets.token_hex(8)
        answer = await self._ask(self.topics.request(name, "metrics"), encode(AdHocRequest(id=key)), name, key)
        try:
            metrics = None if answer is None else decode(answer, AdHocAnswer).metrics
        except Undecodable:
            return None
        return None if metrics is None else results_in(metrics)

    async def _order(self, topic: str, name: str, command: str) -> bool:
        answer = await self._ask(topic, encode(ControlCommand(command=command)), name, secrets.token_hex(8))
        try:
            return answer is not None and decode(answer, ControlAnswer).ok
        except Undecodable:
            return False

    async def _ask(self, topic: str, payload: bytes, name: str, key: str) -> bytes | None:
        answer = self._answers[key] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                await self.session.publish(topic, payload, response_topic=self.topics.data(name, key))
                said: bytes = await answer
                return said
        except (TimeoutError, NotConnected, PublishRefused):
            return None
        finally:
            del self._answers[key]

    def _take(self, message: Incoming) -> None:
        address = self.topics.parse(message.topic)
        waiting = None if address is None else self._answers.get(address.rest)
        if waiting is not None and not waiting.done():
            waiting.set_result(message.payload)

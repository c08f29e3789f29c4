"""The demo as an operator: tells agents to pause, and asks them what they have measured."""

import asyncio
import secrets
from collections.abc import Iterable
from typing import Final

from auth.tokens import Role, SigningKey, token_source
from runtime.mqtt.session import BrokerSession, Identity, Incoming, NotConnected, PublishRefused, Subscription
from runtime.mqtt.types import BrokerAddress
from schema.messages import AdHocAnswer, AdHocRequest, ControlAnswer, ControlCommand, Undecodable, decode, encode
from schema.names import Environment
from schema.topics import ANY, Topics

_NAME: Final = "demo-operator"
_ANSWER_WITHIN: Final = 3.0
"""Seconds."""

_PROBES: Final = "ntppool_agent_probes_total"
_DISCARDED: Final = "ntppool_agent_probes_discarded_total"


class Operator:
    """A session with an admin's token; :meth:`run` ``session`` as a task."""

    def __init__(self, address: BrokerAddress, key: SigningKey, env: Environment) -> None:
        self._topics = Topics(env)
        self._answers: dict[str, asyncio.Future[bytes]] = {}
        self.session = BrokerSession(
            address,
            Identity(_NAME, _NAME),
            token_source(key, Role.ADMIN, _NAME, env),
            subscriptions=[Subscription(self._topics.data(ANY, ANY), self._take)],
        )

    async def pause(self, agents: Iterable[str]) -> list[str]:
        """Orders these agents not to probe any more; names those that did not say that they obey."""
        names = list(agents)
        obeyed = await asyncio.gather(*(self._pause(name) for name in names))
        return [name for name, obeys in zip(names, obeyed, strict=True) if not obeys]

    async def measured(self, agents: Iterable[str]) -> dict[str, int]:
        """How many results these agents have measured since they were started; without those that do not answer."""
        names = list(agents)
        counts = await asyncio.gather(*(self._measured(name) for name in names))
        return {name: count for name, count in zip(names, counts, strict=True) if count is not None}

    async def _pause(self, name: str) -> bool:
        key = _new_key()
        order = encode(ControlCommand(command="pause"))
        answer = await self._ask(self._topics.monitor_control(name), order, name, key)
        try:
            return answer is not None and decode(answer, ControlAnswer).ok
        except Undecodable:
            return False

    async def _measured(self, name: str) -> int | None:
        key = _new_key()
        answer = await self._ask(self._topics.request(name, "metrics"), encode(AdHocRequest(id=key)), name, key)
        try:
            metrics = None if answer is None else decode(answer, AdHocAnswer).metrics
        except Undecodable:
            return None
        return None if metrics is None else results_in(metrics)

    async def _ask(self, topic: str, payload: bytes, name: str, key: str) -> bytes | None:
        """The answer on the agent's own topic with this ``key``; None when there is none in time."""
        answer = self._answers[key] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                await self.session.publish(topic, payload, response_topic=self._topics.data(name, key))
                said: bytes = await answer
                return said
        except (TimeoutError, NotConnected, PublishRefused):
            return None
        finally:
            del self._answers[key]

    def _take(self, message: Incoming) -> None:
        address = self._topics.parse(message.topic)
        waiting = None if address is None else self._answers.get(address.rest)
        if waiting is not None and not waiting.done():
            waiting.set_result(message.payload)


def results_in(metrics: str) -> int | None:
    """How many results an agent has measured, as its metrics (Prometheus' text format) say."""
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line and not line.startswith("#"))
    try:
        return int(values[_PROBES]) - int(values[_DISCARDED])
    except (KeyError, ValueError):
        return None


def _new_key() -> str:
    return secrets.token_hex(8)

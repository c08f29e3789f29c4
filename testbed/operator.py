"""Act as the operator of a running system: pause and resume agents and workers, and ask agents for their counts."""

import asyncio
from collections.abc import Iterable
from typing import Final

from runtime.mqtt.request import RequestClient, RequestFailed, new_key
from runtime.mqtt.types import BrokerAddress, Identity, TokenSource
from schema.messages import AdHocAnswer, AdHocRequest, ControlAnswer, ControlCommand, Undecodable, decode, encode
from schema.names import Environment
from schema.topics import ANY, Topics

_WITHIN: Final = 3.0
"""Seconds for the broker to accept a request, and then for its answer."""

_PROBES: Final = "ntppool_agent_probes_total"
_DISCARDED: Final = "ntppool_agent_probes_discarded_total"


class Operator:
    """Send control commands and ad hoc requests; run its ``session`` as a task.

    A late or invalid answer counts as none.

    Args:
        token: of an admin, or of a server.
    """

    def __init__(self, address: BrokerAddress, name: str, token: TokenSource, env: Environment) -> None:
        self.topics = Topics(env)
        answers = self.topics.data(ANY, ANY)
        self.client = RequestClient(
            address, Identity(name, name), token, answers=answers, broker_within_seconds=_WITHIN
        )
        self.session = self.client.session

    async def agent(self, name: str, command: str) -> bool:
        """Send a command to an agent; return whether it confirmed."""
        return await self._command(self.topics.monitor_control(name), name, command)

    async def service(self, service: str, command: str) -> bool:
        """Send a command to the workers of a service; return whether one of them confirmed."""
        return await self._command(self.topics.service_control(service), service, command)

    async def pause(self, agents: Iterable[str]) -> list[str]:
        """Pause these agents; return those that did not confirm."""
        names = list(agents)
        obeyed = await asyncio.gather(*(self.agent(name, "pause") for name in names))
        return [name for name, obeys in zip(names, obeyed, strict=True) if not obeys]

    async def measured(self, name: str) -> int | None:
        """Return how many results an agent has measured and not discarded since its start; None without an answer."""
        request = encode(AdHocRequest(id=new_key()))
        answer = await self._request(self.topics.request(name, "metrics"), request, name)
        try:
            metrics = None if answer is None else decode(answer, AdHocAnswer).metrics
        except Undecodable:
            return None
        return None if metrics is None else results_in(metrics)

    async def all_measured(self, agents: Iterable[str]) -> dict[str, int]:
        """Return how many results each of these agents has measured, without those that do not answer."""
        names = list(agents)
        counts = await asyncio.gather(*(self.measured(name) for name in names))
        return {name: count for name, count in zip(names, counts, strict=True) if count is not None}

    async def _command(self, topic: str, name: str, command: str) -> bool:
        answer = await self._request(topic, encode(ControlCommand(command=command)), name)
        try:
            return answer is not None and decode(answer, ControlAnswer).ok
        except Undecodable:
            return False

    async def _request(self, topic: str, payload: bytes, name: str) -> bytes | None:
        try:
            return await self.client.request_one(topic, payload, self.topics.data(name, new_key()), timeout=_WITHIN)
        except RequestFailed:
            return None


def results_in(metrics: str) -> int | None:
    """Return the number of results in an agent's metrics (Prometheus' text format)."""
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line and not line.startswith("#"))
    try:
        return int(values[_PROBES]) - int(values[_DISCARDED])
    except (KeyError, ValueError):
        return None

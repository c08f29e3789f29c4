"""Answer operators' ad hoc requests to one agent: measure an address, or return the agent's metrics."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from agent.metrics import AgentCounters
from agent.ntp.measurement import best, to_result
from agent.ntp.probe import Source, probe
from agent.ntp.targets import TargetRefused, TargetRules
from agent.prober import Prober
from runtime.mqtt.session import Incoming, NotConnected, PublishRefused
from schema.messages import AdHocAnswer, AdHocRequest, Undecodable, decode, encode
from schema.names import IpVersion
from schema.topics import Topics

log = logging.getLogger(__name__)

MAX_AT_ONCE: Final = 4
"""Maximum number of concurrent requests; further ones are answered as busy."""

MAX_PER_MINUTE: Final = 60
"""Maximum measurements on request per minute, so that an agent cannot be used to flood a host."""

TIMEOUT: Final = 2.0
"""Seconds to wait for each sample: three samples, two seconds apart, fit into the 8 s that a requester waits."""


class Publish(Protocol):
    """Publish an answer. Raise :class:`NotConnected` or :class:`PublishRefused`."""

    async def __call__(self, topic: str, payload: bytes, *, qos: int, correlation: bytes | None) -> None: ...


class Requests:
    """Answer the requests to one agent. Run :meth:`run` as a task."""

    def __init__(
        self,
        name: str,
        topics: Topics,
        rules: TargetRules,
        probers: dict[IpVersion, Prober],
        counters: AgentCounters,
        metrics: Callable[[], str],
        publish: Publish,
    ) -> None:
        self._name = name
        self._topics = topics
        self._rules = rules
        self._probers = probers
        self._counters = counters
        self._metrics = metrics
        self._publish = publish
        self._waiting: asyncio.Queue[tuple[str, Incoming]] = asyncio.Queue(maxsize=16)
        self._recent: list[float] = []
        self._running = 0

    def on_message(self, check: str, message: Incoming) -> None:
        """Enqueue a request for ``check``, the last part of its topic."""
        try:
            self._waiting.put_nowait((check, message))
        except asyncio.QueueFull:
            log.warning("ad hoc request dropped: too many at once")

    async def run(self) -> None:
        """Answer requests until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                check, message = await self._waiting.get()
                try:
                    request = decode(message.payload, AdHocRequest)
                except Undecodable as error:
                    self._counters.messages_refused += 1
                    log.warning("ad hoc request %r refused: %s", check[:64], error)
                    continue
                tasks.create_task(self._answer(check, request, message))

    async def _answer(self, check: str, request: AdHocRequest, message: Incoming) -> None:
        if self._running >= MAX_AT_ONCE:
            answer = AdHocAnswer(id=request.id, error="busy: too many requests at once")
        else:
            self._running += 1
            try:
                answer = await self._make(check, request)
            except Exception:
                log.exception("ad hoc request %r failed", check[:64])
                answer = AdHocAnswer(id=request.id, error="failed; see the agent's log")
            finally:
                self._running -= 1
        try:
            await self._publish(self._topic(request, message), encode(answer), qos=0, correlation=message.correlation)
        except (NotConnected, PublishRefused) as error:
            log.info("answer to ad hoc request could not be sent: %s", error)
        except Exception:
            # For instance an invalid response topic: one sender's mistake must not end the agent.
            log.exception("answer to ad hoc request could not be sent")

    async def _make(self, check: str, request: AdHocRequest) -> AdHocAnswer:
        match check:
            case "ntp":
                return await self._ntp(request)
            case "metrics":
                return AdHocAnswer(id=request.id, metrics=self._metrics())
        return AdHocAnswer(id=request.id, error=f"unknown check {check[:64]!r}: must be ntp or metrics")

    async def _ntp(self, request: AdHocRequest) -> AdHocAnswer:
        if request.ip is None:
            return AdHocAnswer(id=request.id, error="ip: required for ntp")
        try:
            target = self._rules.check(request.ip, request.port)
        except TargetRefused as error:
            return AdHocAnswer(id=request.id, error=str(error))
        prober = self._probers[target.ipv]
        if (reason := prober.why_not) is not None:
            return AdHocAnswer(id=request.id, error=f"IP{target.ipv} does not probe: {reason}")
        if self._too_many():
            return AdHocAnswer(id=request.id, error=f"busy: more than {MAX_PER_MINUTE} measurements in a minute")
        config = prober.config
        source = Source(None if config is None else config.nat_ip or config.ip)
        samples = await probe(target, source, request.samples, TIMEOUT)
        self._counters.count_samples(samples)
        if (chosen := best(samples)).ours:
            return AdHocAnswer(id=request.id, error=f"this host could not send: {chosen.error}")
        return AdHocAnswer(id=request.id, result=to_result(0, target.ip, samples))

    def _too_many(self) -> bool:
        now = asyncio.get_running_loop().time()
        self._recent = [at for at in self._recent if now - at < 60]
        if len(self._recent) >= MAX_PER_MINUTE:
            return True
        self._recent.append(now)
        return False

    def _topic(self, request: AdHocRequest, message: Incoming) -> str:
        """Return the response topic if it is below the agent's own, where alone it may publish; else the default
        topic."""
        ours = self._topics.data(self._name, "")
        if message.response_topic and message.response_topic.startswith(ours):
            return message.response_topic
        return self._topics.data(self._name, request.id)

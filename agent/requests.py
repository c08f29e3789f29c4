"""Answer operators' ad hoc requests to one agent: measure an address, trace the route to it, or return the agent's
metrics."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from agent.metrics import AgentCounters
from agent.ntp.measurement import best, to_result
from agent.ntp.probe import Source, probe
from agent.ntp.targets import Target, TargetRefused, TargetRules
from agent.prober import Prober
from agent.traceroute.gate import Busy, Gate
from runtime.mqtt.session import Incoming, NotConnected, PublishRefused
from schema.addresses import of_one_site
from schema.messages import AdHocAnswer, AdHocRequest, Result, Trace, Undecodable, decode, encode
from schema.names import IpVersion
from schema.topics import Topics

log = logging.getLogger(__name__)

MAX_AT_ONCE: Final = 4
"""Maximum number of concurrent requests; further ones are answered as busy."""

MAX_PER_MINUTE: Final = 60
"""Maximum measurements on request per minute, so that an agent cannot be used to flood a host."""

TIMEOUT: Final = 2.0
"""Seconds to wait for each sample: three samples, two seconds apart, fit into the 8 s that a requester waits."""


class _Declined(Exception):
    """The request is not fulfilled; the message says why."""


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
        gate: Gate,
        publish: Publish,
    ) -> None:
        self._name = name
        self._topics = topics
        self._rules = rules
        self._probers = probers
        self._counters = counters
        self._metrics = metrics
        self._gate = gate
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
        try:
            match check:
                case "ntp":
                    return AdHocAnswer(id=request.id, result=await self._ntp(request))
                case "traceroute":
                    result, traces = await self._traceroute(request)
                    return AdHocAnswer(id=request.id, result=result, traces=traces)
                case "metrics":
                    return AdHocAnswer(id=request.id, metrics=self._metrics())
            raise _Declined(f"unknown check {check[:64]!r}: must be ntp, traceroute or metrics")
        except (_Declined, TargetRefused) as error:
            return AdHocAnswer(id=request.id, error=str(error))

    async def _ntp(self, request: AdHocRequest) -> Result:
        target = self._target("ntp", request)
        return await self._measure(target, self._source(target), request.samples)

    async def _traceroute(self, request: AdHocRequest) -> tuple[Result, list[Trace]]:
        """Trace the route to an address, and measure it, since few NTP servers answer the packets of a traceroute."""
        target = self._target("traceroute", request)
        source = self._source(target)
        if any(of_one_site(target.ip, ours) for ours in self._addresses(target.ipv)):
            raise _Declined(f"{target.ip} is in the network of this host")
        # Not before it is needed: the daemon must stay small.
        from agent.traceroute.tracer import CannotTrace, Useless, trace

        try:
            with self._gate.one():
                log.info("tracing the route to %s for an operator", target.ip)
                result = await self._measure(target, source, samples=1)
                return result, await trace(target, None if source.foreign else source.address)
        except Busy as error:
            raise _Declined(f"busy: {error}") from None
        except CannotTrace as error:
            if isinstance(error, Useless):
                self._gate.useless()
            raise _Declined(str(error)) from None

    def _target(self, check: str, request: AdHocRequest) -> Target:
        """Return the address of a request, if it may be measured now.

        Raises:
            _Declined, TargetRefused: it may not.
        """
        if request.ip is None:
            raise _Declined(f"ip: required for {check}")
        target = self._rules.check(request.ip, request.port)
        if (reason := self._probers[target.ipv].why_not) is not None:
            raise _Declined(f"IP{target.ipv} does not probe: {reason}")
        return target

    async def _measure(self, target: Target, source: Source, samples: int) -> Result:
        if self._too_many():
            raise _Declined(f"busy: more than {MAX_PER_MINUTE} measurements in a minute")
        taken = await probe(target, source, samples, TIMEOUT)
        self._counters.count_samples(taken)
        if (chosen := best(taken)).ours:
            raise _Declined(f"this host could not send: {chosen.error}")
        return to_result(0, target.ip, taken)

    def _source(self, target: Target) -> Source:
        config = self._probers[target.ipv].config
        return Source(None if config is None else config.nat_ip or config.ip)

    def _addresses(self, ipv: IpVersion) -> list[str]:
        """Return this host's own addresses, as the pool has configured them."""
        config = self._probers[ipv].config
        return [] if config is None else [ip for ip in (config.ip, config.nat_ip) if ip]

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

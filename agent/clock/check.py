"""Asks the base-check servers: whether the local clock is right, and whether anybody answers at all."""

import asyncio
from collections.abc import Sequence

import msgspec

from agent.clock.verdict import ClockVerdict, judge_clock
from agent.metrics import AgentCounters
from agent.ntp.measurement import Sample, best, to_result
from agent.ntp.probe import Source, probe
from agent.ntp.resolver import LookupFailed, Resolver
from agent.ntp.targets import HostName, Target, TargetRefused, TargetRules
from schema.limits import MAX_BASE_CHECKS
from schema.messages import Result
from schema.names import IpVersion


class BaseChecks(msgspec.Struct, frozen=True):
    """Whom to ask, and how."""

    ipv: IpVersion
    rules: TargetRules
    servers: tuple[Target | HostName, ...] = ()
    """Each has one voice. A name is looked up for every check."""
    refused: tuple[str, ...] = ()
    """Entries that cannot be asked, each with the reason."""
    samples: int = 1


class Checked(msgspec.Struct, frozen=True):
    """What came of asking them."""

    verdict: ClockVerdict
    results: list[tuple[str, Result]]
    """What each server said, by the name that it is known by."""
    refused: tuple[str, ...]
    """Servers that could not be asked, each with the reason."""
    heard: int | None
    """When the first requests left, if somebody answered one of them; else None. Unix time in nanoseconds.

    Of the first ones, since a network that works only later did not work while it was silent before."""


class _Voice(msgspec.Struct, frozen=True):
    """One server, and the addresses at which it may be asked."""

    name: str
    targets: tuple[Target, ...]


def base_checks(entries: Sequence[str], samples: int, rules: TargetRules, ipv: IpVersion) -> BaseChecks:
    """The configured ``entries``, checked; one that is named twice has one voice."""
    servers: dict[Target | HostName, None] = {}
    refused: list[str] = []
    for entry in list(dict.fromkeys(entries))[:MAX_BASE_CHECKS]:
        try:
            servers[rules.parse_or_name(entry, ipv)] = None
        except TargetRefused as error:
            refused.append(str(error))
    return BaseChecks(ipv, rules, tuple(servers), tuple(refused), samples)


async def check_clock(checks: BaseChecks, source: Source, counters: AgentCounters, resolver: Resolver) -> Checked:
    """Asks all base-check servers at once."""
    voices, refused = await _find(checks, resolver)
    firsts: list[Sample] = []

    async def ask(voice: _Voice) -> tuple[str, Result]:
        series = await asyncio.gather(*(probe(target, source, checks.samples) for target in voice.targets))
        for samples in series:
            counters.count_samples(samples)
            firsts.append(samples[0])
        # Of several addresses the first that works has the voice, whatever time it says.
        target, samples = min(zip(voice.targets, series, strict=True), key=lambda asked: _trouble(asked[1]))
        label = str(target) if voice.name == str(target) else f"{voice.name} ({target.ip})"
        return label, to_result(0, target.ip, samples)

    results = await asyncio.gather(*map(ask, voices))
    heard = [sample.sent_at for sample in firsts if sample.reply is not None]
    return Checked(judge_clock(results, refused), results, refused, max(heard, default=None))


async def _find(checks: BaseChecks, resolver: Resolver) -> tuple[list[_Voice], tuple[str, ...]]:
    """Who is to be asked where, and who cannot be."""

    async def look_up(server: Target | HostName) -> list[str] | LookupFailed:
        if isinstance(server, Target):
            return [server.ip]
        try:
            return await resolver.addresses(server.host, checks.ipv)
        except LookupFailed as error:
            return error

    voices: list[_Voice] = []
    refused = list(checks.refused)
    taken: set[Target] = {server for server in checks.servers if isinstance(server, Target)}
    found = await asyncio.gather(*map(look_up, checks.servers))
    for server, addresses in zip(checks.servers, found, strict=True):
        if isinstance(server, Target):
            voices.append(_Voice(str(server), (server,)))
        elif isinstance(addresses, LookupFailed):
            refused.append(f"{server} {addresses}")
        else:
            targets, wrong = _targets(server, addresses, checks)
            if not targets:
                refused.append(f"{server}: {wrong}")
            elif new := tuple(target for target in targets if target not in taken):
                taken.update(new)
                voices.append(_Voice(str(server), new))
    return voices, tuple(refused)


def _targets(server: HostName, addresses: Sequence[str], checks: BaseChecks) -> tuple[list[Target], str]:
    """The addresses that may be probed, and why others may not."""
    targets: list[Target] = []
    wrong = "has no address"
    for ip in addresses:
        try:
            targets.append(checks.rules.check(ip, server.port, checks.ipv))
        except TargetRefused as error:
            wrong = str(error)
    return targets, wrong


def _trouble(samples: Sequence[Sample]) -> int:
    """How little a server's answers are worth: 0 is a proper one, 2 is none."""
    chosen = best(samples)
    return 2 if chosen.reply is None else int(chosen.error is not None)

"""Query the base-check servers: is the local clock right, and does any server answer at all?"""

import asyncio
from collections.abc import Sequence

import msgspec

from agent.clock.verdict import ClockVerdict, cannot_send, judge_clock
from agent.metrics import AgentCounters
from agent.ntp.measurement import Sample, best, to_result
from agent.ntp.probe import Source, probe
from agent.ntp.resolver import LookupFailed, Resolver
from agent.ntp.targets import HostName, Target, TargetRefused, TargetRules
from schema.limits import MAX_BASE_CHECKS
from schema.messages import Result
from schema.names import IpVersion


class BaseChecks(msgspec.Struct, frozen=True):
    """The base-check servers to query, and how."""

    ipv: IpVersion
    rules: TargetRules
    servers: tuple[Target | HostName, ...] = ()
    """Each server has one vote. A name is resolved for every check."""
    refused: tuple[str, ...] = ()
    """Entries that cannot be queried, each with the reason."""
    samples: int = 1


class Checked(msgspec.Struct, frozen=True):
    """The outcome of a check."""

    verdict: ClockVerdict
    results: list[tuple[str, Result]]
    """The result of each server, by its configured name."""
    refused: tuple[str, ...]
    """Servers that could not be queried, each with the reason."""
    answered_at: int | None
    """Send time of the latest first request that was answered, in Unix nanoseconds; ``None`` if none was.

    Only first requests count, since an answer to a later one does not prove that the network worked before.
    """


class _Voice(msgspec.Struct, frozen=True):
    """One server, and the addresses at which to query it."""

    name: str
    targets: tuple[Target, ...]


def base_checks(entries: Sequence[str], samples: int, rules: TargetRules, ipv: IpVersion) -> BaseChecks:
    """Parse the configured ``entries``; duplicates have only one vote."""
    servers: dict[Target | HostName, None] = {}
    refused: list[str] = []
    for entry in list(dict.fromkeys(entries))[:MAX_BASE_CHECKS]:
        try:
            servers[rules.parse_or_name(entry, ipv)] = None
        except TargetRefused as error:
            refused.append(str(error))
    return BaseChecks(ipv, rules, tuple(servers), tuple(refused), samples)


async def check_clock(checks: BaseChecks, source: Source, counters: AgentCounters, resolver: Resolver) -> Checked:
    """Query all base-check servers concurrently."""
    voices, refused = await _find(checks, resolver)
    firsts: list[Sample] = []
    unsent: list[str | None] = []

    async def ask(voice: _Voice) -> tuple[str, Result]:
        series = await asyncio.gather(*(probe(target, source, checks.samples) for target in voice.targets))
        for samples in series:
            counters.count_samples(samples)
            firsts.append(samples[0])
        if all(best(samples).ours for samples in series):
            unsent.append(best(series[0]).error)
        # Of several addresses, the first that works has the vote, whatever time it reports.
        target, samples = min(zip(voice.targets, series, strict=True), key=lambda asked: _trouble(asked[1]))
        label = str(target) if voice.name == str(target) else f"{voice.name} ({target.ip})"
        return label, to_result(0, target.ip, samples)

    results = await asyncio.gather(*map(ask, voices))
    answered_at = [sample.sent_at for sample in firsts if sample.reply is not None]
    verdict = judge_clock(results, refused)
    if results and len(unsent) == len(results):
        verdict = cannot_send(checks.ipv, unsent[0])
    return Checked(verdict, results, refused, max(answered_at, default=None))


async def _find(checks: BaseChecks, resolver: Resolver) -> tuple[list[_Voice], tuple[str, ...]]:
    """Resolve the servers to query; return them and the reasons why others cannot be queried."""

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
    """Return the addresses that may be probed, and the reason why the last other one may not."""
    targets: list[Target] = []
    wrong = "has no address"
    for ip in addresses:
        try:
            targets.append(checks.rules.check(ip, server.port, checks.ipv))
        except TargetRefused as error:
            wrong = str(error)
    return targets, wrong


def _trouble(samples: Sequence[Sample]) -> int:
    """Rate a server's answers: 0 is a proper answer, 1 one with an error, 2 none."""
    chosen = best(samples)
    return 2 if chosen.reply is None else int(chosen.error is not None)

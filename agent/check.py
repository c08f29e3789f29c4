"""Implement the ``check`` command, which measures servers by address or host name and reports the results."""

import asyncio
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from agent.ntp.measurement import Sample, to_result
from agent.ntp.probe import Source, probe
from agent.ntp.targets import FAMILY_OF, Target, TargetRefused, TargetRules
from agent.wording import check_line
from schema.names import IpVersion

MOST_ADDRESSES: Final = 16
"""Maximum number of addresses of one name that are measured."""

_FAMILIES: Final = {socket.AF_INET: FAMILY_OF[4], socket.AF_INET6: FAMILY_OF[6]}


@dataclass(frozen=True, slots=True)
class Checked:
    """One address of a requested server with its samples, or the reason why it was not measured."""

    asked: str
    """The argument as given: an address or a host name."""
    target: Target | None = None
    samples: Sequence[Sample] = ()
    problem: str | None = None
    by_name: bool = True
    """The argument was a host name."""

    @property
    def good(self) -> bool:
        """Return whether at least one sample is an answer without error."""
        return any(sample.reply is not None and sample.error is None for sample in self.samples)

    def line(self) -> str:
        """Describe the result in words."""
        if self.target is None:
            return f"{self.asked}: {self.problem}"
        told = check_line(self.target, self.samples)
        return f"{self.asked} {told}" if self.by_name else told

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON-compatible data: as published to the pool, plus the argument."""
        found: dict[str, Any] = {"asked": self.asked, "good": self.good}
        if self.target is None:
            return found | {"error": self.problem}
        result: dict[str, Any] = msgspec.to_builtins(to_result(0, self.target.ip, self.samples))
        del result["server_id"]
        return found | {"port": self.target.port} | result


@dataclass(frozen=True, slots=True)
class _Planned:
    """An address to measure, or the reason why there is none."""

    asked: str
    target: Target | None = None
    problem: str | None = None
    by_name: bool = True


def check_arguments(asked: Iterable[str], rules: TargetRules) -> None:
    """Refuse invalid arguments before any server is probed.

    Raises:
        TargetRefused: an argument is not allowed as a target, or is neither an address nor a host name.
    """
    for text in asked:
        rules.parse_or_name(text)


async def check(
    asked: Sequence[str],
    rules: TargetRules,
    protocols: Iterable[IpVersion],
    samples: int,
    done: Callable[[Checked], None] = lambda checked: None,
) -> list[Checked]:
    """Measure all addresses of the given servers concurrently; pass each result to ``done`` as soon as it is available.

    Args:
        asked: addresses and host names that :func:`check_arguments` accepts.
        rules: the addresses that may be probed; other addresses of a name are reported as a problem.
        protocols: protocols for which names are resolved.
        samples: number of samples per address.
        done: called with each result.
    """
    wanted = frozenset(protocols)

    async def one(plan: _Planned) -> Checked:
        taken = await probe(plan.target, Source(None), samples) if plan.target else []
        checked = Checked(plan.asked, plan.target, taken, plan.problem, plan.by_name)
        done(checked)
        return checked

    async def all_of(text: str) -> list[Checked]:
        return await asyncio.gather(*map(one, await _plan(text, rules, wanted)))

    return [checked for group in await asyncio.gather(*map(all_of, asked)) for checked in group]


async def _plan(text: str, rules: TargetRules, protocols: frozenset[IpVersion]) -> list[_Planned]:
    server = rules.parse_or_name(text)
    if isinstance(server, Target):
        return [_Planned(text, server, by_name=False)]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(server.host, server.port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return [_Planned(text, problem=f"cannot be resolved: {reason}")]
    addresses = [str(address[0]) for family, _, _, _, address in found if _FAMILIES.get(family) in protocols]
    if not addresses:
        return [_Planned(text, problem=f"has no address of IP{' or IP'.join(sorted(protocols))}")]
    return [_allowed(text, ip, server.port, rules) for ip in dict.fromkeys(addresses[:MOST_ADDRESSES])]


def _allowed(text: str, ip: str, port: int, rules: TargetRules) -> _Planned:
    try:
        return _Planned(text, rules.check(ip, port))
    except TargetRefused as error:
        return _Planned(text, problem=str(error))

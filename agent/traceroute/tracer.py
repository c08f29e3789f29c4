"""Trace the route to an address by one method after the other, until the address has answered."""

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec

from agent.ntp.targets import Target
from agent.traceroute.gate import PROGRAM, find_program
from agent.traceroute.parse import NotARoute, parse_route
from agent.traceroute.process import MAX_OUTPUT, Output, run
from agent.traceroute.programs import FREEBSD_V6, Kind, Method, arguments, kind_of
from schema.messages import Trace

WITHIN: Final = 18.0
"""Seconds for all methods together."""

EACH_WITHIN: Final = 8.0
"""Time limit of one method in seconds, enough for a route without any answers (packets are sent in parallel)."""

_LEAST: Final = 2.0
"""Seconds with which no further method begins."""

_KNOWN: Final = "those of Linux distributions, FreeBSD, GNU inetutils and BusyBox"

_VERSION_WITHIN: Final = 2.0

_NO_RIGHTS: Final = ("not have enough privileges", "Operation not permitted", "Permission denied", "must be root")
"""What programs say when they lack the right to open a raw socket."""

_LONGEST: Final = 200
"""Characters of a program's words that are kept."""


class CannotTrace(Exception):
    """This host cannot trace the route; the message says why."""


class Useless(CannotTrace):
    """It lacks the rights for all methods, and will not get them."""


class _Program(msgspec.Struct, frozen=True):
    path: str
    kind: Kind


async def trace(target: Target, source: str | None) -> list[Trace]:
    """Return the route to ``target`` by each method that was needed, at least one.

    Args:
        source: address to send from; ``None`` to leave it to the kernel.

    Raises:
        CannotTrace: there is no route by any method.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + WITHIN
    program = await _find(target)
    found: list[Trace] = []
    failed: dict[Method, str] = {}
    for method in program.kind.methods:
        left = deadline - loop.time()
        if left < _LEAST:
            break
        given = arguments(program.kind, method, target.ip, source)
        try:
            within = min(EACH_WITHIN, left)
            found.append(_trace(method, await run(program.path, given, within), target, within))
        except (OSError, NotARoute, CannotTrace) as error:
            failed[method] = str(error)
        if found and found[-1].reached:
            break
    if not found:
        raise _why_none(program, failed)
    return found


async def _find(target: Target) -> _Program:
    """Find the program for an address, and recognise it.

    Raises:
        CannotTrace: there is none, or it is unknown.
    """
    path = find_program(PROGRAM)
    if path is None:
        raise CannotTrace(f"this host has no program {PROGRAM}")
    try:
        output = await run(path, ["--version"], _VERSION_WITHIN)
    except OSError as error:
        raise CannotTrace(f"{path} cannot be started: {error.strerror}") from None
    kind = kind_of(output.out + output.error)
    if kind is None:
        raise CannotTrace(f"{path} is an unknown program; {_KNOWN} are known")
    if target.ipv == "v6" and kind.other_for_v6 is not None:
        path, kind = find_program(kind.other_for_v6), FREEBSD_V6
        if path is None:
            raise CannotTrace("this host has no program for IPv6")
    if target.ipv not in kind.protocols:
        raise CannotTrace(f"{path} knows no IP{target.ipv}")
    return _Program(path, kind)


def _trace(method: Method, output: Output, target: Target, within: float) -> Trace:
    """Return what a program has found within so many seconds.

    Raises:
        NotARoute: it wrote something else.
        CannotTrace: it found nothing.
    """
    if output.too_much:
        raise NotARoute(f"wrote more than {MAX_OUTPUT} bytes")
    route = parse_route(output.out, target.ip, complete=output.ended)
    if not route.tried:
        raise CannotTrace(_words(output, within))
    error = None if output.ended else f"stopped after {within:.0f} s"
    return Trace(method=method, hops=route.hops, tried=route.tried, reached=route.reached, error=error)


def _words(output: Output, within: float) -> str:
    """Return why a program found nothing."""
    if any(sign in output.error for sign in _NO_RIGHTS):
        return _NOT_PERMITTED
    if not output.ended:
        return f"found nothing within {within:.0f} s"
    said = output.error.strip().partition("\n")[0]
    return said[:_LONGEST] or "found nothing"


_NOT_PERMITTED: Final = "not permitted"


def _why_none(program: _Program, failed: Mapping[Method, str]) -> CannotTrace:
    if set(failed.values()) == {_NOT_PERMITTED}:
        return Useless(f"{program.path} lacks the rights of root; the package traceroute of Linux needs none")
    return CannotTrace("; ".join(f"{method}: {why}" for method, why in failed.items()))

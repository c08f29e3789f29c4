"""Summarize a demo and judge it: a pure function from the ledger's contents to one JSON object.

A run is good if nothing was lost or counted twice, no process died or hung, nothing is outstanding, and every server
that may be measured has results and a score.
"""

import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from testbed.checker.replay import Replay
from testbed.demo.accounting import Account
from testbed.demo.findings import Findings
from testbed.demo.ledger import ServerState, State
from testbed.process import Death
from testbed.world import Server, World

_NAMED: Final = 3
"""Maximum number of servers named in one problem."""


class ServerSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A server: its actual behaviour, and the system's view of it. Offsets are in seconds."""

    server: str
    what: str
    true_offset: float | None
    """None: unknown, or the server never answers."""
    median_offset: float | None
    """None: the server never sent a time."""
    score: float | None
    handed_out: bool
    why_not: str | None
    """The reason, in words; None if it is handed out."""
    active: int
    testing: int
    may_serve: int
    """Number of monitors of other accounts and networks."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The demo's last line of output."""

    good: bool
    seconds: float
    committed: int
    """Results in the ledger."""
    lost: int
    duplicated: int
    rejected: int
    waiting: int
    """Batches still in a spool at the end."""
    wrong_scores: int
    """Scores that do not follow from their results."""
    assignment_changes: int
    died: list[str]
    """Processes that ended unexpectedly."""
    problems: list[str]
    servers: list[ServerSummary]


@dataclass(frozen=True, slots=True)
class End:
    """The end of the demo, apart from the ledger's contents."""

    seconds: float
    deaths: Sequence[Death]
    hung: Collection[str]
    """Processes that did not end in order."""
    rested: bool | None
    """Whether all results reached the ledger and were scored in time; None: a process died before."""


def summarize(world: World, state: State, replay: Replay, account: Account, findings: Findings, end: End) -> Summary:
    """Combine everything in one object."""
    servers = server_summaries(world, state, medians(replay), findings)
    problems = [*account.reasons, *_of_processes(end)]
    problems += _of_the_rest(account, end.rested)
    problems += _of_servers(world, state, replay)
    return Summary(
        good=not problems,
        seconds=round(end.seconds, 1),
        committed=account.committed,
        lost=account.lost,
        duplicated=account.duplicated,
        rejected=account.rejected,
        waiting=account.waiting,
        wrong_scores=account.unscored,
        assignment_changes=state.changes,
        died=[death.name for death in end.deaths],
        problems=problems,
        servers=servers,
    )


def _of_processes(end: End) -> Iterator[str]:
    yield from (f"{death.name} {death.how}" for death in end.deaths)
    yield from (f"{name} did not end in order and was killed" for name in end.hung)


def _of_the_rest(account: Account, rested: bool | None) -> Iterator[str]:
    if account.waiting:
        yield f"{account.waiting} batches are still in the agents' spools"
    if rested is False:
        yield "some results did not reach the ledger, or were not scored, in time"


def _of_servers(world: World, state: State, replay: Replay) -> Iterator[str]:
    """Yield the servers that may be measured, but lack results, a score or a time."""
    ids = {server.ip: server.id for server in state.servers}
    measurable = [server.ip for server in world.servers if world.may_serve(server)]
    unmeasured = [ip for ip in measurable if ids[ip] not in replay.servers]
    scored = {server.ip for server in state.servers if server.score is not None}
    unscored = [ip for ip in measurable if ip not in scored]
    giving = {server.ip for server in world.servers if server.gives_time}
    mute = [ip for ip in measurable if ip in giving and ip not in unmeasured and not replay.offsets.get(ids[ip])]
    for lacking, what in ((unmeasured, "results"), (unscored, "score"), (mute, "time, although the server sends it")):
        if lacking:
            yield f"no {what}: {_some(lacking)} ({len(lacking)} of {len(measurable)} servers)"


def _some(names: Sequence[str]) -> str:
    """Join the first few names, and count the others."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def medians(replay: Replay) -> dict[int, float]:
    """Return the median offset, in seconds, of each server that sent its time at least once."""
    return {server_id: statistics.median(offsets) for server_id, offsets in replay.offsets.items()}


def server_summaries(
    world: World, state: State, measured: Mapping[int, float], findings: Findings
) -> list[ServerSummary]:
    """Summarize the servers in the order of the world."""
    states = {server.ip: server for server in state.servers}
    return [_summary(world, server, states[server.ip], measured, findings) for server in world.servers]


def _summary(
    world: World, server: Server, state: ServerState, measured: Mapping[int, float], findings: Findings
) -> ServerSummary:
    may_serve = world.may_serve(server)
    why_not = findings.against(state.id, state.score, may_serve)
    return ServerSummary(
        server=f"{server.ip}:{server.port}",
        what=server.what,
        true_offset=server.true_offset,
        median_offset=_rounded(measured.get(state.id), 7),
        score=_rounded(state.score, 3),
        handed_out=why_not is None,
        why_not=why_not,
        active=state.active,
        testing=state.testing,
        may_serve=may_serve,
    )


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)

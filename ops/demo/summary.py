"""The end of a demo in figures: a pure function from what the ledger holds to one JSON object."""

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from ops.checker.replay import Replay
from ops.demo.accounting import Account
from ops.demo.ledger import State
from ops.demo.process import Death
from ops.demo.world import World


class ServerSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A server: what is true of it, and what the system made of it. Offsets are seconds."""

    server: str
    what: str
    true_offset: float | None
    """None: nobody knows, or it never answers."""
    median_offset: float | None
    """None: it never gave one."""
    score: float | None
    active: int
    testing: int
    may_serve: int
    """Monitors that are neither of its account nor in its network."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The last line of the demo."""

    good: bool
    seconds: float
    committed: int
    """Results in the ledger."""
    lost: int
    duplicated: int
    rejected: int
    waiting: int
    """Batches that were still in a spool at the end: late, not lost."""
    wrong_scores: int
    """Scores that do not follow from their results."""
    assignment_changes: int
    died: list[str]
    """Processes that ended although nobody asked them to."""
    problems: list[str]
    servers: list[ServerSummary]


@dataclass(frozen=True, slots=True)
class End:
    """How the demo ended, besides what the ledger says."""

    seconds: float
    deaths: Sequence[Death]
    hung: Collection[str]
    """Processes that did not end when asked."""


def summarize(world: World, state: State, replay: Replay, account: Account, end: End) -> Summary:
    """All of it in one object."""
    problems = [*account.reasons, *(f"{death.name} {death.how}" for death in end.deaths)]
    problems += [f"{name} did not end when asked to" for name in end.hung]
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
        servers=server_summaries(world, state, medians(replay)),
    )


def medians(replay: Replay) -> dict[int, float]:
    """The median offset of each server that ever gave one, in seconds."""
    return {server_id: statistics.median(offsets) for server_id, offsets in replay.offsets.items()}


def server_summaries(world: World, state: State, measured: Mapping[int, float]) -> list[ServerSummary]:
    """The servers in the order of the world."""
    states = {server.ip: server for server in state.servers}
    return [
        ServerSummary(
            server=f"{server.ip}:{server.port}",
            what=server.what,
            true_offset=server.true_offset,
            median_offset=_rounded(measured.get(states[server.ip].id), 7),
            score=_rounded(states[server.ip].score, 3),
            active=states[server.ip].active,
            testing=states[server.ip].testing,
            may_serve=world.may_serve(server),
        )
        for server in world.servers
    ]


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)

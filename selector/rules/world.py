"""Define the world of a review, the only input of every rule, which includes the decisions so far.

A rule receives a `World` and returns one. Active monitors, free places and the remaining limits are all derived from
the statuses and changes; there are no counters that a rule could fail to update.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

import msgspec

from selector.rules.constraints import Placed
from selector.rules.model import (
    Change,
    GlobalStatus,
    Health,
    Monitor,
    PairRecord,
    PairStatus,
    Server,
    Settings,
    Skipped,
    State,
    Violation,
    ViolationType,
)

LEAVE_AT_ONCE = "rule 1: leave at once"
"""Removals by this rule are not limited and do not count towards limits."""

_RANK = {PairStatus.PAUSED: 0, PairStatus.CANDIDATE: 1, PairStatus.TESTING: 2, PairStatus.ACTIVE: 3}


class Entry(msgspec.Struct, frozen=True):
    """A monitor as assessed before the first rule; `status` is its pair's at that time."""

    id: int
    monitor: Monitor
    status: PairStatus
    health: Health
    priority: int | None
    violation: ViolationType | None
    state: State

    @property
    def healthy(self) -> bool:
        return self.health is Health.HEALTHY

    @property
    def globally_active(self) -> bool:
        return self.monitor.global_status is GlobalStatus.ACTIVE


@dataclass(frozen=True)
class World:
    """The server's monitors after the decisions so far.

    `entries` are best first (the order of `selector.rules.ranking`), and so is every list below. `held` are the skipped
    monitors, which keep their places. `emergency`: no monitor is active after the immediate removals.
    """

    server: Server
    settings: Settings
    now: datetime
    entries: tuple[Entry, ...]
    held: tuple[Skipped, ...]
    emergency: bool
    statuses: Mapping[int, PairStatus]
    changes: tuple[Change, ...] = ()

    def move(self, entry: Entry, to: PairStatus, rule: str, reason: str) -> "World":
        """Return the world after one more decision. A monitor is moved at most once per review (ValueError)."""
        if self.moved(entry):
            raise ValueError(f"monitor {entry.id} was already moved in this review; {rule} must not move it again")
        return World(
            self.server,
            self.settings,
            self.now,
            self.entries,
            self.held,
            self.emergency,
            {**self.statuses, entry.id: to},
            (*self.changes, Change(entry.id, entry.status, to, rule, reason)),
        )

    def moved(self, entry: Entry) -> bool:
        """Return whether this review has already moved the monitor."""
        return self.statuses[entry.id] is not entry.status

    @cached_property
    def active(self) -> list[Entry]:
        return self._in(PairStatus.ACTIVE)

    @cached_property
    def testing(self) -> list[Entry]:
        return self._in(PairStatus.TESTING)

    @cached_property
    def candidates(self) -> list[Entry]:
        return self._in(PairStatus.CANDIDATE)

    @cached_property
    def paused(self) -> list[Entry]:
        return self._in(PairStatus.PAUSED)

    @cached_property
    def placed(self) -> list[Placed]:
        """Return the monitors that hold a place, and their places, for the constraints."""
        active = [(entry.monitor, PairStatus.ACTIVE) for entry in self.active]
        return active + [(entry.monitor, PairStatus.TESTING) for entry in self.testing]

    @cached_property
    def active_count(self) -> int:
        """Return the number of active monitors, including skipped ones."""
        return len(self.active) + self._held(PairStatus.ACTIVE)

    @cached_property
    def testing_count(self) -> int:
        """Return the number of testing monitors, including skipped ones."""
        return len(self.testing) + self._held(PairStatus.TESTING)

    @property
    def testing_target(self) -> int:
        """Return the target for testing, to which every free active place adds one."""
        return self.settings.target_testing + max(0, self.settings.target_active - self.active_count)

    @cached_property
    def limit(self) -> int:
        """Return the maximum of active removals, testing removals and promotions in this review, each."""
        if self.emergency:
            return self.settings.limit_no_active
        blocked = [
            entry
            for entry in self.entries
            if entry.state is State.BLOCK and entry.status in (PairStatus.ACTIVE, PairStatus.TESTING)
        ]
        return self.settings.limit_blocked if len(blocked) > 1 else self.settings.limit

    @property
    def active_removals_left(self) -> int:
        return self.limit - self._removed_from(PairStatus.ACTIVE)

    @property
    def testing_removals_left(self) -> int:
        return self.limit - self._removed_from(PairStatus.TESTING)

    @property
    def promotions_left(self) -> int:
        return self.limit - sum(is_promotion(change) for change in self.changes)

    def _removed_from(self, status: PairStatus) -> int:
        return sum(
            change.from_status is status and _RANK[change.to_status] < _RANK[status] and change.rule != LEAVE_AT_ONCE
            for change in self.changes
        )

    def _in(self, status: PairStatus) -> list[Entry]:
        statuses = self.statuses
        return [entry for entry in self.entries if statuses[entry.id] is status]

    def _held(self, status: PairStatus) -> int:
        return sum(held.pair_status is status for held in self.held)


def is_promotion(change: Change) -> bool:
    """Return whether the change leads to a better place; a paused pair that is freed gets none."""
    return change.to_status in (PairStatus.TESTING, PairStatus.ACTIVE) and (
        _RANK[change.to_status] > _RANK[change.from_status]
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the review.

    `apply` decides. `stays` receives the world after the rule, and returns this rule's reason why an unmoved monitor
    stays (None if the rule does not concern the monitor).
    """

    name: str
    about: str
    apply: Callable[[World], World]
    stays: Callable[[World, Entry], str | None]


@dataclass(frozen=True, slots=True)
class Step:
    """The application of one rule: the world after it, and its changes."""

    rule: Rule
    after: World = field(repr=False)
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Review:
    """The result of a review.

    `changes` are in the order of the decisions, at most one per monitor. `violations` are those found before the
    changes, for the metrics; `records` are the rows to write, with the violations that remain after the changes.
    `skipped` are the skipped monitors; `steps` is the trace from which `selector.rules.explain` derives its text.
    """

    changes: tuple[Change, ...]
    violations: Mapping[int, Violation]
    records: tuple[PairRecord, ...]
    skipped: tuple[Skipped, ...]
    steps: tuple[Step, ...] = field(repr=False)
    world: World = field(repr=False)

    @property
    def changed(self) -> bool:
        """Return whether a pair changes its status, which determines when the next review is due."""
        return bool(self.changes)

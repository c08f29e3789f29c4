"""The values of a selection: what a review is told and what it decides.

The rules are pure. Whatever they may look at stands in the frozen values of this module, and whatever they
decide comes back in a `Review`; the database, the broker and the clock stay with the worker. Raw rows become
these values in `selector.rows`, which is where a broken row is recognised.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec


class PairStatus(StrEnum):
    """What a monitor is to a server. Only testing and active take a place there."""

    CANDIDATE = "candidate"
    TESTING = "testing"
    ACTIVE = "active"
    PAUSED = "paused"


class GlobalStatus(StrEnum):
    """What a monitor is to the pool, for all servers alike."""

    PENDING = "pending"
    TESTING = "testing"
    ACTIVE = "active"
    PAUSED = "paused"
    DELETED = "deleted"


class ViolationType(StrEnum):
    """Constraints, most fundamental first; a pair is stored with the first one it violates."""

    NETWORK_SAME_SUBNET = "network_same_subnet"
    ACCOUNT = "account"
    LIMIT = "limit"
    NETWORK_DIVERSITY = "network_diversity"

    @property
    def unchangeable(self) -> bool:
        """True for what no other assignment can cure: the monitor stands too close to the server itself."""
        return self is ViolationType.NETWORK_SAME_SUBNET or self is ViolationType.ACCOUNT


class Health(StrEnum):
    """What 24 h of measurements say. UNKNOWN is neither healthy (not promoted) nor bad (not removed)."""

    HEALTHY = "healthy"
    UNKNOWN = "unknown"
    UNHEALTHY = "unhealthy"


class State(StrEnum):
    """What the selector wants of a monitor at this server."""

    BLOCK = "block"  # leave at once
    OUT = "out"  # leave gradually, never be promoted
    PENDING = "pending"  # stay in testing: globally testing monitors do not become active
    IN = "in"  # welcome


PAUSE_CONSTRAINT = "constraint"
"""`pause_reason` of a pair paused for an unchangeable violation. Others, as older selectors left them, are like it."""


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address with the two networks that the constraints compare; made by `selector.rows.parse_address`.

    IPv4-mapped IPv6 addresses are IPv4 here. The networks are (IP version, leading bits) and compare as equal
    exactly when the networks are the same.
    """

    text: str
    subnet: tuple[int, int]  # /24 or /48
    region: tuple[int, int]  # /20 or /44


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The server under review."""

    id: int
    address: Address
    account_id: int | None = None


class Monitor(msgspec.Struct, frozen=True, kw_only=True):
    """A monitor and its pair with the server under review.

    `address` is None only for a paused or deleted monitor whose row is broken: it has to leave whatever its
    address is. `limit` is its account's `monitors_per_server_limit`. `pair_status` None means that there is no
    pair yet, and the review leaves the monitor alone. `count`, `avg_step` and `avg_rtt_ms` describe the results
    of the last 24 h; an average is None when there was nothing to take it from. `gone`: the last will was sent, or no
    status was seen, for 15 minutes. `last_move`: when the pair last went
    from candidate to testing or back, as far as the ledger remembers.
    """

    id: int
    name: str
    address: Address | None
    account_id: int | None
    limit: int
    global_status: GlobalStatus
    pair_status: PairStatus | None
    count: int = 0
    avg_step: float | None = None
    avg_rtt_ms: float | None = None
    gone: bool = False
    violation_type: str | None = None
    violation_since: datetime | None = None
    last_constraint_check: datetime | None = None
    pause_reason: str | None = None
    last_move: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A monitor whose row is broken, and why. It is not judged, but it keeps the place it holds."""

    id: int
    name: str
    pair_status: PairStatus | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every number the rules use. The targets come from `system_settings`, the rest are fixed.

    Raises ValueError from `__post_init__` for a target that makes no sense.
    """

    target_active: int = 7
    target_testing: int = 5
    floor_below_target: int = 2
    """So far below a target bad performance still makes monitors leave; below that only violations do."""
    limit: int = 2
    """Active removals, testing removals and promotions per review, each."""
    limit_blocked: int = 3
    """The same when more than one monitor was blocked."""
    limit_no_active: int = 4
    """The same when no monitor is active."""
    results_for_active: int = 24
    results_for_testing: int = 9
    results_for_active_in_emergency: int = 9
    testing_promotions: int = 2
    """Candidates that may enter testing per review, if the limit leaves as many."""
    swap_percent: int = 5
    swap_points: int = 5
    reserved_for_globally_active: int = 4
    """Places of testing that belong to globally active monitors while active places are free."""
    time_to_gather: timedelta = timedelta(hours=24)
    """For which a reserved place is kept for one that has not the results of an active monitor yet."""
    next_try: timedelta = timedelta(days=7)
    """After which one that gave such a place up may have another."""
    rescued_when_no_testing: int = 5
    freed_per_review: int = 2
    recheck_constraint: timedelta = timedelta(hours=8)

    def __post_init__(self) -> None:
        for name in ("target_active", "target_testing"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"selector setting {name} is {value!r}; it has to be a whole number of at least 1")


@dataclass(frozen=True, slots=True)
class Change:
    """One decided move. `rule` is a stable identifier (`rule 3: promote to active`), `reason` adds the facts."""

    monitor_id: int
    from_status: PairStatus
    to_status: PairStatus
    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Violation:
    """A violated constraint and when this pair was first seen to violate it."""

    type: ViolationType
    since: datetime


@dataclass(frozen=True, slots=True)
class PairRecord:
    """What the ledger has to hold for a pair after the review; only pairs that need a write have one."""

    monitor_id: int
    status: PairStatus
    violation_type: str | None
    violation_since: datetime | None
    last_constraint_check: datetime | None
    pause_reason: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the review decided for one monitor, and why, in words. `rule` is None if no rule moved it."""

    monitor_id: int
    before: PairStatus | None
    after: PairStatus | None
    rule: str | None
    reason: str

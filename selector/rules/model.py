"""Define the values of a selection: the input of a review and its decisions.

The rules are pure. Their input consists of the frozen values of this module, and their output is a `Review`; only the
worker uses the database, the broker and the clock. `selector.rows` converts raw rows into these values and detects
invalid rows.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from schema.health import HealthLabel


class PairStatus(StrEnum):
    """Status of a monitor at one server. Only testing and active monitors hold a place."""

    CANDIDATE = "candidate"
    TESTING = "testing"
    ACTIVE = "active"
    PAUSED = "paused"


class GlobalStatus(StrEnum):
    """Status of a monitor in the pool, for all servers."""

    PENDING = "pending"
    TESTING = "testing"
    ACTIVE = "active"
    PAUSED = "paused"
    DELETED = "deleted"


class ViolationType(StrEnum):
    """Constraints, most fundamental first; the first one that a pair violates is stored."""

    NETWORK_SAME_SUBNET = "network_same_subnet"
    ACCOUNT = "account"
    LIMIT = "limit"
    NETWORK_DIVERSITY = "network_diversity"

    @property
    def unchangeable(self) -> bool:
        """Return whether no other assignment can resolve it, since the monitor is too close to the server itself."""
        return self is ViolationType.NETWORK_SAME_SUBNET or self is ViolationType.ACCOUNT


class Health(StrEnum):
    """Assessment from 24 h of measurements. UNKNOWN is neither healthy (not promoted) nor unhealthy (not removed)."""

    HEALTHY = "healthy"
    UNKNOWN = "unknown"
    UNHEALTHY = "unhealthy"


class State(StrEnum):
    """Target of the selector for a monitor at this server."""

    BLOCK = "block"  # leave at once
    OUT = "out"  # leave gradually, never be promoted
    PENDING = "pending"  # stay in testing: globally testing monitors do not become active
    IN = "in"  # may hold a place


PAUSE_CONSTRAINT = "constraint"
"""`pause_reason` of a pair paused for an unchangeable violation. Other values, of older selectors, mean the same."""


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address with the two networks that the constraints compare; built by `selector.rows.parse_address`.

    IPv4-mapped IPv6 addresses count as IPv4. A network is (IP version, leading bits); equal values mean equal networks.
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

    `address` is None only for a paused or deleted monitor with an invalid row: it has to leave regardless of its
    address. `limit` is its account's `monitors_per_server_limit`. If `pair_status` is None, there is no pair yet, and
    the review ignores the monitor. `count`, `avg_step` and `avg_rtt_ms` describe the results of the last 24 h; an
    average is None if there were none. `gone`: for 15 minutes, the monitor has been offline by its last will, or has
    published no status. `last_move`: the last time at which the pair went from candidate to testing or back, if the
    ledger has it. `labels`: its health over all servers, if the settings prefer healthy monitors.
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
    labels: tuple[HealthLabel, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A monitor with an invalid row, and the reason. The review does not assess it, but it keeps its place."""

    id: int
    name: str
    pair_status: PairStatus | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The constants of the rules. The targets and the preference come from `system_settings`, the others are fixed.

    Raises:
        ValueError: from `__post_init__`, for an invalid target.
    """

    target_active: int = 7
    target_testing: int = 5
    prefer_healthy: bool = False
    """Whether labels of health decide between monitors of which none beats the other."""
    floor_below_target: int = 2
    """Distance below a target down to which poor performance removes monitors; below that only violations do."""
    limit: int = 2
    """Maximum active removals, testing removals and promotions per review, each."""
    limit_blocked: int = 3
    """The limit if more than one monitor is blocked."""
    limit_no_active: int = 4
    """The limit if no monitor is active."""
    results_for_active: int = 24
    results_for_testing: int = 9
    results_for_active_in_emergency: int = 9
    testing_promotions: int = 2
    """Maximum candidates that enter testing per review, within the limit."""
    swap_percent: int = 5
    swap_points: int = 5
    reserved_for_globally_active: int = 4
    """Minimum testing places for globally active monitors while active places are free."""
    time_to_gather: timedelta = timedelta(hours=24)
    """Time for which a monitor may hold a reserved place without enough results for active."""
    next_try: timedelta = timedelta(days=7)
    """Time after which a monitor that gave up such a place may hold another."""
    rescued_when_no_testing: int = 5
    freed_per_review: int = 2
    recheck_constraint: timedelta = timedelta(hours=8)

    def __post_init__(self) -> None:
        for name in ("target_active", "target_testing"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"selector setting {name} is {value!r}; it must be a whole number of at least 1")


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a pair's status. `rule` is a stable identifier (`rule 3: promote to active`), `reason` adds facts."""

    monitor_id: int
    from_status: PairStatus
    to_status: PairStatus
    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Violation:
    """A violated constraint and the time at which the violation by this pair was first found."""

    type: ViolationType
    since: datetime


@dataclass(frozen=True, slots=True)
class PairRecord:
    """The values to write for a pair after the review; only pairs that need a write have a record."""

    monitor_id: int
    status: PairStatus
    violation_type: str | None
    violation_since: datetime | None
    last_constraint_check: datetime | None
    pause_reason: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision on one monitor, and the reason as text. `rule` is None if no rule moved it."""

    monitor_id: int
    before: PairStatus | None
    after: PairStatus | None
    rule: str | None
    reason: str

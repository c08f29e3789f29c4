"""What the selector wants of a monitor, from its global status, its violation and its health."""

from selector.rules.model import GlobalStatus, Health, PairStatus, State, ViolationType

BLOCKED = frozenset({GlobalStatus.PAUSED, GlobalStatus.DELETED})


def out_on_its_own(global_status: GlobalStatus, health: Health) -> bool:
    """Whether the monitor is to leave whatever the constraints say."""
    return global_status is GlobalStatus.PENDING or health is Health.UNHEALTHY


def determine_state(
    global_status: GlobalStatus,
    pair_status: PairStatus,
    health: Health,
    violation: ViolationType | None,
    emergency: bool,
) -> State:
    """The first that applies decides: blocked, out, pending, in.

    In an emergency (no active monitor at all) `limit` and `network_diversity` are seen but push nobody out: else the
    clean-up would undo the rescue for ever.
    """
    if global_status in BLOCKED:
        return State.BLOCK
    if out_on_its_own(global_status, health):
        return State.OUT
    if violation is not None and (violation.unchangeable or not emergency):
        return State.OUT
    if pair_status is PairStatus.TESTING and global_status is GlobalStatus.TESTING:
        return State.PENDING
    return State.IN

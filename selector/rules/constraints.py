"""Who may not measure together, or not this server.

Four constraints. Two lie between monitor and server and cannot be cured by another assignment: the same /24 or /48
(`network_same_subnet`) and the same account (`account`). Two lie between the monitors that hold a place (active or
testing) at the server: an account's `limit` (X active, X + 1 testing, X + 1 together) and `network_diversity` (no two
in the same /20 or /44).

Of two monitors that may not be there together one has to be chosen. `crowding` goes through the places from the most
to the least worth keeping (see `selector.rules.assess.worth_keeping`) and keeps whoever fits with those kept before;
the rest is flagged. So the answer does not depend on the order of rows, those kept violate nothing among themselves,
and when all flagged ones have left, nobody else is flagged: it settles.

A candidate holds no place and so cannot violate the latter two; whether it would is checked when it is to be promoted.
"""

from collections.abc import Iterable, Sequence

from selector.rules.model import Monitor, PairStatus, Server, ViolationType

Placed = tuple[Monitor, PairStatus]
"""A monitor and the place it holds: active or testing."""


def closeness(server: Server, monitor: Monitor) -> ViolationType | None:
    """The unchangeable constraint that this monitor violates at this server, if any."""
    if monitor.address is not None and monitor.address.subnet == server.address.subnet:
        return ViolationType.NETWORK_SAME_SUBNET
    if monitor.account_id is not None and monitor.account_id == server.account_id:
        return ViolationType.ACCOUNT
    return None


def conflict(monitor: Monitor, status: PairStatus, others: Iterable[Placed]) -> ViolationType | None:
    """What ``monitor`` would violate in the place ``status``, beside ``others`` (itself among them is skipped)."""
    account, region = monitor.account_id, monitor.address.region if monitor.address is not None else None
    same_place = together = 1
    diverse = True
    for other, place in others:
        if other.id == monitor.id:
            continue
        if account is not None and other.account_id == account:
            together += 1
            same_place += place is status
        if region is not None and other.address is not None and other.address.region == region:
            diverse = False
    if account is not None and (same_place > _most(monitor.limit, status) or together > monitor.limit + 1):
        return ViolationType.LIMIT
    return None if diverse else ViolationType.NETWORK_DIVERSITY


def entangled(one: Monitor, other: Monitor) -> bool:
    """Whether one may be in the other's way: they share a /20 (/44) or an account."""
    if one.account_id is not None and one.account_id == other.account_id:
        return True
    return one.address is not None and other.address is not None and one.address.region == other.address.region


def crowding(placed: Sequence[Placed]) -> dict[int, ViolationType]:
    """The flagged ones among those that hold a place, given most worth keeping first."""
    kept: list[Placed] = []
    flagged: dict[int, ViolationType] = {}
    for monitor, status in placed:
        violation = conflict(monitor, status, kept)
        if violation is None:
            kept.append((monitor, status))
        else:
            flagged[monitor.id] = violation
    return flagged


def _most(limit: int, status: PairStatus) -> int:
    """How many monitors of one account may hold places of this kind at one server."""
    return limit if status is PairStatus.ACTIVE else limit + 1

"""Find violations of the constraints on which monitors may measure a server, and which may measure it together.

There are four constraints. Two concern a monitor and the server, and no other assignment can resolve them: the same /24
or /48 (`network_same_subnet`) and the same account (`account`). Two concern the monitors that hold a place (active or
testing) at the server: an account's `limit` (X active, X + 1 testing, X + 1 together) and `network_diversity` (no two
in the same /20 or /44).

If two monitors conflict, one of them has to be chosen. `crowding` examines the monitors in the order of
`selector.rules.assess.worth_keeping`, keeps each that does not conflict with those kept before, and flags the others.
The outcome does not depend on the order of rows, and the kept monitors do not conflict with each other. After all
flagged monitors have left, none of the others is flagged, so the assignment settles.

A candidate holds no place and cannot violate the latter two; they are checked when it is considered for promotion.
"""

from collections.abc import Iterable, Sequence

from selector.rules.model import Monitor, PairStatus, Server, ViolationType

Placed = tuple[Monitor, PairStatus]
"""A monitor and its place: active or testing."""


def closeness(server: Server, monitor: Monitor) -> ViolationType | None:
    """Return the unchangeable constraint that this monitor violates at this server, if any."""
    if monitor.address is not None and monitor.address.subnet == server.address.subnet:
        return ViolationType.NETWORK_SAME_SUBNET
    if monitor.account_id is not None and monitor.account_id == server.account_id:
        return ViolationType.ACCOUNT
    return None


def conflict(monitor: Monitor, status: PairStatus, others: Iterable[Placed]) -> ViolationType | None:
    """Return the constraint that ``monitor`` would violate in the place ``status`` with ``others`` present.

    If ``others`` contains the monitor itself, that entry is ignored.
    """
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
    """Return whether the two can conflict: they share a /20 (/44) or an account."""
    if one.account_id is not None and one.account_id == other.account_id:
        return True
    return one.address is not None and other.address is not None and one.address.region == other.address.region


def crowding(placed: Sequence[Placed]) -> dict[int, ViolationType]:
    """Return the violations of the flagged monitors; ``placed`` is in the order of `worth_keeping`."""
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
    """Return how many monitors of one account may hold places of this status at one server."""
    return limit if status is PairStatus.ACTIVE else limit + 1

"""Test each constraint just inside and just outside."""

import pytest

from selector.rows import parse_address
from selector.rules.constraints import closeness, conflict, crowding
from selector.rules.model import Monitor, PairStatus, Server, ViolationType
from testbed.selection.worlds import monitor

ACTIVE, TESTING = PairStatus.ACTIVE, PairStatus.TESTING
SUBNET, ACCOUNT = ViolationType.NETWORK_SAME_SUBNET, ViolationType.ACCOUNT
LIMIT, DIVERSITY = ViolationType.LIMIT, ViolationType.NETWORK_DIVERSITY


@pytest.mark.parametrize(
    ("server", "ip", "violation"),
    [
        ("192.0.2.1", "192.0.2.254", SUBNET),
        ("192.0.2.1", "192.0.2.1", SUBNET),
        ("192.0.2.1", "192.0.3.1", None),
        ("192.0.2.1", "192.0.1.255", None),
        ("2001:db8:1::1", "2001:db8:1:ffff::1", SUBNET),
        ("2001:db8:1::1", "2001:db8:2::1", None),
        ("2001:db8:1::1", "2001:db8:0:ffff::1", None),
        ("192.0.2.1", "::ffff:192.0.2.9", SUBNET),  # an IPv4-mapped address is IPv4
        ("::ffff:192.0.2.1", "192.0.2.9", SUBNET),
        ("192.0.2.1", "::c000:0209", None),
    ],
)
def test_same_subnet_is_a_violation(server: str, ip: str, violation: ViolationType | None) -> None:
    assert closeness(Server(id=1, address=parse_address(server)), monitor(ip=ip)) is violation


@pytest.mark.parametrize(
    ("server", "account", "violation"), [(7, 7, ACCOUNT), (7, 8, None), (None, None, None), (7, None, None)]
)
def test_same_account_is_a_violation(server: int | None, account: int | None, violation: ViolationType | None) -> None:
    there = Server(id=1, address=parse_address("192.0.2.1"), account_id=server)
    assert closeness(there, monitor(account_id=account)) is violation


def test_subnet_violation_takes_precedence_over_the_account() -> None:
    there = Server(id=1, address=parse_address("192.0.2.1"), account_id=7)
    assert closeness(there, monitor(ip="192.0.2.2", account_id=7)) is SUBNET


@pytest.mark.parametrize(
    ("ip", "other", "violation"),
    [
        ("10.1.16.1", "10.1.31.255", DIVERSITY),
        ("10.1.16.1", "10.1.32.1", None),
        ("10.1.16.1", "10.1.15.255", None),
        ("10.1.16.1", "::ffff:10.1.17.1", DIVERSITY),
        ("2001:db8:10::1", "2001:db8:1f:ffff::1", DIVERSITY),
        ("2001:db8:10::1", "2001:db8:20::1", None),
        ("2001:db8:10::1", "2001:db8:f:ffff::1", None),
    ],
)
@pytest.mark.parametrize("places", [(ACTIVE, ACTIVE), (ACTIVE, TESTING), (TESTING, ACTIVE), (TESTING, TESTING)])
def test_neighbours_violate_network_diversity(
    ip: str, other: str, violation: ViolationType | None, places: tuple[PairStatus, PairStatus]
) -> None:
    assert conflict(monitor(1, ip=ip), places[0], [(monitor(2, ip=other), places[1])]) is violation


def test_a_monitor_never_conflicts_with_itself() -> None:
    one = monitor(1, "active", account_id=5, limit=1)
    assert conflict(one, ACTIVE, [(one, ACTIVE)]) is None
    assert conflict(one, TESTING, [(one, ACTIVE)]) is None


def siblings(*places: PairStatus, limit: int = 2) -> list[tuple[Monitor, PairStatus]]:
    """Return monitors 2, 3, … of account 5 in these places."""
    return [(monitor(2 + i, account_id=5, limit=limit), place) for i, place in enumerate(places)]


@pytest.mark.parametrize(
    ("limit", "place", "others", "violation"),
    [
        (2, ACTIVE, (ACTIVE,), None),
        (2, ACTIVE, (ACTIVE, ACTIVE), LIMIT),
        (2, ACTIVE, (ACTIVE, TESTING), None),
        (2, ACTIVE, (ACTIVE, TESTING, TESTING), LIMIT),
        (2, ACTIVE, (TESTING, TESTING), None),
        (2, TESTING, (TESTING, TESTING), None),
        (2, TESTING, (TESTING, TESTING, TESTING), LIMIT),
        (2, TESTING, (ACTIVE, ACTIVE), None),
        (2, TESTING, (ACTIVE, ACTIVE, TESTING), LIMIT),
        (1, ACTIVE, (), None),
        (1, ACTIVE, (ACTIVE,), LIMIT),
        (1, TESTING, (ACTIVE,), None),
        (0, ACTIVE, (), LIMIT),
        (0, TESTING, (), None),
        (0, TESTING, (TESTING,), LIMIT),
    ],
)
def test_account_limit_counts_active_testing_and_both_together(
    limit: int, place: PairStatus, others: tuple[PairStatus, ...], violation: ViolationType | None
) -> None:
    one = monitor(1, account_id=5, limit=limit)
    assert conflict(one, place, siblings(*others, limit=limit)) is violation


def test_monitors_without_an_account_share_no_limit() -> None:
    others = [(monitor(2 + i, account_id=None), ACTIVE) for i in range(5)]
    assert conflict(monitor(1, account_id=None), ACTIVE, others) is None


def test_limit_violation_takes_precedence_over_the_network() -> None:
    others = [(monitor(2 + i, account_id=5, ip="10.1.0.9"), ACTIVE) for i in range(2)]
    assert conflict(monitor(1, account_id=5, ip="10.1.0.8"), ACTIVE, others) is LIMIT


def test_monitors_compatible_with_the_better_ones_are_kept() -> None:
    placed = siblings(ACTIVE, ACTIVE, ACTIVE, TESTING, TESTING)
    # 4 is a third active one, 6 would be a fourth of the account; 5 fits beside 2 and 3.
    assert crowding(placed) == {4: LIMIT, 6: LIMIT}


def test_flagged_monitor_causes_no_other_to_be_flagged() -> None:
    chain = [(monitor(1, ip="10.1.16.1"), ACTIVE), (monitor(2, account_id=1, ip="10.1.17.1", limit=2), ACTIVE)]
    assert crowding(chain) == {2: DIVERSITY}
    # 3 shares its network with no kept monitor, and its account only with 2, which is flagged and will leave.
    assert crowding([*chain, (monitor(3, account_id=1, limit=1), TESTING)]) == {2: DIVERSITY}

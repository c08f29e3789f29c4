"""Test which monitor a key is for, and which monitors may connect."""

import pytest

from api.hosts import Host, MonitorRow, Protocol, choose_host
from schema.messages import MonitorStatus

NAME, OTHER = "nlams1-a.prod.mon.example", "nlams2-a.prod.mon.example"


def test_both_protocols_of_a_name_are_one_host() -> None:
    rows = [MonitorRow(1, NAME, "v4", "8.8.4.4", "testing"), MonitorRow(2, NAME, "v6", None, "deleted")]
    host = choose_host(rows)
    assert host == Host(NAME, {"v4": Protocol("8.8.4.4", "testing"), "v6": Protocol("", "deleted")})


def test_the_name_that_is_not_deleted_counts() -> None:
    rows = [MonitorRow(1, OTHER, "v4", "8.8.4.4", "deleted"), MonitorRow(2, NAME, "v6", "2001:db8::1", "pending")]
    host = choose_host(rows)
    assert host is not None and (host.name, list(host.protocols)) == (NAME, ["v6"])
    assert choose_host([]) is None
    all_gone = choose_host([MonitorRow(1, OTHER, "v4", None, "deleted"), MonitorRow(2, NAME, "v4", None, "deleted")])
    assert all_gone is not None and all_gone.name == OTHER and all_gone.is_deleted


@pytest.mark.parametrize(
    ("statuses", "connects", "deleted"),
    [
        (["pending"], False, False),
        (["deleted", "deleted"], False, True),
        (["deleted", "pending"], False, False),
        (["paused"], True, False),
        (["pending", "testing"], True, False),
        (["deleted", "active"], True, False),
    ],
)
def test_monitors_connect_when_one_protocol_was_approved(
    statuses: list[MonitorStatus], connects: bool, deleted: bool
) -> None:
    host = Host(NAME, {ipv: Protocol("", status) for ipv, status in zip(("v4", "v6"), statuses, strict=False)})  # type: ignore[misc]  # literals
    assert (host.may_connect, host.is_deleted) == (connects, deleted)

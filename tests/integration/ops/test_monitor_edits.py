"""Test new and changed monitors, and the configs of their agents, on every database."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from ops.errors import OperatorError, UsageError
from ops.monitor_edits import add_monitor, monitor_change, parse_protocol, set_defaults, set_monitor, show_defaults
from ops.monitors import change_monitor, find_monitor, list_monitors
from runtime.db.engine import reading, transaction
from schema.messages import ProtocolConfig
from schema.tables import monitors
from selector.config import monitor_configs
from selector.monitors import read_monitors
from testbed.fixtures.world import add_account, monitor_name

NOW = datetime(2026, 11, 23, 12, 0, 0)
NAME = monitor_name("uspao1-x")
T = TypeVar("T")


def write(engine: Engine, work: Callable[[Connection], T]) -> T:
    return transaction(engine, work)


def read(engine: Engine, work: Callable[[Connection], T]) -> T:
    with reading(engine) as connection:
        return work(connection)


def add(engine: Engine, name: str, ip: str, **given: Any) -> str:
    return write(engine, lambda c: add_monitor(c, name, monitor_change("devel", ip=ip, **given), NOW))


def change(engine: Engine, text: str, **given: Any) -> list[str]:
    return write(engine, lambda c: set_monitor(c, text, monitor_change("devel", **given)))


def defaults(engine: Engine, **given: Any) -> list[str]:
    return write(engine, lambda c: set_defaults(c, "v4", monitor_change("devel", **given), NOW))


def told(engine: Engine, name: str = NAME) -> ProtocolConfig:
    """Return the agent's config for IPv4."""
    registry = read(engine, lambda c: read_monitors(c, NOW.replace(tzinfo=UTC)))
    warnings: list[Any] = []
    found = monitor_configs(registry.monitors, registry.defaults, 3, lambda *what: warnings.append(what))
    assert warnings == []
    return found[name].protocols["v4"]


def row_of(engine: Engine, text: str) -> Any:
    found = read(engine, lambda c: find_monitor(c, text))
    return read(engine, lambda c: c.execute(sa.select(monitors).where(monitors.c.id == found.id)).one())


def test_new_monitor_has_a_row_per_protocol_and_is_in_the_agents_config(engine: Engine) -> None:
    account = write(engine, lambda c: add_account(c, "Ticks"))
    said = add(
        engine,
        NAME,
        "192.0.2.7",
        account="Ticks",
        status="testing",
        base_checks=["192.0.2.53", "time.example", "192.0.2.53"],
        samples=5,
        nat_ip="10.0.0.7",
        location="Palo Alto",
        hostname="m.example",
    )
    assert said.startswith(f"{NAME}/v4 (id ") and said.endswith("): added as testing")
    add(engine, NAME, "2001:DB8::0:7")
    v4, v6 = row_of(engine, "uspao1-x/v4"), row_of(engine, "uspao1-x/v6")
    assert (v4.account_id, v4.status, v4.location, v4.hostname, v4.created_on) == (
        *(account, "testing", "Palo Alto", "m.example", NOW),
    )
    assert (v6.ip, v6.status, v6.type, v6.is_current, v6.config) == ("2001:db8::7", "pending", "monitor", 1, "{}")
    assert told(engine) == ProtocolConfig(
        status="testing", ip="192.0.2.7", nat_ip="10.0.0.7", samples=5, base_checks=["192.0.2.53", "time.example"]
    )


def test_monitor_and_address_are_unique(engine: Engine) -> None:
    add(engine, NAME, "192.0.2.7")
    with pytest.raises(OperatorError, match=r"uspao1-x.*/v4: already exists \(id \d+, pending\)"):
        add(engine, NAME, "192.0.2.8")
    with pytest.raises(OperatorError, match=r"address 192\.0\.2\.7: is already used by monitor .*/v4 \(id \d+\)"):
        add(engine, monitor_name("other"), "::ffff:192.0.2.7")
    add(engine, monitor_name("other"), "192.0.2.8")
    with pytest.raises(OperatorError, match=r"address 192\.0\.2\.7: is already used by monitor"):
        change(engine, "other", ip="192.0.2.7")
    assert change(engine, "uspao1-x", ip="192.0.2.7") != [], "its own"
    write(engine, lambda c: change_monitor(c, "uspao1-x", "delete", NOW))
    change(engine, "other", ip="192.0.2.7")


def test_change_reports_old_and_new_values_and_keeps_the_others(engine: Engine) -> None:
    account = write(engine, lambda c: add_account(c, "Ticks"))
    add(engine, NAME, "192.0.2.7", samples=5, account="Ticks", location="here")
    other = {"samples": 5, "of somebody else": {"a": 1}}
    write(engine, lambda c: c.execute(sa.update(monitors).values(config=json.dumps(other))))
    head = f"{read(engine, lambda c: find_monitor(c, 'uspao1-x'))}: "
    assert change(
        engine, "uspao1-x", ip="192.0.2.9", status="active", base_checks=["192.0.2.53"], log_level="debug"
    ) == [
        f"{head}address: was 192.0.2.7, is 192.0.2.9",
        f"{head}status: was pending, is active",
        f"{head}base_checks: was not set, is 192.0.2.53",
        f"{head}otlp_log_level: was not set, is debug",
    ]
    row = row_of(engine, "uspao1-x")
    assert json.loads(row.config) == other | {"base_checks": ["192.0.2.53"], "otlp_log_level": "debug"}
    assert (row.account_id, row.location) == (account, "here")
    assert change(engine, "uspao1-x", unset=["samples", "account", "location", "base-check", "nat-ip"]) == [
        f"{head}account id: was {account}, is not set",
        f"{head}location: was here, is not set",
        f"{head}samples: was 5, is not set",
        f"{head}base_checks: was 192.0.2.53, is not set",
        f"{head}nat_ip: was not set, is not set",
    ]
    row = row_of(engine, "uspao1-x")
    assert (row.account_id, row.location) == (None, "")
    assert json.loads(row.config) == {"of somebody else": {"a": 1}, "otlp_log_level": "debug"}


def test_defaults_apply_to_monitors_without_own_values(engine: Engine) -> None:
    add(engine, NAME, "192.0.2.7", status="active")
    assert (told(engine).base_checks, told(engine).samples) == ([], 3)
    assert defaults(engine, base_checks=["192.0.2.53", "192.0.2.54"], samples=4) == [
        "all IPv4 monitors: base_checks: was not set, is 192.0.2.53, 192.0.2.54",
        "all IPv4 monitors: samples: was not set, is 4",
    ]
    assert (told(engine).base_checks, told(engine).samples) == (["192.0.2.53", "192.0.2.54"], 4)
    change(engine, "uspao1-x", samples=2)
    assert told(engine).samples == 2
    assert defaults(engine, unset=["samples"]) == ["all IPv4 monitors: samples: was 4, is not set"]
    change(engine, "uspao1-x", unset=["samples"])
    assert told(engine).samples == 3
    shown = dict(read(engine, lambda c: show_defaults(c, "v4")))
    assert (shown["base checks"], shown["samples"]) == ("192.0.2.53, 192.0.2.54", None)
    assert dict(read(engine, lambda c: show_defaults(c, "v6")))["base checks"] is None
    assert len(read(engine, lambda c: list_monitors(c, status=None, deleted=True))) == 1, "defaults are no monitor"


def test_a_broken_config_is_replaced(engine: Engine) -> None:
    add(engine, NAME, "192.0.2.7")
    write(engine, lambda c: c.execute(sa.update(monitors).values(config="no JSON")))
    change(engine, "uspao1-x", samples=2)
    assert json.loads(row_of(engine, "uspao1-x").config) == {"samples": 2}


def test_addresses_of_the_other_protocol_are_refused(engine: Engine) -> None:
    with pytest.raises(OperatorError, match="--nat-ip fd00::1: is not an IPv4 address"):
        add(engine, NAME, "192.0.2.7", nat_ip="fd00::1")
    add(engine, NAME, "192.0.2.7")
    with pytest.raises(OperatorError, match="address 2001:db8::1 is not an IPv4 address"):
        change(engine, "uspao1-x", ip="2001:db8::1")
    with pytest.raises(OperatorError, match="--nat-ip fd00::1: is not an IPv4 address"):
        change(engine, "uspao1-x", nat_ip="fd00::1")


def test_deleted_monitor_cannot_be_changed(engine: Engine) -> None:
    add(engine, NAME, "192.0.2.7")
    write(engine, lambda c: change_monitor(c, "uspao1-x", "delete", NOW))
    with pytest.raises(OperatorError, match="is deleted"):
        change(engine, "uspao1-x", status="active")


@pytest.mark.parametrize(
    ("env", "given", "named"),
    [
        ("devel", {"ip": "x"}, "address 'x': must be an IPv4 or IPv6 address"),
        ("prod", {"ip": "10.0.0.1"}, "must be public"),
        ("test", {"ip": "fd00::1"}, "must be public"),
        ("devel", {"ip": "224.0.0.1"}, "must be the address of one host"),
        ("devel", {"ip": "fe80::1%eth0"}, "must be the address of one host"),
        ("devel", {"status": "deleted"}, "--status 'deleted': must be one of pending, testing, active, paused"),
        ("devel", {"samples": 0}, "--samples 0: must be 1 to 10"),
        ("devel", {"samples": 11}, "--samples 11"),
        ("devel", {"nat_ip": "here"}, "--nat-ip 'here'"),
        ("devel", {"log_level": "loud"}, "--log-level 'loud': must be one of debug"),
        ("devel", {"location": "a\x1bb"}, "--location"),
        ("devel", {"hostname": "x" * 256}, "--hostname"),
        ("prod", {"base_checks": ["127.0.0.1"]}, "--base-check: 127.0.0.1 is not a public address: a loopback address"),
        ("prod", {"base_checks": ["8.8.8.8:124"]}, "--base-check: 8.8.8.8 port 124"),
        ("devel", {"base_checks": ["8.8.8.8.8"]}, "--base-check: '8.8.8.8.8' is neither"),
        ("devel", {"base_checks": [f"192.0.2.{n}" for n in range(17)]}, "--base-check: 17 given, must be at most 16"),
        ("devel", {"unset": ["status"]}, "--unset 'status': must be one of base-check"),
        ("devel", {"unset": ["samples"], "samples": 3}, "--unset samples: conflicts with --samples"),
        ("devel", {"unset": ["location"], "location": "x"}, "--unset location: conflicts with"),
    ],
)
def test_invalid_monitor_values_are_refused(env: Any, given: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError) as raised:
        monitor_change(env, **given)
    assert named in str(raised.value)


def test_change_is_empty_only_if_nothing_is_given() -> None:
    assert monitor_change("devel").empty
    for given in (
        {"samples": 3},
        {"unset": ["account"]},
        {"unset": ["samples"]},
        {"location": "x"},
        {"status": "paused"},
    ):
        assert not monitor_change("devel", **given).empty  # type: ignore[arg-type]


def test_only_v4_and_v6_are_protocols() -> None:
    assert (parse_protocol("v4"), parse_protocol("v6")) == ("v4", "v6")
    with pytest.raises(UsageError, match="protocol 'v5': must be one of v4, v6"):
        parse_protocol("v5")

"""Add monitors, and change the pool's configuration of a monitor.

Each change runs in a transaction of its caller. The selector detects it in the ledger by itself: it publishes the new
configuration to the agent, and reviews the servers of a monitor whose address or account has changed.
"""

import ipaddress
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from agent.check import check_arguments
from agent.ntp.targets import TargetRefused, TargetRules
from ops.accounts import find_account, flags_of
from ops.errors import OperatorError, UsageError
from ops.monitors import FoundMonitor, find_monitor
from ops.output import changed, value_text
from schema.addresses import why_not_public
from schema.limits import MAX_BASE_CHECKS
from schema.messages import LogLevel, MonitorStatus
from schema.names import IP_VERSIONS, Environment, IpVersion
from schema.tables import monitors

SETTABLE_STATUSES: Final[tuple[MonitorStatus, ...]] = ("pending", "testing", "active", "paused")
"""The statuses that ``--status`` accepts; the others have their own command."""

CONFIG: Final[Mapping[str, str]] = {
    "base-check": "base_checks",
    "samples": "samples",
    "nat-ip": "nat_ip",
    "log-level": "otlp_log_level",
}
"""Option names, and the keys that they set in the JSON of ``monitors.config``."""

_CLEARABLE: Final[Mapping[str, Any]] = {"account": None, "location": "", "hostname": ""}
"""Columns that may be cleared, and their values when they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorChange:
    """The values that an operator gave for a monitor; ``None`` in ``config`` restores the default."""

    ip: str | None = None
    account: str | None = None
    status: MonitorStatus | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    """``location`` and ``hostname``."""
    config: Mapping[str, Any] = field(default_factory=dict)
    cleared: frozenset[str] = frozenset()
    """Columns to clear."""

    @property
    def empty(self) -> bool:
        """Return whether nothing was given."""
        return not (self.ip or self.account or self.status or self.texts or self.config or self.cleared)


def monitor_change(
    env: Environment,
    *,
    ip: str | None = None,
    account: str | None = None,
    status: str | None = None,
    location: str | None = None,
    hostname: str | None = None,
    base_checks: Sequence[str] | None = None,
    samples: int | None = None,
    nat_ip: str | None = None,
    log_level: str | None = None,
    unset: Sequence[str] | None = None,
) -> MonitorChange:
    """Validate the given values, as far as this is possible without the ledger.

    Raises:
        UsageError: a value is invalid for agents or the ledger, or is both set and unset.
    """
    texts = {key: text for key, text in (("location", location), ("hostname", hostname)) if text is not None}
    for key, text in texts.items():
        if not 1 <= len(text) <= 255 or not text.isprintable():
            raise UsageError(f"--{key} {text[:255]!r}: must be 1 to 255 characters on one line")
    given = {
        "base_checks": _base_checks(env, base_checks) if base_checks else None,
        "samples": samples if samples is None else _samples(samples),
        "nat_ip": nat_ip if nat_ip is None else str(_address("--nat-ip", nat_ip)),
        "otlp_log_level": log_level if log_level is None else _one_of("--log-level", log_level, get_args(LogLevel)),
    }
    config: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    named = {key for key, value in (("account", account), *texts.items()) if value is not None}
    cleared = set()
    for option in unset or ():
        if option not in CONFIG and option not in _CLEARABLE:
            raise UsageError(f"--unset {option!r}: must be one of {', '.join((*CONFIG, *_CLEARABLE))}")
        if option in named or CONFIG.get(option) in config:
            raise UsageError(f"--unset {option}: conflicts with --{option}; give only one of them")
        if option in CONFIG:
            config[CONFIG[option]] = None
        else:
            cleared.add(option)
    known = None if status is None else _one_of("--status", status, SETTABLE_STATUSES)
    return MonitorChange(
        ip=None if ip is None else public_address(env, ip),
        account=account,
        status=next((one for one in SETTABLE_STATUSES if one == known), None),
        texts=texts,
        config=config,
        cleared=frozenset(cleared),
    )


def _base_checks(env: Environment, entries: Sequence[str]) -> list[str]:
    if len(entries) > MAX_BASE_CHECKS:
        raise UsageError(f"--base-check: {len(entries)} given, must be at most {MAX_BASE_CHECKS}")
    try:
        check_arguments(entries, TargetRules(env, allow_private=env == "devel"))
    except TargetRefused as error:
        raise UsageError(f"--base-check: {error}") from None
    return list(dict.fromkeys(entries))


def _samples(samples: int) -> int:
    if not 1 <= samples <= 10:
        raise UsageError(f"--samples {samples}: must be 1 to 10")
    return samples


def _address(option: str, text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise UsageError(f"{option} {text[:64]!r}: must be an IPv4 or IPv6 address, such as 192.0.2.1") from None


def _one_of(option: str, text: str, known: Sequence[str]) -> str:
    if text not in known:
        raise UsageError(f"{option} {text!r}: must be one of {', '.join(known)}")
    return text


def public_address(env: Environment, text: str) -> str:
    """Return the address in canonical form.

    Raises:
        UsageError: it is not the public address of one host (private ones are allowed in ``devel``).
    """
    address = _address("address", text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_multicast or address.is_unspecified or getattr(address, "scope_id", None):
        raise UsageError(f"address {text!r}: must be the address of one host, without a zone")
    if env != "devel" and (kind := why_not_public(address)):
        raise UsageError(f"address {text!r}: is {kind}, must be public; others are allowed in the environment devel")
    return str(address)


def family_of(ip: str) -> IpVersion:
    """Return the protocol of an address."""
    return "v6" if ":" in ip else "v4"


def add_monitor(connection: Connection, name: str, change: MonitorChange, now: datetime) -> str:
    """Add a monitor for the protocol of its address, and return a line that describes the change.

    Raises:
        OperatorError: it exists already, its address is taken, or there is no such account.
    """
    assert change.ip is not None
    ipv, m = family_of(change.ip), monitors.c
    same = sa.and_(m.tls_name == name, m.ip_version == ipv)
    known = connection.execute(sa.select(m.id, m.status).where(same)).first()
    if known is not None:
        raise OperatorError(f"monitor {name}/{ipv}: already exists (id {known.id}, {known.status})")
    _must_be_free(connection, change.ip)
    _same_family(change, ipv)
    row = {
        "type": "monitor",
        "tls_name": name,
        "ip": change.ip,
        "ip_version": ipv,
        "status": change.status or "pending",
        "account_id": None if change.account is None else find_account(connection, change.account),
        "config": json.dumps(dict(change.config)),
        "created_on": now,
        **change.texts,
    }
    done = connection.execute(sa.insert(monitors).values(row))
    assert done.inserted_primary_key is not None
    return f"{name}/{ipv} (id {done.inserted_primary_key[0]}): added as {row['status']}"


def set_monitor(connection: Connection, text: str, change: MonitorChange) -> list[str]:
    """Change a monitor and return a line with the old and the new value for each change.

    Raises:
        OperatorError: there is no such monitor or account, the monitor is deleted, or the address is taken.
    """
    found = find_monitor(connection, text, lock=True)
    if found.status == "deleted":
        raise OperatorError(f"monitor {found}: is deleted; add it again")
    row = connection.execute(sa.select(monitors).where(monitors.c.id == found.id)).one()
    return _set(connection, found, row, change)


def _set(connection: Connection, found: FoundMonitor, row: sa.Row[Any], change: MonitorChange) -> list[str]:
    changes: list[tuple[str, object, object]] = []
    values: dict[str, Any] = {}
    if change.ip is not None:
        if family_of(change.ip) != found.ipv:
            raise OperatorError(f"monitor {found}: address {change.ip} is not an IP{found.ipv} address")
        _must_be_free(connection, change.ip, but=found.id)
        values["ip"] = change.ip
        changes.append(("address", row.ip, change.ip))
    _same_family(change, found.ipv)
    if change.account is not None or "account" in change.cleared:
        values["account_id"] = None if change.account is None else find_account(connection, change.account)
        changes.append(("account id", row.account_id, values["account_id"]))
    if change.status is not None:
        values["status"] = change.status
        changes.append(("status", row.status, change.status))
    for key, text in {**change.texts, **{key: "" for key in change.cleared if key != "account"}}.items():
        values[key] = text
        changes.append((key, getattr(row, key), text))
    if change.config:
        values["config"] = _merged(row.config, change.config, lambda *what: changes.append(what))
    connection.execute(sa.update(monitors).where(monitors.c.id == found.id).values(values))
    return [changed(str(found), *what) for what in changes]


_Record = Callable[[str, object, object], None]


def _merged(text: str | None, change: Mapping[str, Any], record: _Record) -> str:
    """Return the config with the change applied; a config that is not a JSON object is ignored and replaced."""
    before = flags_of(text)
    for key, value in change.items():
        record(key, before.get(key), value)
    return json.dumps({key: value for key, value in {**before, **change}.items() if value is not None})


def _same_family(change: MonitorChange, ipv: IpVersion) -> None:
    nat_ip = change.config.get("nat_ip")
    if nat_ip is not None and family_of(nat_ip) != ipv:
        raise OperatorError(f"--nat-ip {nat_ip}: is not an IP{ipv} address")


def _must_be_free(connection: Connection, ip: str, *, but: int = 0) -> None:
    m = monitors.c
    taken = sa.select(m.id, m.tls_name, m.ip_version).where(m.ip == ip, m.is_current.is_not(None), m.id != but)
    other = connection.execute(taken).first()
    if other is not None:
        raise OperatorError(
            f"address {ip}: is already used by monitor {other.tls_name}/{other.ip_version} (id {other.id})"
        )


# ---- defaults of all monitors ----------------------------------------------------------------------------------------


def parse_protocol(text: str) -> IpVersion:
    """Return the protocol called ``text``.

    Raises:
        UsageError: there is no such protocol.
    """
    for ipv in IP_VERSIONS:
        if ipv == text:
            return ipv
    raise UsageError(f"protocol {text!r}: must be one of {', '.join(IP_VERSIONS)}")


def defaults_name(ipv: IpVersion) -> str:
    """Return the name of the row of ``monitors`` that holds the defaults of all monitors of a protocol."""
    return f"settings-{ipv}.system"


def show_defaults(connection: Connection, ipv: IpVersion) -> list[tuple[str, Any]]:
    """Return the defaults of a protocol, field by field."""
    text = connection.scalar(sa.select(monitors.c.config).where(monitors.c.tls_name == defaults_name(ipv)))
    config = flags_of(text)
    return [
        ("protocol", ipv),
        ("base checks", _cell(config.get("base_checks"))),
        ("samples", _cell(config.get("samples"))),
        ("log level", _cell(config.get("otlp_log_level"))),
    ]


def _cell(value: object) -> str | int | None:
    return value if value is None or isinstance(value, int | str) else value_text(value)


def set_defaults(connection: Connection, ipv: IpVersion, change: MonitorChange, now: datetime) -> list[str]:
    """Change the defaults of a protocol and return a line with the old and the new value for each change."""
    name, m = defaults_name(ipv), monitors.c
    _same_family(change, ipv)
    row = connection.execute(sa.select(m.id, m.config).where(m.tls_name == name).with_for_update()).first()
    changes: list[tuple[str, object, object]] = []
    config = _merged(None if row is None else row.config, change.config, lambda *what: changes.append(what))
    if row is None:
        values = {"type": "monitor", "tls_name": name, "ip_version": ipv, "status": "pending", "created_on": now}
        connection.execute(sa.insert(monitors).values(config=config, **values))
    else:
        connection.execute(sa.update(monitors).where(m.id == row.id).values(config=config))
    return [changed(f"all IP{ipv} monitors", *what) for what in changes]

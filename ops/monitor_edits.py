"""New monitors, and changes of what the pool says of a monitor. Each is one transaction of its caller.

The selector sees them in the ledger by itself: it tells agents of a new configuration, and reviews the servers of a
monitor that has moved to another address or account.
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
"""The others have a command of their own."""

CONFIG: Final[Mapping[str, str]] = {
    "base-check": "base_checks",
    "samples": "samples",
    "nat-ip": "nat_ip",
    "log-level": "otlp_log_level",
}
"""What operators call them, and their names in the JSON of ``monitors.config``."""

_CLEARABLE: Final[Mapping[str, Any]] = {"account": None, "location": "", "hostname": ""}
"""Columns that may be empty, and what they then hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorChange:
    """What an operator says of a monitor; in ``config``, None removes a value, so that its default counts."""

    ip: str | None = None
    account: str | None = None
    status: MonitorStatus | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    """``location`` and ``hostname``."""
    config: Mapping[str, Any] = field(default_factory=dict)
    cleared: frozenset[str] = frozenset()
    """Columns to empty."""

    @property
    def empty(self) -> bool:
        """Whether nothing was given."""
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
    """What was given, checked as far as the ledger is not needed for it.

    Raises:
        UsageError: a value that agents or ledger cannot take, or one both set and unset.
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
            raise UsageError(f"--unset {option}: and --{option} beside it; give one of them")
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
    """The address in canonical form.

    Raises:
        UsageError: it is none, or not one host's on the internet (private ones are allowed in ``devel``).
    """
    address = _address("address", text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_multicast or address.is_unspecified or getattr(address, "scope_id", None):
        raise UsageError(f"address {text!r}: must be one host's, without a zone")
    if env != "devel" and (kind := why_not_public(address)):
        raise UsageError(f"address {text!r}: is {kind}, must be a public one; others are for the environment devel")
    return str(address)


def family_of(ip: str) -> IpVersion:
    """The protocol of an address."""
    return "v6" if ":" in ip else "v4"


def add_monitor(connection: Connection, name: str, change: MonitorChange, now: datetime) -> str:
    """Adds one protocol of a monitor, that of its address; says what was done.

    Raises:
        OperatorError: it is there already, or its address or account are another's or nobody's.
    """
    assert change.ip is not None
    ipv, m = family_of(change.ip), monitors.c
    same = sa.and_(m.tls_name == name, m.ip_version == ipv)
    known = connection.execute(sa.select(m.id, m.status).where(same)).first()
    if known is not None:
        raise OperatorError(f"monitor {name}/{ipv}: is there already, with id {known.id}, and is {known.status}")
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
    """Changes a monitor, and says of each value what it was and is.

    Raises:
        OperatorError: there is no such monitor, it is deleted, or its address or account are another's or nobody's.
    """
    found = find_monitor(connection, text, lock=True)
    if found.status == "deleted":
        raise OperatorError(f"monitor {found}: is deleted; add it again")
    row = connection.execute(sa.select(monitors).where(monitors.c.id == found.id)).one()
    return _set(connection, found, row, change)


def _set(connection: Connection, found: FoundMonitor, row: sa.Row[Any], change: MonitorChange) -> list[str]:
    told: list[tuple[str, object, object]] = []
    values: dict[str, Any] = {}
    if change.ip is not None:
        if family_of(change.ip) != found.ipv:
            raise OperatorError(f"monitor {found}: address {change.ip} is not one of IP{found.ipv}")
        _must_be_free(connection, change.ip, but=found.id)
        values["ip"] = change.ip
        told.append(("address", row.ip, change.ip))
    _same_family(change, found.ipv)
    if change.account is not None or "account" in change.cleared:
        values["account_id"] = None if change.account is None else find_account(connection, change.account)
        told.append(("account id", row.account_id, values["account_id"]))
    if change.status is not None:
        values["status"] = change.status
        told.append(("status", row.status, change.status))
    for key, text in {**change.texts, **{key: "" for key in change.cleared if key != "account"}}.items():
        values[key] = text
        told.append((key, getattr(row, key), text))
    if change.config:
        values["config"] = _merged(row.config, change.config, lambda *what: told.append(what))
    connection.execute(sa.update(monitors).where(monitors.c.id == found.id).values(values))
    return [changed(str(found), *what) for what in told]


_Told = Callable[[str, object, object], None]


def _merged(text: str | None, change: Mapping[str, Any], tell: _Told) -> str:
    """The config with the change; one that is no JSON object counts for nothing today, and is replaced."""
    before = flags_of(text)
    for key, value in change.items():
        tell(key, before.get(key), value)
    return json.dumps({key: value for key, value in {**before, **change}.items() if value is not None})


def _same_family(change: MonitorChange, ipv: IpVersion) -> None:
    nat_ip = change.config.get("nat_ip")
    if nat_ip is not None and family_of(nat_ip) != ipv:
        raise OperatorError(f"--nat-ip {nat_ip}: is not an address of IP{ipv}")


def _must_be_free(connection: Connection, ip: str, *, but: int = 0) -> None:
    m = monitors.c
    taken = sa.select(m.id, m.tls_name, m.ip_version).where(m.ip == ip, m.is_current.is_not(None), m.id != but)
    other = connection.execute(taken).first()
    if other is not None:
        raise OperatorError(f"address {ip}: is that of monitor {other.tls_name}/{other.ip_version} (id {other.id})")


# ---- defaults of all monitors ----------------------------------------------------------------------------------------


def parse_protocol(text: str) -> IpVersion:
    """The protocol called ``text``.

    Raises:
        UsageError: there is none.
    """
    for ipv in IP_VERSIONS:
        if ipv == text:
            return ipv
    raise UsageError(f"protocol {text!r}: must be one of {', '.join(IP_VERSIONS)}")


def defaults_name(ipv: IpVersion) -> str:
    """The row of ``monitors`` that is no monitor, but holds the defaults of all monitors of a protocol."""
    return f"settings-{ipv}.system"


def show_defaults(connection: Connection, ipv: IpVersion) -> list[tuple[str, Any]]:
    """The defaults of a protocol, field by field."""
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
    """Changes the defaults of a protocol, and says of each value what it was and is."""
    name, m = defaults_name(ipv), monitors.c
    _same_family(change, ipv)
    row = connection.execute(sa.select(m.id, m.config).where(m.tls_name == name).with_for_update()).first()
    told: list[tuple[str, object, object]] = []
    config = _merged(None if row is None else row.config, change.config, lambda *what: told.append(what))
    if row is None:
        values = {"type": "monitor", "tls_name": name, "ip_version": ipv, "status": "pending", "created_on": now}
        connection.execute(sa.insert(monitors).values(config=config, **values))
    else:
        connection.execute(sa.update(monitors).where(m.id == row.id).values(config=config))
    return [changed(f"all IP{ipv} monitors", *what) for what in told]

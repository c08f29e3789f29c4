"""Merge the configuration of an agent from the ledger's rows for its two protocols.

Each protocol has a row of ``monitors`` whose ``config`` (JSON) is a merge patch (RFC 7396) on that of the
pseudo-monitor ``settings-v4.system`` or ``settings-v6.system``. The default replaces an invalid config or value, since
a typing error must not leave a monitor without settings. Pure.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Any, Final, TypeVar, cast, get_args

from schema.messages import LogLevel, MonitorConfig, MonitorStatus, ProtocolConfig
from schema.names import IP_VERSIONS, IpVersion
from selector.monitors import MonitorRow

SETTINGS_MONITORS: Final[Mapping[str, IpVersion]] = {"settings-v4.system": "v4", "settings-v6.system": "v6"}

_LOG_LEVELS: Final = {level: level for level in get_args(LogLevel)} | {"warn": "warning"}
_STATUSES: Final = get_args(MonitorStatus)
_MOST_SAMPLES: Final = 10
T = TypeVar("T")

ReportRow = Callable[[str, str, str], None]
"""Callback for invalid rows, with the kind of the row, its name, and the error."""


def merge_patch(target: Any, patch: Any) -> Any:
    """Apply ``patch`` to ``target`` by RFC 7396: null removes, objects merge, other values replace."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def monitor_configs(
    rows: Iterable[MonitorRow], defaults: Mapping[str, str], samples: int, report_row: ReportRow
) -> dict[str, MonitorConfig]:
    """Return the configuration of every monitor by name.

    Args:
        defaults: the config text of the pseudo-monitors, by their names.
        samples: the default if neither monitor nor pseudo-monitor has a value.
    """
    common = {ipv: _object(defaults.get(name, ""), name, report_row) for name, ipv in SETTINGS_MONITORS.items()}
    by_name: dict[str, list[MonitorRow]] = {}
    for row in rows:
        by_name.setdefault(row.name, []).append(row)
    return {name: _monitor_config(name, protocols, common, samples, report_row) for name, protocols in by_name.items()}


def _monitor_config(
    name: str,
    rows: Iterable[MonitorRow],
    common: Mapping[IpVersion, Mapping[str, Any]],
    samples: int,
    report_row: ReportRow,
) -> MonitorConfig:
    protocols: dict[IpVersion, ProtocolConfig] = {}
    log_level: LogLevel | None = None
    for row in sorted(rows, key=lambda row: IP_VERSIONS.index(row.ipv)):
        who = f"{name} {row.ipv}"
        if row.status not in _STATUSES:
            report_row("monitor", who, f"status {row.status!r}: must be one of {', '.join(_STATUSES)}; it is skipped")
            continue
        merged = merge_patch(common[row.ipv], _object(row.config, who, report_row))
        read = _Reader(merged, who, report_row)
        protocols[row.ipv] = ProtocolConfig(
            status=cast(MonitorStatus, row.status),
            ip=row.ip,
            nat_ip=read.value("nat_ip", _address, None),
            samples=read.value("samples", _samples, samples),
            base_checks=read.value("base_checks", _texts, []),
        )
        log_level = log_level or read.value("otlp_log_level", _log_level, None)
    return MonitorConfig(protocols=protocols, log_level=log_level)


class _Reader:
    """Reader of single values of a merged config; it reports an invalid value and uses the default."""

    def __init__(self, config: Mapping[str, Any], who: str, report_row: ReportRow) -> None:
        self._config = config
        self._who = who
        self._report_row = report_row

    def value(self, key: str, check: Callable[[Any], T], default: T) -> T:
        found = self._config.get(key)
        if found in (None, ""):
            return default
        try:
            return check(found)
        except ValueError as wrong:
            self._report_row(
                "config", f"{self._who} {key}", f"is {json.dumps(found)[:80]}: {wrong}; its default is used"
            )
            return default


def _object(text: str, who: str, report_row: ReportRow) -> dict[str, Any]:
    """Return the JSON object in ``text``, or an empty one if the text is empty or invalid."""
    if not text.strip():
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        report_row("config", who, f"is not JSON ({error}): all its defaults are used")
        return {}
    if not isinstance(found, dict):
        report_row("config", who, "is not a JSON object: all its defaults are used")
        return {}
    return found


def _samples(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST_SAMPLES:
        raise ValueError(f"must be a whole number of 1 to {_MOST_SAMPLES}")
    return value


def _address(value: Any) -> str | None:
    try:
        return str(ip_address(str(value)))
    except ValueError:
        raise ValueError("must be an IP address") from None


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise ValueError("must be a list of addresses")
    return value


def _log_level(value: Any) -> LogLevel | None:
    level = _LOG_LEVELS.get(value.lower()) if isinstance(value, str) else None
    if level is None:
        raise ValueError(f"must be one of {', '.join(get_args(LogLevel))}")
    return cast(LogLevel, level)

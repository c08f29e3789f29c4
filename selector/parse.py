"""From rows of the ledger to the values the rules judge; one broken row never stops the review of the others.

A row that cannot be understood becomes a `Rejected`: it is left out of every decision, `simulate` shows why, and it
keeps the place it holds. (Its pair is still active or testing in the ledger and its agent still measures; if its place
were free in our eyes, more than the target would become active.) It does not count for constraints, because what it
would be compared by is what is broken. A paused or deleted monitor has to leave whatever else its row says, so it is
never rejected for its address, its account's flags or its measurements.
"""

import json
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

import msgspec

from selector.model import Address, GlobalStatus, Monitor, PairStatus, Rejected, Server

DEFAULT_PER_SERVER_LIMIT = 2
"""`monitors_per_server_limit` of an account that has none."""

_BITS = {4: 32, 6: 128}
_SUBNET_BITS = {4: 24, 6: 48}
_REGION_BITS = {4: 20, 6: 44}
_LEAVES = (GlobalStatus.PAUSED, GlobalStatus.DELETED)


class BadRow(ValueError):
    """A value of a row that cannot be used; the message names it, its value and what would be right."""


class RawMonitor(msgspec.Struct, frozen=True, kw_only=True):
    """One row as the store reads it: text as it stands in the ledger, times in UTC (aware, or naive as stored)."""

    id: int
    name: str
    ip: str | None
    ip_version: str | None
    account_id: int | None
    account_flags: str | None
    global_status: str
    pair_status: str | None
    count: int = 0
    avg_step: float | None = None
    avg_rtt_ms: float | None = None
    gone: bool = False
    violation_type: str | None = None
    violation_since: datetime | None = None
    last_constraint_check: datetime | None = None
    pause_reason: str | None = None


@lru_cache(maxsize=16_384)  # the same monitors, at every server
def parse_address(text: str | None, ip_version: str | None = None) -> Address:
    """The address with the networks the constraints compare. An IPv4-mapped IPv6 address counts as IPv4.

    Raises:
        BadRow: it is no address, or not one of protocol ``ip_version`` (``v4``, ``v6``, or None for either).
    """
    try:
        ip = ip_address((text or "").strip())
    except ValueError:
        raise BadRow(f"address {text!r}: is no IPv4 or IPv6 address") from None
    if ip_version is not None and ip_version != f"v{ip.version}":
        raise BadRow(f"address {text!r}: is IPv{ip.version}, but its protocol is {ip_version!r}")
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    version, bits, value = ip.version, _BITS[ip.version], int(ip)
    return Address(
        text=str(ip),
        subnet=(version, value >> (bits - _SUBNET_BITS[version])),
        region=(version, value >> (bits - _REGION_BITS[version])),
    )


def parse_limit(flags: str | None) -> int:
    """`monitors_per_server_limit` out of an account's flags (JSON text), 2 where it is not set.

    Raises:
        BadRow: the flags are no JSON object, or the limit is no whole number of at least 0.
    """
    if not flags:
        return DEFAULT_PER_SERVER_LIMIT
    try:
        decoded = json.loads(flags)
    except (ValueError, RecursionError):
        raise BadRow(f"account flags {flags[:80]!r}: are not JSON") from None
    if decoded is None:
        return DEFAULT_PER_SERVER_LIMIT
    if not isinstance(decoded, dict):
        raise BadRow(f"account flags {flags[:80]!r}: are not a JSON object")
    limit = decoded.get("monitors_per_server_limit")
    if limit is None:
        return DEFAULT_PER_SERVER_LIMIT
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise BadRow(f"account flag monitors_per_server_limit is {limit!r}: must be a whole number of at least 0")
    return limit


def parse_server(server_id: int, ip: str | None, ip_version: str | None, account_id: int | None) -> Server:
    """The server under review.

    Raises:
        BadRow: its address cannot be used, so nothing can be decided about it.
    """
    return Server(id=server_id, address=parse_address(ip, ip_version), account_id=account_id)


def parse_monitor(raw: RawMonitor) -> Monitor | Rejected:
    """The monitor of a row, or why the row is left out; never raises for what a row may contain."""
    pair: PairStatus | None = None
    try:
        pair = None if raw.pair_status is None else _pair_status(raw.pair_status)
        status = _global_status(raw.global_status)
        return _leaving(raw, status, pair) if status in _LEAVES else _judged(raw, status, pair)
    except BadRow as bad:
        return Rejected(id=raw.id, name=raw.name, pair_status=pair, reason=str(bad))


def parse_monitors(rows: Iterable[RawMonitor]) -> list[Monitor | Rejected]:
    """All rows of a review, in their order."""
    return [parse_monitor(row) for row in rows]


def _judged(raw: RawMonitor, status: GlobalStatus, pair: PairStatus | None) -> Monitor:
    """A monitor of which every part of the row makes sense."""
    if raw.ip_version not in ("v4", "v6"):
        raise BadRow(f"protocol {raw.ip_version!r}: must be v4 or v6")
    if raw.count < 0:
        raise BadRow(f"count of results {raw.count!r}: must be at least 0")
    return _monitor(
        raw,
        status,
        pair,
        address=parse_address(raw.ip, raw.ip_version),
        limit=parse_limit(raw.account_flags),
        avg_step=_number("average step", raw.avg_step, -math.inf),
        avg_rtt_ms=_number("average rtt", raw.avg_rtt_ms, 0.0),
    )


def _leaving(raw: RawMonitor, status: GlobalStatus, pair: PairStatus | None) -> Monitor:
    """A paused or deleted monitor; what of its row cannot be used is not needed."""
    try:
        return _judged(raw, status, pair)
    except BadRow:
        return _monitor(raw, status, pair, address=None, limit=DEFAULT_PER_SERVER_LIMIT, avg_step=None, avg_rtt_ms=None)


def _monitor(
    raw: RawMonitor,
    status: GlobalStatus,
    pair: PairStatus | None,
    *,
    address: Address | None,
    limit: int,
    avg_step: float | None,
    avg_rtt_ms: float | None,
) -> Monitor:
    return Monitor(
        id=raw.id,
        name=raw.name,
        address=address,
        account_id=raw.account_id,
        limit=limit,
        global_status=status,
        pair_status=pair,
        count=max(raw.count, 0),
        avg_step=avg_step,
        avg_rtt_ms=avg_rtt_ms,
        gone=raw.gone,
        violation_type=raw.violation_type,
        violation_since=_utc(raw.violation_since),
        last_constraint_check=_utc(raw.last_constraint_check),
        pause_reason=raw.pause_reason,
    )


def _pair_status(text: str) -> PairStatus:
    try:
        return PairStatus(text)
    except ValueError:
        raise BadRow(f"pair status {text!r}: must be one of {', '.join(PairStatus)}") from None


def _global_status(text: str) -> GlobalStatus:
    try:
        return GlobalStatus(text)
    except ValueError:
        raise BadRow(f"monitor status {text!r}: must be one of {', '.join(GlobalStatus)}") from None


def _number(what: str, value: float | None, least: float) -> float | None:
    """The average as a finite float of at least ``least`` (databases also hand out Decimal)."""
    if value is None:
        return None
    number = float(value)
    if not math.isfinite(number) or number < least:
        raise BadRow(f"{what} {value!r}: must be a finite number" + (f" of at least {least:g}" if least == 0 else ""))
    return number


def _utc(time: datetime | None) -> datetime | None:
    """The ledger keeps naive UTC; comparing needs aware times."""
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time

"""Convert rows of the ledger into the rules' values; one invalid row never prevents the review of the others.

A row with an invalid address, protocol or status (operators set all three) becomes a `Skipped`: no decision considers
it, `simulate` shows the reason, and it keeps its place. (Its pair is still active or testing in the ledger, and its
agent still measures; if its place counted as free, more monitors than the target would become active.) It does not
count for constraints, since the values to compare are invalid. A paused or deleted monitor has to leave regardless of
its row, so an invalid address does not cause it to be skipped.

Measurements or account flags never cause a monitor to be skipped, which would keep it in its place: impossible averages
count as the nearest possible ones, NaN as the worst, and an invalid limit as the default.
"""

import json
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any, Final, NamedTuple

import msgspec

from schema.health import HealthLabel
from selector.rules.model import Address, GlobalStatus, Monitor, PairStatus, Server, Skipped

DEFAULT_PER_SERVER_LIMIT = 2
"""Default of `monitors_per_server_limit`."""

_NO_LIMIT: Final = 1_000_000
_STEPS: Final = (-10.0, 1.0)
"""The minimum and the maximum step of a result."""
_LONGEST_RTT_MS: Final = 1e6

_BITS = {4: 32, 6: 128}
_SUBNET_BITS = {4: 24, 6: 48}
_REGION_BITS = {4: 20, 6: 44}
_LEAVES = (GlobalStatus.PAUSED, GlobalStatus.DELETED)


class BadRow(ValueError):
    """An invalid value in a row; the message names the field, its value and the valid values."""


class RawMonitor(msgspec.Struct, frozen=True, kw_only=True):
    """A row as the store reads it: unparsed text, and times in UTC (aware, or naive as stored)."""

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
    last_move: datetime | None = None
    labels: tuple[HealthLabel, ...] = ()


@lru_cache(maxsize=16_384)  # the same monitors at every server
def parse_address(text: str | None, ip_version: str | None = None) -> Address:
    """Parse an address and its networks for the constraints. An IPv4-mapped IPv6 address counts as IPv4.

    Raises:
        BadRow: it is not an address of protocol ``ip_version`` (``v4``, ``v6``, or None for either).
    """
    try:
        ip = ip_address((text or "").strip())
    except ValueError:
        raise BadRow(f"address {text!r}: is not an IPv4 or IPv6 address") from None
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


class AccountLimit(NamedTuple):
    """Maximum active monitors of an account at a server, and the error if its flags are invalid."""

    value: int
    odd: str = ""


@lru_cache(maxsize=16_384)  # the same accounts at every server
def account_limit(flags: str | None) -> AccountLimit:
    """Parse `monitors_per_server_limit` from an account's flags (JSON text); the default replaces an invalid value."""
    try:
        limit = _flags(flags).get("monitors_per_server_limit")
    except BadRow as bad:
        return AccountLimit(DEFAULT_PER_SERVER_LIMIT, f"{bad}; a limit of {DEFAULT_PER_SERVER_LIMIT} is used")
    if limit is None:
        return AccountLimit(DEFAULT_PER_SERVER_LIMIT)
    if isinstance(limit, int) and not isinstance(limit, bool) and limit >= 1:
        return AccountLimit(min(limit, _NO_LIMIT))
    odd = f"flag monitors_per_server_limit is {json.dumps(limit)[:80]}: must be a whole number of at least 1"
    return AccountLimit(DEFAULT_PER_SERVER_LIMIT, f"{odd}; {DEFAULT_PER_SERVER_LIMIT} is used")


def _flags(text: str | None) -> dict[str, Any]:
    if not text:
        return {}
    try:
        decoded = json.loads(text)
    except (ValueError, RecursionError):
        raise BadRow(f"flags {text[:80]!r}: are not JSON") from None
    if decoded is None:
        return {}
    if not isinstance(decoded, dict):
        raise BadRow(f"flags {text[:80]!r}: are not a JSON object")
    return decoded


def parse_server(server_id: int, ip: str | None, ip_version: str | None, account_id: int | None) -> Server:
    """Parse the row of the server under review.

    Raises:
        BadRow: its address is invalid, so no decision is possible.
    """
    return Server(id=server_id, address=parse_address(ip, ip_version), account_id=account_id)


def parse_monitor(raw: RawMonitor) -> Monitor | Skipped:
    """Parse the row of a monitor, or return the reason to skip it; no content of a row raises an exception."""
    pair: PairStatus | None = None
    try:
        pair = None if raw.pair_status is None else _pair_status(raw.pair_status)
        status = _global_status(raw.global_status)
        address = _address(raw, status)
    except BadRow as bad:
        return Skipped(id=raw.id, name=raw.name, pair_status=pair, reason=str(bad))
    return Monitor(
        id=raw.id,
        name=raw.name,
        address=address,
        account_id=raw.account_id,
        limit=account_limit(raw.account_flags).value,
        global_status=status,
        pair_status=pair,
        count=max(raw.count, 0),
        avg_step=_clamped(raw.avg_step, *_STEPS, without=_STEPS[0]),
        avg_rtt_ms=_clamped(raw.avg_rtt_ms, 0.0, _LONGEST_RTT_MS, without=_LONGEST_RTT_MS),
        gone=raw.gone,
        violation_type=raw.violation_type,
        violation_since=_utc(raw.violation_since),
        last_constraint_check=_utc(raw.last_constraint_check),
        pause_reason=raw.pause_reason,
        last_move=_utc(raw.last_move),
        labels=raw.labels,
    )


def parse_monitors(rows: Iterable[RawMonitor]) -> list[Monitor | Skipped]:
    """Parse all rows of a review, in their order."""
    return [parse_monitor(row) for row in rows]


def _address(raw: RawMonitor, status: GlobalStatus) -> Address | None:
    """Parse the monitor's address; None for a paused or deleted one with an invalid address, which is not needed."""
    try:
        if raw.ip_version not in ("v4", "v6"):
            raise BadRow(f"protocol {raw.ip_version!r}: must be v4 or v6")
        return parse_address(raw.ip, raw.ip_version)
    except BadRow:
        if status in _LEAVES:
            return None
        raise


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


def _clamped(value: float | None, least: float, most: float, *, without: float) -> float | None:
    """Return the average as a float within the bounds, or ``without`` for NaN; databases may also return Decimal."""
    if value is None:
        return None
    number = float(value)
    return without if math.isnan(number) else min(max(number, least), most)


def _utc(time: datetime | None) -> datetime | None:
    """Return the time as an aware one; the ledger stores naive UTC."""
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time

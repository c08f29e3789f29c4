"""Decide the steps of a registration: a state machine, and the plan of a confirmation. Pure."""

import ipaddress
import re
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Final

from auth.registration.model import (
    CONFIRM_WITHIN,
    MOST_AN_HOUR,
    REPEAT_FOR,
    Account,
    Confirmer,
    KnownMonitor,
    Outcome,
    Plan,
    Problem,
    Refusal,
    Refused,
    State,
)
from schema.addresses import why_not_public
from schema.names import IP_VERSIONS, Environment, InvalidName, IpVersion, check_monitor_name

AGAIN: Final = "run 'ntppool-agent setup' again"
NO_LONGER: Final = (
    f"This registration is completed, and its key was handed out. If this host did not receive the key, {AGAIN}."
)

_HOSTNAME: Final = re.compile(r"[A-Za-z0-9._-]{0,253}")
_LOCATION: Final = re.compile(r"[a-z]{3,5}")
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,34}[a-z0-9])?")
_MAX_CLIENT: Final = 240
_MAX_SENTENCE: Final = 300
_AN_HOUR: Final = 3600.0
_CLOCKS_DIFFER: Final = 60.0
"""Seconds by which the clocks of two API processes may differ."""


class Step(Enum):
    """What to do with a request for a known registration."""

    WAIT = auto()
    ADD_ADDRESS = auto()
    HAND_OUT = auto()
    REPEAT = auto()
    COMPLETE = auto()


# ---- what a request contains -----------------------------------------------------------------------------------------


def check_hostname(text: str) -> str | Refused:
    """Return the host's name as it may be stored and shown."""
    if _HOSTNAME.fullmatch(text):
        return text
    return Refused(
        Refusal.MALFORMED,
        "The host name must be at most 253 letters, digits, '.', '-' and '_': "
        "run 'ntppool-agent setup' again with --hostname.",
    )


def clean_client(user_agent: str) -> str:
    """Return the name and version of the client: printable ASCII, at most 240 characters."""
    return "".join(c for c in user_agent[:_MAX_CLIENT] if c.isascii() and c.isprintable())


def check_peer(text: str, env: Environment) -> tuple[IpVersion, str] | Refused:
    """Return protocol and canonical address of a connection that may register.

    An IPv4 address mapped into IPv6 is one of IPv4: so connections arrive at a socket for both protocols.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return Refused(Refusal.ADDRESS, f"The address of this connection is unknown to the server; {AGAIN} later.")
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_multicast or address.is_unspecified or getattr(address, "scope_id", None):
        kind: str | None = "not the address of one host"
    else:
        kind = None if env == "devel" else why_not_public(address)
    if kind is not None:
        return Refused(
            Refusal.ADDRESS,
            f"This host is seen as {address}, {kind}; a monitor needs a public address. "
            "Register from a network with public addresses, or without this protocol (--no-ipv4, --no-ipv6).",
        )
    return ("v4" if address.version == 4 else "v6"), str(address)


def recent_registrations(times: Sequence[float], now: datetime) -> list[float]:
    """Return the times (seconds since 1970) that count for the limit of an hour.

    A time in the future was written while the clock was wrong; it does not count, or it would for longer than an hour.
    """
    return [at for at in times if -_CLOCKS_DIFFER <= now.timestamp() - at < _AN_HOUR]


def too_many(network: str) -> Refused:
    """Return the refusal of more registrations than a network may begin in an hour."""
    return Refused(
        Refusal.TOO_MANY,
        f"There were {MOST_AN_HOUR} registrations from {network} within an hour, which is the limit; "
        f"{AGAIN} in an hour.",
    )


# ---- the state machine -----------------------------------------------------------------------------------------------


def next_step(state: State, ipv: IpVersion, ip: str, now: datetime) -> Step | Refused:
    """Decide what to do with a request for a registration that comes from ``ip``.

    Its first address of each protocol stays: a request from another one is that of another host, or of a host that has
    moved, and neither is what a person confirms. The registration itself goes on.
    """
    if (ended := why_ended(state, now)) is not None:
        return ended
    known = state.address(ipv)
    if known not in ("", ip) or (not known and state.status != "pending"):
        return Refused(
            Refusal.OTHER_ADDRESS,
            f"This registration was begun from another address than {ip}. If this is the same host, or a copy of it, "
            f"{AGAIN} here.",
        )
    if state.status == "pending":
        return Step.WAIT if known else Step.ADD_ADDRESS
    if state.status != "accepted":
        return Step.COMPLETE
    if state.handed_on is None:
        return Step.HAND_OUT
    return Step.REPEAT if now - state.handed_on < REPEAT_FOR else Step.COMPLETE


def why_ended(state: State, now: datetime) -> Refused | None:
    """Return the last answer to a registration that has ended without a key; ``None`` if it has not."""
    match state.status:
        case "rejected":
            why = f": {state.reason}" if state.reason else ""
            return Refused(Refusal.REJECTED, f"This registration was rejected{why}.")
        case "cancelled":
            return _expired()
        case "pending" | "accepted" if is_too_old(state, now):
            return _expired()
    return None


def is_too_old(state: State, now: datetime) -> bool:
    """Return whether the time has passed in which it must be confirmed, or its key fetched."""
    if state.status == "accepted":
        return state.handed_on is None and now - (state.decided_on or state.created_on) >= CONFIRM_WITHIN
    return state.status == "pending" and now - state.created_on >= CONFIRM_WITHIN


def _expired() -> Refused:
    hours = CONFIRM_WITHIN / timedelta(hours=1)
    return Refused(
        Refusal.ENDED, f"This registration has ended, since it was not finished within {hours:.0f} hours; {AGAIN}."
    )


# ---- confirming ------------------------------------------------------------------------------------------------------


def clean_reason(text: str) -> str:
    """Return a person's reason as the host will print it: one line of at most 300 printable characters."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())[:_MAX_SENTENCE].rstrip(".")


def parse_location(text: str) -> str | Problem:
    """Return the location code: 3 to 5 letters, such as ``nlams``."""
    code = text.strip().lower()
    if _LOCATION.fullmatch(code):
        return code
    return Problem(
        "The location must be 3 to 5 letters, such as nlams (country and airport) or ams (airport).", about="location"
    )


def free_name(location: str, account: Account, env: Environment, domain: str, taken: Collection[str]) -> str | Problem:
    """Return ``<location><number>-<account token>.<env>.<domain>`` with the smallest number that is free.

    Names of deleted monitors are taken: results and certificates of theirs still exist.
    """
    if not _LABEL.fullmatch(account.token):
        return Problem(
            "The account has no token that names can contain; ask an operator of the pool to give it one.",
            about="account",
        )
    used = {name.lower() for name in taken}
    for number in range(1, len(used) + 2):
        name = f"{location}{number}-{account.token}.{env}.{domain}"
        if name not in used:
            try:
                return check_monitor_name(name, env)
            except InvalidName as error:
                return Problem(f"No name can be formed: {error}")
    raise AssertionError("unreachable")


def outcomes(
    account_id: int | None, holders: Collection[KnownMonitor], by: Confirmer, renews: Collection[KnownMonitor]
) -> tuple[Outcome, ...]:
    """Return the outcomes to choose from; empty if no other monitor has one of the addresses."""
    others = [one for one in holders if one.name not in {mine.name for mine in renews}]
    if not others:
        return ()
    if renews:
        return (Outcome.NEW_KEY,)
    own = all(one.account_id == account_id or account_id is None for one in others)
    own = own and all(by.may_act_for(one.account_id) for one in others)
    one_host = len({one.name for one in others}) == 1
    return (Outcome.NEW_KEY, Outcome.NEW_NAME) if own and one_host else (Outcome.NEW_NAME,)


def plan(
    *,
    env: Environment,
    domain: str,
    state: State,
    account: Account,
    location: str,
    choice: Outcome | None,
    by: Confirmer,
    holders: Sequence[KnownMonitor],
    renews: Sequence[KnownMonitor],
    named: Sequence[KnownMonitor],
    taken: Collection[str],
) -> Plan | Problem:
    """Plan the changes of a confirmation.

    Args:
        holders: current monitors that have an address of the registration.
        renews: the monitors, also deleted ones, of the name whose key the host showed.
        named: the monitors, also deleted ones, of the names of ``holders``.
        taken: names of all monitors, also deleted ones, whose name contains the account's token.
    """
    if not by.may_act_for(account.id):
        return Problem("You may not register monitors for this account.", about="account")
    if renews and any(one.account_id != account.id for one in renews) and not by.operator:
        return Problem(
            "The host showed the key of a monitor that belongs to another account; confirm it for that one.",
            about="account",
        )
    others = [one for one in holders if one.name not in {mine.name for mine in renews}]
    if any(not by.may_act_for(one.account_id) for one in others):
        return Problem(
            "An address of this host belongs to a monitor of another account. Ask its owner to remove that monitor, "
            "or an operator of the pool for help."
        )
    if others and choice not in (allowed := outcomes(account.id, holders, by, renews)):
        return Problem(
            "An address of this host belongs to a monitor already; choose what becomes of it.", allowed, "outcome"
        )
    if renews:
        base = list(renews)
    elif others and choice is Outcome.NEW_KEY:
        base = [one for one in named if one.name == others[0].name]
    else:
        base = []
    if base:
        name: str | Problem = base[0].name
    else:
        code = parse_location(location)
        if isinstance(code, Problem):
            return code
        name = free_name(code, account, env, domain, taken)
    if isinstance(name, Problem):
        return name
    return _within_limit(_changes(name, state, base, holders, account), account, holders)


def _changes(
    name: str, state: State, base: Sequence[KnownMonitor], holders: Sequence[KnownMonitor], account: Account
) -> Plan:
    insert: dict[IpVersion, str] = {}
    update: dict[int, str] = {}
    revive: set[int] = set()
    mine = {one.ipv: one for one in base}
    for ipv in IP_VERSIONS:
        ip = state.address(ipv)
        if not ip:
            continue
        known = mine.get(ipv)
        if known is None:
            insert[ipv] = ip
        else:
            if known.status == "deleted":
                revive.add(known.id)
            if known.ip != ip or known.status == "deleted":
                update[known.id] = ip
    aside = frozenset(one.id for one in holders if one.name != name)
    status = "testing" if account.monitor_enabled else "pending"
    return Plan(name, insert, update, frozenset(revive), aside, status)  # type: ignore[arg-type]  # a literal


def _within_limit(made: Plan, account: Account, holders: Sequence[KnownMonitor]) -> Plan | Problem:
    added = len(made.insert) + len(made.revive)
    freed = sum(one.id in made.set_aside and one.account_id == account.id for one in holders)
    if account.monitor_limit is not None and added and account.monitors + added - freed > account.monitor_limit:
        return Problem(
            f"The account has {account.monitors} monitors, and may have {account.monitor_limit} (IPv4 and IPv6 count "
            "separately); remove one, or ask an operator of the pool for more.",
            about="account",
        )
    return made

"""Run registrations in the ledger: each step is one transaction, and every step may be repeated.

Any number of processes may run this at once. The row of a registration is locked first, then that of the network it
comes from, then that of its account, under which monitors are named and counted; so of two simultaneous steps, the
second sees what the first has done.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from auth.api_key_store import add_key, keys_of_monitors, replace_keys
from auth.api_keys import Peppers
from auth.deletion import SET_ASIDE, delete_monitors
from auth.registration.accounts import lock_account
from auth.registration.model import (
    CONFIRM_PATH,
    CONFIRM_WITHIN,
    MOST_AN_HOUR,
    MOST_UNCONFIRMED,
    REPEAT_FOR,
    Accepted,
    Account,
    Answer,
    Completed,
    Confirmed,
    Confirmer,
    KnownMonitor,
    Outcome,
    Pending,
    Plan,
    Problem,
    Refusal,
    Refused,
    Rejected,
    Request,
    Shown,
    State,
    Status,
    Warned,
)
from auth.registration.rules import (
    AGAIN,
    NO_LONGER,
    Step,
    check_hostname,
    check_peer,
    clean_client,
    clean_reason,
    is_too_old,
    next_step,
    outcomes,
    plan,
    recent_registrations,
    too_many,
)
from auth.registration.secret import new_verification_token, seal, unseal
from runtime.addresses import network_of
from runtime.db.engine import from_db, reading, to_db, to_db_seconds, transaction
from runtime.db.locks import lock_account_id, lock_monitors
from schema.names import Environment, IpVersion
from schema.tables import (
    accounts,
    api_key_ends,
    monitor_registrations,
    monitors,
    registration_details,
    registration_sources,
)

T = TypeVar("T")

_ATTEMPTS: Final = 20
"""Attempts of a transaction: each may meet a row that another process has just inserted."""

_r, _d = monitor_registrations.c, registration_details.c
_JOINED: Final = monitor_registrations.join(registration_details, _d.registration_id == _r.id)
_COLUMNS: Final[tuple[Any, ...]] = (
    *(_r.id, _r.verification_token, _r.status, _r.ip4, _r.ip6, _r.hostname, _r.client, _r.account_id, _r.tls_name),
    *(_r.created_on, _r.last_seen, _d.renews_name, _d.decided_by, _d.decided_on, _d.reason),
    *(_d.api_key_id, _d.handed_on, _d.sealed_key),
)


@dataclass(frozen=True, slots=True)
class Registrations:
    """The registrations of one environment, whose monitors are named below ``domain``.

    Every method may raise :class:`runtime.db.retry.DatabaseUnavailable`; repeating it is then safe.
    """

    engine: Engine
    env: Environment
    domain: str
    peppers: Peppers

    def poll(self, request: Request, now: datetime) -> Answer:
        """Answer one request of a host."""
        return self._write(lambda connection: _poll(self, connection, request, now))

    def show(self, verification_token: str, by: Confirmer, now: datetime) -> Shown | None:
        """Return what the confirm page shows to a person; ``None`` if there is no such registration."""
        return self._show(_r.verification_token == verification_token, by, now)

    def show_by_id(self, registration_id: int, by: Confirmer, now: datetime) -> Shown | None:
        """Return a registration by its id, for operators; ``None`` if there is none."""
        return self._show(_r.id == registration_id, by, now)

    def confirm(
        self,
        verification_token: str,
        *,
        account_id: int,
        location: str,
        choice: Outcome | None = None,
        by: Confirmer,
        now: datetime,
    ) -> Confirmed | Problem:
        """Confirm a registration for an account. Repeating this for the same account changes nothing.

        Args:
            location: code that the monitor's name begins with; ignored if the monitor keeps its name.
            choice: what becomes of a monitor that has an address already; ``None`` if the page warned of none.
        """
        return self._write(
            lambda connection: _confirm(self, connection, verification_token, account_id, location, choice, by, now)
        )

    def reject(self, verification_token: str, *, by: Confirmer, reason: str, now: datetime) -> Rejected | Problem:
        """Reject a registration that waits for confirmation; its host is told the reason."""
        return self._write(lambda connection: _reject(connection, verification_token, by, reason, now))

    def listed(self, now: datetime, *, status: Status | None = None, account_id: int | None = None) -> list[Shown]:
        """Return all registrations, newest first, without warnings."""
        query = sa.select(*_COLUMNS).select_from(_JOINED).order_by(_r.id.desc())
        if account_id is not None:
            query = query.where(_r.account_id == account_id)
        if status == "pending":  # the others may include pending ones that are too old
            query = query.where(_r.status == status)
        with reading(self.engine) as connection:
            found = [_shown(row, now) for row in connection.execute(query)]
        return [one for one in found if status is None or one.status == status]

    def expire(self, now: datetime) -> int:
        """End registrations that nobody finished, and forget sealed keys and old networks; a periodic job.

        Returns the number of registrations that have ended. The steps of a host do not depend on it.
        """
        return self._write(lambda connection: _expire(connection, now))

    def _show(self, which: sa.ColumnElement[bool], by: Confirmer, now: datetime) -> Shown | None:
        with reading(self.engine) as connection:
            row = connection.execute(sa.select(*_COLUMNS).select_from(_JOINED).where(which)).first()
            if row is None:
                return None
            state = _state(row)
            if state.status != "pending" or is_too_old(state, now):
                return _shown(row, now)
            holders = _holders(connection, state.addresses, lock=False)
            renews = _named(connection, [row.renews_name] if row.renews_name else [], lock=False)
        return _shown(row, now, by, holders, renews)

    def _write(self, work: Callable[[Connection], T]) -> T:
        return transaction(self.engine, work, attempts=_ATTEMPTS, retry_on=(IntegrityError,))


# ---- a request of the host -------------------------------------------------------------------------------------------


def _poll(these: Registrations, connection: Connection, request: Request, now: datetime) -> Answer:
    row = _locked(connection, _r.request_token == request.registration.hashed)
    peer = check_peer(request.peer, these.env)
    if isinstance(peer, Refused):
        return peer
    ipv, ip = peer
    if row is None:
        return _begin(connection, request, ipv, ip, now)
    state = _state(row)
    step = next_step(state, ipv, ip, now)
    if isinstance(step, Refused):
        if state.status in ("pending", "accepted") and is_too_old(state, now):
            _update(connection, row.id, {"status": "cancelled"})
        return step
    path = CONFIRM_PATH + row.verification_token
    _update(connection, row.id, {"last_seen": to_db_seconds(now)})
    match step:
        case Step.WAIT:
            return Pending(path)
        case Step.ADD_ADDRESS:
            return _add_address(connection, row, ipv, ip, path, now)
        case Step.HAND_OUT:
            return _hand_out(these, connection, row, request, path, now)
        case Step.REPEAT:
            key = unseal(row.sealed_key or "", request.registration, row.verification_token, these.peppers)
            if key is not None and not _is_revoked(connection, row.api_key_id, now):
                return Accepted(path, key, row.tls_name)
    if state.status == "accepted":
        _update(connection, row.id, {"status": "completed"})
        _update_details(connection, row.id, {"sealed_key": None})
    return Completed(path, NO_LONGER)


def _begin(connection: Connection, request: Request, ipv: IpVersion, ip: str, now: datetime) -> Answer:
    hostname = check_hostname(request.hostname)
    if isinstance(hostname, Refused):
        return hostname
    if (refused := _count(connection, network_of(ip), now)) is not None:
        return refused
    renews = _renewed(connection, request.monitor_ids)
    name = None if renews is None else renews.name
    account_id = renews.account_id if renews is not None else None
    if request.account_token:
        wanted = _account_id(connection, request.account_token)
        account_id = wanted if account_id is None else account_id
        if wanted is None:
            refused = Refused(
                Refusal.ACCOUNT,
                "The account of option -a is unknown; check it, or choose one on the page instead.",
            )
    if refused is None and account_id is not None:
        refused = _unconfirmed(connection, account_id, now, besides=name)
    if refused is not None:
        _count_refusal(connection, network_of(ip), refused.kind)
        return refused
    if name is not None:
        _cancel_former(connection, name)
    token = new_verification_token()
    row = {
        "request_token": request.registration.hashed,
        "verification_token": token,
        "ip4" if ipv == "v4" else "ip6": ip,
        "hostname": hostname,
        "client": clean_client(request.user_agent),
        "account_id": account_id,
        "status": "pending",
        "last_seen": to_db_seconds(now),
        "created_on": to_db_seconds(now),
    }
    done = connection.execute(sa.insert(monitor_registrations).values(row)).inserted_primary_key
    assert done is not None
    connection.execute(sa.insert(registration_details).values(registration_id=int(done[0]), renews_name=name))
    return Pending(CONFIRM_PATH + token)


def _add_address(
    connection: Connection, row: sa.Row[Any], ipv: IpVersion, ip: str, path: str, now: datetime
) -> Pending | Refused:
    if (refused := _count(connection, network_of(ip), now)) is not None:
        return refused
    _update(connection, row.id, {"ip4" if ipv == "v4" else "ip6": ip})
    return Pending(path)


def _hand_out(
    these: Registrations, connection: Connection, row: sa.Row[Any], request: Request, path: str, now: datetime
) -> Answer:
    """Make the key now: only a request of the host has the secret to seal it with."""
    mine = [one for one in _named(connection, [row.tls_name], lock=True) if one.status != "deleted"]
    if not mine:
        _update(connection, row.id, {"status": "cancelled"})
        return Refused(Refusal.ENDED, f"The monitor {row.tls_name} was removed after it was confirmed; {AGAIN}.")
    ids = [one.id for one in mine]
    replace_keys(connection, keys_of_monitors(connection, ids), now)
    key_id, key = add_key(connection, these.peppers, now, account_id=row.account_id, monitor_ids=ids)
    sealed = seal(key, request.registration, row.verification_token, these.peppers)
    _update_details(connection, row.id, {"api_key_id": key_id, "handed_on": to_db(now), "sealed_key": sealed})
    return Accepted(path, key, row.tls_name)


def _is_revoked(connection: Connection, key_id: int, now: datetime) -> bool:
    e = api_key_ends.c
    ends_on = connection.scalar(sa.select(e.ends_on).where(e.api_key_id == key_id))
    return ends_on is not None and ends_on <= to_db(now)


# ---- limits ----------------------------------------------------------------------------------------------------------


def _count(connection: Connection, network: str, now: datetime) -> Refused | None:
    """Count a registration from a network, whose row this locks, or refuse it."""
    s = registration_sources.c
    row = connection.execute(sa.select(s.recent).where(s.network == network).with_for_update()).first()
    recent = recent_registrations(_times(row.recent if row else "[]"), now)
    if len(recent) >= MOST_AN_HOUR:
        refused = too_many(network)
        _count_refusal(connection, network, refused.kind)
        return refused
    values = {"recent": json.dumps([*recent, round(now.timestamp(), 3)]), "seen_on": to_db(now)}
    if row is None:
        connection.execute(sa.insert(registration_sources).values(network=network, begun=1, refused=0, **values))
    else:
        change = sa.update(registration_sources).where(s.network == network)
        connection.execute(change.values(begun=s.begun + 1, **values))
    return None


def _count_refusal(connection: Connection, network: str, kind: Refusal) -> None:
    s = registration_sources.c
    change = sa.update(registration_sources).where(s.network == network)
    connection.execute(change.values(refused=s.refused + 1, refusal=kind.value))


def _times(text: str) -> list[float]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [float(at) for at in found if isinstance(at, int | float)] if isinstance(found, list) else []


def _unconfirmed(connection: Connection, account_id: int, now: datetime, besides: str | None) -> Refused | None:
    """Refuse a further unconfirmed registration of an account, whose row this locks.

    Args:
        besides: the monitor whose key is to be renewed; its former registrations are not counted, since a new one
            replaces them.
    """
    row = connection.execute(sa.select(accounts.c.name).where(accounts.c.id == account_id).with_for_update()).first()
    lock_account_id(connection, account_id)
    count = connection.scalar(
        sa.select(sa.func.count())
        .select_from(_JOINED)
        .where(_r.account_id == account_id, _r.status == "pending", _r.created_on > to_db(now - CONFIRM_WITHIN))
        .where(sa.or_(_d.renews_name.is_(None), _d.renews_name != (besides or "")))
    )
    if row is not None and (count or 0) < MOST_UNCONFIRMED:
        return None
    return Refused(
        Refusal.TOO_MANY,
        f"This account has {MOST_UNCONFIRMED} registrations that wait for confirmation, which is the limit; confirm or "
        f"reject one, or {AGAIN} without -a.",
    )


def _cancel_former(connection: Connection, name: str) -> None:
    """Cancel what has not been confirmed of former attempts to renew the key of this monitor.

    This locks rows of registrations after that of a network. The host polls one registration at a time, so it is rare
    that another transaction waits for them the other way round; the database then ends one, which is repeated.
    """
    former = sa.select(_d.registration_id).where(_d.renews_name == name)
    change = sa.update(monitor_registrations).where(_r.id.in_(former), _r.status == "pending")
    connection.execute(change.values(status="cancelled"))


def _account_id(connection: Connection, token: str) -> int | None:
    if len(token) > 36:
        return None
    found: int | None = connection.scalar(sa.select(accounts.c.id).where(accounts.c.id_token == token))
    return found


def _renewed(connection: Connection, monitor_ids: Collection[int]) -> KnownMonitor | None:
    """Return the monitor whose name a host with a key keeps; ``None`` if all of the key's monitors are deleted."""
    if not monitor_ids:
        return None
    found = _monitors(connection, monitors.c.id.in_(sorted(monitor_ids)), lock=False)
    return next((one for one in found if one.status != "deleted"), None)


# ---- decisions of people ---------------------------------------------------------------------------------------------


def _confirm(
    these: Registrations,
    connection: Connection,
    token: str,
    account_id: int,
    location: str,
    choice: Outcome | None,
    by: Confirmer,
    now: datetime,
) -> Confirmed | Problem:
    row = _locked(connection, _r.verification_token == token)
    if row is None:
        return Problem("There is no such registration.")
    state = _state(row)
    if state.status in ("accepted", "completed") and row.account_id == account_id and by.may_act_for(account_id):
        return Confirmed(row.tls_name)
    if (problem := _not_pending(state, now)) is not None:
        return problem
    account = lock_account(connection, account_id)
    if account is None:
        return Problem("There is no such account.")
    holders = _holders(connection, state.addresses, lock=True)
    made = plan(
        env=these.env,
        domain=these.domain,
        state=state,
        account=account,
        location=location,
        choice=choice,
        by=by,
        holders=holders,
        renews=_named(connection, [row.renews_name] if row.renews_name else [], lock=True),
        named=_named(connection, [one.name for one in holders], lock=True),
        taken=_taken(connection, account.token),
    )
    if isinstance(made, Problem):
        return made
    _apply(connection, made, row, account, location, by, now)
    return Confirmed(made.name, tuple(sorted({one.name for one in holders if one.id in made.set_aside})))


def _not_pending(state: State, now: datetime) -> Problem | None:
    if state.status == "pending" and not is_too_old(state, now):
        return None
    what = {
        "accepted": "was confirmed already",
        "completed": "was confirmed already",
        "rejected": "was rejected",
    }.get(state.status, "has ended, since nobody confirmed it in time")
    return Problem(f"This registration {what}. To register the host anew, {AGAIN} on it.")


def _apply(
    connection: Connection,
    made: Plan,
    row: sa.Row[Any],
    account: Account,
    location: str,
    by: Confirmer,
    now: datetime,
) -> None:
    m = monitors.c
    client = row.client.removeprefix("ntppool-agent/")[:255]
    # First, since they hold the addresses.
    delete_monitors(connection, made.set_aside, now, SET_ASIDE)
    for monitor_id, ip in sorted(made.update.items()):
        values: dict[str, Any] = {"ip": ip}
        if monitor_id in made.revive:
            values |= {"status": made.status, "deleted_on": None, "is_current": True}
        connection.execute(sa.update(monitors).where(m.id == monitor_id).values(values))
    for ipv, ip in sorted(made.insert.items()):
        new = {
            "type": "monitor",
            "user_id": by.user_id,
            "account_id": account.id,
            "hostname": row.hostname[:255],
            "location": location.strip().lower()[:5],
            "ip": ip,
            "ip_version": ipv,
            "tls_name": made.name,
            "status": made.status,
            "config": "{}",
            "client_version": client,
            "created_on": to_db_seconds(now),
        }
        connection.execute(sa.insert(monitors).values(new))
    one = connection.scalar(sa.select(sa.func.min(m.id)).where(m.tls_name == made.name))
    values = {"status": "accepted", "account_id": account.id, "tls_name": made.name, "monitor_id": one}
    _update(connection, row.id, values | {"location_code": location.strip().lower()[:5]})
    _update_details(connection, row.id, {"decided_by": by.label[:255], "decided_on": to_db(now)})


def _reject(connection: Connection, token: str, by: Confirmer, reason: str, now: datetime) -> Rejected | Problem:
    row = _locked(connection, _r.verification_token == token)
    if row is None:
        return Problem("There is no such registration.")
    if row.account_id is not None and not by.may_act_for(row.account_id):
        return Problem("This registration is for an account that you may not act for.")
    if row.status == "rejected":
        return Rejected()
    if (problem := _not_pending(_state(row), now)) is not None:
        return problem
    _update(connection, row.id, {"status": "rejected"})
    decided = {"decided_by": by.label[:255], "decided_on": to_db(now), "reason": clean_reason(reason)}
    _update_details(connection, row.id, decided)
    return Rejected()


def _expire(connection: Connection, now: datetime) -> int:
    handed = sa.select(_d.registration_id).where(_d.sealed_key.is_not(None), _d.handed_on <= to_db(now - REPEAT_FOR))
    for registration_id in sorted(connection.scalars(handed)):
        row = _locked(connection, _r.id == registration_id)
        if row is not None and row.sealed_key is not None:
            _update(connection, row.id, {"status": "completed"})
            _update_details(connection, row.id, {"sealed_key": None})
    ended = 0
    old = (
        sa.select(_r.id)
        .select_from(_JOINED)
        .where(_r.status.in_(("pending", "accepted")), _r.created_on <= to_db(now - CONFIRM_WITHIN))
    )
    for registration_id in sorted(connection.scalars(old)):
        row = _locked(connection, _r.id == registration_id)
        if row is not None and is_too_old(_state(row), now):
            _update(connection, row.id, {"status": "cancelled"})
            ended += 1
    s = registration_sources.c
    connection.execute(sa.delete(registration_sources).where(s.seen_on <= to_db(now - 30 * CONFIRM_WITHIN)))
    return ended


# ---- rows ------------------------------------------------------------------------------------------------------------


def _locked(connection: Connection, which: sa.ColumnElement[bool]) -> sa.Row[Any] | None:
    query = sa.select(*_COLUMNS).select_from(_JOINED).where(which).with_for_update()
    return connection.execute(query).first()


def _update(connection: Connection, registration_id: int, values: Mapping[str, Any]) -> None:
    connection.execute(sa.update(monitor_registrations).where(_r.id == registration_id).values(dict(values)))


def _update_details(connection: Connection, registration_id: int, values: Mapping[str, Any]) -> None:
    change = sa.update(registration_details).where(_d.registration_id == registration_id)
    connection.execute(change.values(dict(values)))


def _state(row: sa.Row[Any]) -> State:
    return State(
        status=row.status,
        created_on=from_db(row.created_on),
        ip4=row.ip4,
        ip6=row.ip6,
        decided_on=None if row.decided_on is None else from_db(row.decided_on),
        handed_on=None if row.handed_on is None else from_db(row.handed_on),
        reason=row.reason or "",
    )


def _holders(connection: Connection, addresses: Collection[str], *, lock: bool) -> list[KnownMonitor]:
    m = monitors.c
    return _monitors(connection, sa.and_(m.ip.in_(addresses), m.is_current.is_not(None)), lock=lock)


def _named(connection: Connection, names: Collection[str], *, lock: bool) -> list[KnownMonitor]:
    return _monitors(connection, monitors.c.tls_name.in_(sorted(set(names))), lock=lock) if names else []


def _monitors(connection: Connection, which: sa.ColumnElement[bool], *, lock: bool) -> list[KnownMonitor]:
    m = monitors.c
    query = sa.select(m.id, m.tls_name, m.ip_version, m.ip, m.account_id, m.status)
    query = query.where(m.type == "monitor", m.ip_version.is_not(None), which).order_by(m.id)
    found = [
        KnownMonitor(row.id, row.tls_name or "", row.ip_version, row.ip, row.account_id, row.status)
        for row in connection.execute(query.with_for_update() if lock else query)
    ]
    if lock:
        lock_monitors(connection, [one.name for one in found])
    return found


def _taken(connection: Connection, account_token: str) -> set[str]:
    name = monitors.c.tls_name
    query = sa.select(name).where(name.contains(f"-{account_token}.", autoescape=True))
    return {str(one) for one in connection.scalars(query)}


def _shown(
    row: sa.Row[Any],
    now: datetime,
    by: Confirmer | None = None,
    holders: Collection[KnownMonitor] = (),
    renews: Collection[KnownMonitor] = (),
) -> Shown:
    state = _state(row)
    others = [one for one in holders if one.name != row.renews_name]
    choose = outcomes(row.account_id, holders, by, renews) if by is not None else ()
    return Shown(
        id=row.id,
        verification_token=row.verification_token,
        status="cancelled" if is_too_old(state, now) else state.status,
        ip4=row.ip4,
        ip6=row.ip6,
        hostname=row.hostname,
        client=row.client,
        account_id=row.account_id,
        name=row.tls_name or row.renews_name or "",
        renews=row.renews_name is not None,
        created_on=state.created_on,
        expires_on=state.created_on + CONFIRM_WITHIN,
        last_seen=from_db(row.last_seen),
        reason=state.reason,
        decided_by=row.decided_by or "",
        warnings=tuple(
            Warned(
                one.ip or "",
                one.name if by is not None and by.may_act_for(one.account_id) else None,
                Outcome.NEW_KEY in choose,
            )
            for one in others
        ),
        choose=choose,
        handed_on=state.handed_on,
    )

"""Issue, revoke and list certificates in the ledger.

Issuing is idempotent: an agent whose answer was lost asks again with the same signing request, and gets the same
certificate. So do agents that ask several times at once, whichever process answers. A certificate is signed before its
transaction, since Vault may take seconds; of several that were signed at once, one is stored and handed out, and the
others are never seen by anyone.

Locks are taken in one order: first the monitor's rows and name, then its certificates. So no certificate is issued
beside a transaction that deletes the monitor and revokes its certificates, not even on another node of a cluster.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from auth.ca.authority import Authority, IssuedCertificate, Revocation
from auth.ca.list_file import write_list
from auth.ca.request import SigningRequest
from runtime.db.engine import from_db, reading, to_db, transaction
from runtime.db.locks import lock_monitors
from schema.tables import certificates, monitors

SAME_CERTIFICATE_FOR: Final = timedelta(minutes=10)
"""Time for which a signing request gets the same certificate."""

MOST_AN_HOUR: Final = 60
"""Maximum certificates of one monitor in an hour. With the shortest lifetime, a host needs 45."""

Kind = Literal["monitor", "server"]


class NoSuchMonitor(Exception):
    """There is no monitor of that name, or it is deleted; it gets no certificate."""


class TooManyCertificates(Exception):
    """The monitor has had so many certificates lately that it gets no further one now."""


@dataclass(frozen=True, slots=True)
class StoredCertificate:
    """A certificate in the ledger, without its chain; times are aware."""

    serial: str
    kind: Kind
    name: str
    not_before: datetime
    not_after: datetime
    issued_on: datetime
    revoked_on: datetime | None

    def state(self, now: datetime) -> str:
        """Return ``revoked``, ``ended`` or ``valid``."""
        if self.revoked_on is not None:
            return "revoked"
        return "ended" if self.not_after <= now else "valid"


def issue_to_monitor(
    engine: Engine, authority: Authority, request: SigningRequest, name: str, now: datetime, lifetime: timedelta
) -> IssuedCertificate:
    """Return the certificate for this request of the monitor ``name``: a new one, or that of the last 10 minutes.

    A certificate that is revoked, or past a third of its life, is not returned again. The caller must know that the
    request comes from that monitor.

    Args:
        now: aware.

    Raises:
        NoSuchMonitor: there is none of that name that is not deleted.
        TooManyCertificates: it has had too many in the last hour.
        InvalidName: ``name`` is not that of a monitor of the CA's environment.
        AuthorityUnavailable: the CA cannot sign now.
        DatabaseUnavailable: the ledger cannot be reached; the same request may be made again.
    """
    with reading(engine) as connection:
        require_monitor(connection, name)
        if found := _recent(connection, request, name, now):
            return found
        require_few(connection, name, now)
    made = authority.sign_monitor(request, name, lifetime)

    def keep(connection: Connection) -> IssuedCertificate:
        require_monitor(connection, name, lock=True)
        if found := _recent(connection, request, name, now):
            return found
        store_certificate(connection, made, "monitor", name, request, now)
        return made

    return transaction(engine, keep)


def store_server_certificate(
    connection: Connection, made: IssuedCertificate, host: str, request: SigningRequest, now: datetime
) -> None:
    """Store a server's certificate; it must be committed before anyone gets the certificate."""
    store_certificate(connection, made, "server", host, request, now)


def require_monitor(connection: Connection, name: str, *, lock: bool = False) -> None:
    """Check that the monitor exists and is not deleted; ``lock`` holds its rows until the transaction ends."""
    m = monitors.c
    # All rows of the name are read in the order of its index, and so locked in the same order by everyone.
    query = sa.select(m.tls_name, m.status).where(m.tls_name == name, m.type == "monitor")
    query = query.order_by(m.tls_name, m.ip_version)
    rows = connection.execute(query.with_for_update() if lock else query).all()
    if lock:
        lock_monitors(connection, [name])
    # To most collations, names that differ in case or trailing spaces are equal.
    if all(row.status == "deleted" or row.tls_name != name for row in rows):
        raise NoSuchMonitor(f"monitor {name!r}: there is none, or it is deleted")


def require_few(connection: Connection, name: str, now: datetime) -> None:
    """Check that the monitor may have another certificate: each is a row that stays.

    Raises:
        TooManyCertificates: it may not.
    """
    c = certificates.c
    query = sa.select(sa.func.count()).where(c.name == name, c.issued_on > to_db(now - timedelta(hours=1)))
    if (connection.scalar(query) or 0) >= MOST_AN_HOUR:
        raise TooManyCertificates(
            f"monitor {name}: had {MOST_AN_HOUR} certificates in the last hour, which is the limit"
        )


def _recent(connection: Connection, request: SigningRequest, name: str, now: datetime) -> IssuedCertificate | None:
    """Return the newest certificate for this request that may be returned again."""
    c = certificates.c
    query = (
        sa.select(c.serial, c.chain, c.not_before, c.not_after, c.issued_on)
        .where(c.name == name, c.request_hash == request.digest, c.kind == "monitor")
        .where(c.issued_on > to_db(now - SAME_CERTIFICATE_FOR), c.revoked_on.is_(None))
        .order_by(c.issued_on.desc())
        .limit(1)
    )
    row = connection.execute(query).first()
    if row is None or not may_be_repeated(row.not_before, row.not_after, now):
        return None
    return IssuedCertificate(row.serial, row.chain, from_db(row.not_before), from_db(row.not_after))


def may_be_repeated(not_before: datetime, not_after: datetime, now: datetime) -> bool:
    """Return whether a certificate of these times, as in the ledger, may be handed out again.

    Past two thirds of its life an agent would renew it at once, and ask again for ever.
    """
    return to_db(now) < not_before + (not_after - not_before) / 3


def store_certificate(
    connection: Connection,
    made: IssuedCertificate,
    kind: Kind,
    name: str,
    request: SigningRequest,
    now: datetime,
) -> None:
    """Store a certificate; it must be committed before anyone gets the certificate."""
    connection.execute(
        sa.insert(certificates).values(
            serial=made.serial,
            kind=kind,
            name=name,
            request_hash=request.digest,
            chain=made.chain,
            not_before=to_db(made.not_before),
            not_after=to_db(made.not_after),
            issued_on=to_db(now),
        )
    )


def revoke_monitor(connection: Connection, name: str, now: datetime) -> list[str]:
    """Revoke all certificates of a monitor that are still valid, and return their serials.

    In the transaction that deletes the monitor, this leaves it without a certificate, even if it asks for one now.
    """
    lock = sa.select(monitors.c.id).where(monitors.c.tls_name == name)
    connection.execute(lock.order_by(monitors.c.tls_name, monitors.c.ip_version).with_for_update()).all()
    lock_monitors(connection, [name])
    return _revoke(connection, [certificates.c.name == name, certificates.c.kind == "monitor"], now)


def revoke_serial(connection: Connection, serial: str, now: datetime) -> list[str]:
    """Revoke the certificate with this serial, if it is still valid, and return its serial."""
    return _revoke(connection, [certificates.c.serial == serial], now)


def _revoke(connection: Connection, which: Sequence[sa.ColumnElement[bool]], now: datetime) -> list[str]:
    c = certificates.c
    valid = sa.and_(*which, c.revoked_on.is_(None), c.not_after > to_db(now))
    serials = list(connection.scalars(sa.select(c.serial).where(valid).order_by(c.serial).with_for_update()))
    if serials:
        connection.execute(sa.update(certificates).where(c.serial.in_(serials)).values(revoked_on=to_db(now)))
    return serials


def revoked_certificates(connection: Connection, now: datetime) -> list[Revocation]:
    """Return the certificates that are revoked and have not ended, for a revocation list."""
    c = certificates.c
    query = sa.select(c.serial, c.revoked_on).where(c.revoked_on.is_not(None), c.not_after > to_db(now))
    return [Revocation(row.serial, from_db(row.revoked_on)) for row in connection.execute(query.order_by(c.serial))]


def certificates_of(connection: Connection, name: str) -> list[StoredCertificate]:
    """Return the certificates of a monitor or server, the newest last."""
    return _stored(connection, certificates.c.name == name)


def find_certificate(connection: Connection, serial: str) -> StoredCertificate | None:
    """Return the certificate with this serial."""
    return next(iter(_stored(connection, certificates.c.serial == serial)), None)


def _stored(connection: Connection, which: sa.ColumnElement[bool]) -> list[StoredCertificate]:
    c = certificates.c
    query = (
        sa.select(c.serial, c.kind, c.name, c.not_before, c.not_after, c.issued_on, c.revoked_on)
        .where(which)
        .order_by(c.issued_on, c.serial)
    )
    return [_from_row(row) for row in connection.execute(query)]


def _from_row(row: Any) -> StoredCertificate:
    return StoredCertificate(
        serial=row.serial,
        kind=row.kind,
        name=row.name,
        not_before=from_db(row.not_before),
        not_after=from_db(row.not_after),
        issued_on=from_db(row.issued_on),
        revoked_on=None if row.revoked_on is None else from_db(row.revoked_on),
    )


def write_revocation_list(engine: Engine, authority: Authority, path: Path, now: datetime) -> int:
    """Write the list of revoked certificates for the broker, and return their number. The broker must then reload.

    Raises:
        AuthorityUnavailable: the CA cannot make the list; the previous one is unchanged.
        DatabaseUnavailable: the ledger cannot be reached; the previous list is unchanged.
        OSError: the file cannot be written; it is unchanged.
    """
    revoked: list[Revocation] = []

    def make() -> str:
        with reading(engine) as connection:
            revoked.extend(revoked_certificates(connection, now))
        return authority.revocation_list(revoked)

    write_list(path, make)
    return len(revoked)

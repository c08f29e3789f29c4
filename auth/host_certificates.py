"""Make key and certificate for hosts whose agents cannot make a key themselves, and hand them out for some minutes.

Agents of the older protocol expect both in their configuration, and ask several times before they use them; so the same
pair is returned for ten minutes, whichever process answers. Meanwhile the private key is stored, sealed with the host's
API key, so that only a request with that key can reveal it (:mod:`auth.sealing`).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from auth import sealing
from auth.api_keys import KeyText, Peppers
from auth.ca.authority import Authority
from auth.ca.request import new_key
from auth.certificates import (
    SAME_CERTIFICATE_FOR,
    may_be_repeated,
    require_few,
    require_monitor,
    store_certificate,
)
from runtime.db.engine import reading, to_db, transaction
from schema.tables import certificates, host_certificates

_PURPOSE: Final = b"ntppool-monitor: private key of a host"


@dataclass(frozen=True, slots=True)
class Holder:
    """The host that asks: the API key that it showed, which has been found valid."""

    key_id: int
    key: KeyText


@dataclass(frozen=True, slots=True, repr=False)
class KeyAndCertificate:
    """A private key (PEM, PKCS #8), and its certificate with its chain (PEM)."""

    key: str
    chain: str
    is_new: bool

    def __repr__(self) -> str:
        return f"KeyAndCertificate(is_new={self.is_new})"


def key_and_certificate(
    engine: Engine,
    authority: Authority,
    holder: Holder,
    name: str,
    peppers: Peppers,
    now: datetime,
    lifetime: timedelta,
) -> KeyAndCertificate:
    """Return key and certificate for the host of the monitor ``name``: new ones, or those of the last 10 minutes.

    Args:
        now: aware.

    Raises:
        NoSuchMonitor: there is none of that name that is not deleted.
        TooManyCertificates: it has had too many in the last hour.
        InvalidName: ``name`` is not that of a monitor of the CA's environment.
        AuthorityUnavailable: the CA cannot sign now.
        DatabaseUnavailable: the ledger cannot be reached.
    """
    with reading(engine) as connection:
        require_monitor(connection, name)
        if found := _recent(connection, holder, name, peppers, now):
            return found
        require_few(connection, name, now)
    made = new_key()
    signed = authority.sign_monitor(made.request, name, lifetime)

    def keep(connection: Connection) -> KeyAndCertificate:
        require_monitor(connection, name, lock=True)
        if found := _recent(connection, holder, name, peppers, now):
            return found
        store_certificate(connection, signed, "monitor", name, made.request, now)
        row = {
            "serial": signed.serial,
            "name": name,
            "sealed_key": sealing.seal(made.key, _lock(holder, signed.serial), peppers),
            "issued_on": to_db(now),
        }
        h = host_certificates.c
        if connection.scalar(sa.select(h.serial).where(h.api_key_id == holder.key_id).with_for_update()) is None:
            connection.execute(sa.insert(host_certificates).values(api_key_id=holder.key_id, **row))
        else:
            connection.execute(sa.update(host_certificates).where(h.api_key_id == holder.key_id).values(row))
        return KeyAndCertificate(made.key, signed.chain, True)

    return transaction(engine, keep, retry_on=(IntegrityError,))


def forget_private_keys(connection: Connection, now: datetime) -> int:
    """Remove the sealed keys that are no longer handed out, and return their number."""
    old = host_certificates.c.issued_on <= to_db(now - SAME_CERTIFICATE_FOR)
    return connection.execute(sa.delete(host_certificates).where(old)).rowcount


def _recent(
    connection: Connection, holder: Holder, name: str, peppers: Peppers, now: datetime
) -> KeyAndCertificate | None:
    h, c = host_certificates.c, certificates.c
    query = (
        sa.select(h.serial, h.sealed_key, c.chain, c.not_before, c.not_after)
        .select_from(host_certificates.join(certificates, c.serial == h.serial))
        .where(h.api_key_id == holder.key_id, h.name == name, c.name == name, c.revoked_on.is_(None))
        .where(h.issued_on > to_db(now - SAME_CERTIFICATE_FOR))
    )
    row = connection.execute(query).first()
    if row is None or not may_be_repeated(row.not_before, row.not_after, now):
        return None
    key = sealing.unseal(row.sealed_key, _lock(holder, row.serial), peppers)
    return None if key is None else KeyAndCertificate(key, row.chain, False)


def _lock(holder: Holder, serial: str) -> sealing.Lock:
    return sealing.Lock(holder.key.clear, serial, _PURPOSE)

"""Show and change the certificate authority for operators: its roots in files, and the certificates in the ledger."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy.engine import Connection, Engine

from auth.ca.authority import Authority, CaError
from auth.ca.files import FileAuthority, Root, signing_root
from auth.ca.hosts import InvalidHost
from auth.ca.private_files import replace_file
from auth.ca.request import new_key
from auth.ca.settings import ca_directory
from auth.certificates import (
    StoredCertificate,
    certificates_of,
    find_certificate,
    revoke_monitor,
    revoke_serial,
    store_server_certificate,
    write_revocation_list,
)
from ops.errors import OperatorError, UsageError
from ops.monitors import monitor_name
from ops.output import Cell
from runtime.db.engine import transaction

if TYPE_CHECKING:
    from runtime.settings import WorkerSettings

ROOT_COLUMNS: Final = ("root", "subject", "state", "begins", "ends", "fingerprint")
CERTIFICATE_COLUMNS: Final = ("serial", "kind", "name", "state", "issued", "ends", "revoked")

_SERIAL: Final = re.compile(r"[0-9a-f]{1,40}")


@contextmanager
def ca_errors() -> Iterator[None]:
    """Report errors of the CA as those of the command.

    Raises:
        OperatorError: the CA cannot do what is asked.
        UsageError: a host is invalid.
    """
    try:
        yield
    except CaError as error:
        raise OperatorError(str(error)) from None
    except InvalidHost as error:
        raise UsageError(str(error)) from None


def file_authority(settings: "WorkerSettings") -> FileAuthority:
    """Return the CA in files.

    Raises:
        OperatorError: the CA is in Vault, where its own commands create and renew it.
    """
    if settings.ca != "files":
        raise OperatorError(f"CA={settings.ca}: the roots of this CA are in Vault; use Vault's commands")
    return FileAuthority(ca_directory(settings), settings.deployment_mode)


def root_rows(roots: Sequence[Root], now: datetime) -> list[tuple[Cell, ...]]:
    """Return the roots for a table, the newest first."""
    valid = [root for root in roots if root.is_valid(now)]
    signing = signing_root(roots, now) if valid else None
    return [
        (
            root.number,
            root.certificate.subject.rfc4514_string(),
            _state(root, signing, now),
            _naive(root.certificate.not_valid_before_utc),
            _naive(root.certificate.not_valid_after_utc),
            root.fingerprint,
        )
        for root in roots
    ]


def _state(root: Root, signing: Root | None, now: datetime) -> str:
    if signing is None or not root.is_valid(now):
        return "not valid"
    if root is signing:
        return "signs"
    return "next" if root.number > signing.number else "former"


def certificate_rows(found: Sequence[StoredCertificate], now: datetime) -> list[tuple[Cell, ...]]:
    """Return certificates for a table."""
    return [
        (
            one.serial,
            one.kind,
            one.name,
            one.state(now),
            _naive(one.issued_on),
            _naive(one.not_after),
            None if one.revoked_on is None else _naive(one.revoked_on),
        )
        for one in found
    ]


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None, microsecond=0)


def list_certificates(connection: Connection, text: str) -> list[StoredCertificate]:
    """Return the certificates of a monitor or server, or the one with this serial, the newest last.

    Raises:
        OperatorError: there is none.
    """
    one = find_certificate(connection, parse_serial(text)) if is_serial(text) else None
    found = [one] if one else certificates_of(connection, text)
    if not found and (name := monitor_name(connection, text)):
        found = certificates_of(connection, name)
    if not found:
        raise OperatorError(f"{text!r}: no certificate has this serial or name")
    return found


def is_serial(text: str) -> bool:
    """Return whether ``text`` has the form of a serial."""
    return _SERIAL.fullmatch(_plain(text)) is not None


def parse_serial(text: str) -> str:
    """Return a serial as the ledger has it; ``text`` may have colons, capitals and leading zeros, as tools show it.

    Raises:
        UsageError: it is not a serial.
    """
    if not is_serial(text):
        raise UsageError(f"serial {text[:80]!r}: must be 1 to 40 hexadecimal digits; colons are ignored")
    return _plain(text).lstrip("0") or "0"


def _plain(text: str) -> str:
    return text.replace(":", "").lower()


def issue_server(
    engine: Engine,
    authority: Authority,
    hosts: Sequence[str],
    certificate: Path,
    key: Path,
    lifetime: timedelta,
    *,
    client: bool,
) -> str:
    """Write a new key and its certificate for a server, and return a line that describes them.

    Raises:
        OperatorError: a file cannot be written. The certificate may be in the ledger already.
    """
    if certificate.absolute() == key.absolute():
        raise UsageError("--cert, --key: must be two files")
    made = new_key()
    signed = authority.sign_server(made.request, hosts, lifetime, client=client)
    now = datetime.now(UTC)
    transaction(engine, lambda c: store_server_certificate(c, signed, hosts[0], made.request, now))
    try:
        replace_file(key, made.key.encode(), 0o600)
        replace_file(certificate, signed.chain.encode(), 0o644)
    except OSError as error:
        raise OperatorError(f"{error}; serial {signed.serial} is issued, but not written") from None
    files = f"certificate {certificate}, key {key}"
    return f"{', '.join(hosts)}: {files}, serial {signed.serial}, until {_naive(signed.not_after)}"


def revoke(engine: Engine, *, monitor: str | None, serial: str | None) -> list[str]:
    """Revoke the certificates of a monitor, or the one with a serial; return a line for each.

    Raises:
        OperatorError: there is no such monitor or certificate.
        UsageError: both are given, or none.
    """
    if (monitor is None) == (serial is None):
        raise UsageError("ca revoke: give a monitor's name or --serial")
    now = datetime.now(UTC)
    if serial is not None:
        return transaction(engine, lambda c: _revoke_serial(c, parse_serial(serial), now))
    return transaction(engine, lambda c: _revoke_monitor(c, monitor or "", now))


def _revoke_serial(connection: Connection, serial: str, now: datetime) -> list[str]:
    found = find_certificate(connection, serial)
    if found is None:
        raise OperatorError(f"serial {serial}: no certificate has it")
    done = revoke_serial(connection, serial, now)
    return [f"{found.name}: certificate {serial} is {'revoked' if done else f'already {found.state(now)}'}"]


def _revoke_monitor(connection: Connection, text: str, now: datetime) -> list[str]:
    # The monitor may be gone from the ledger, but its certificates are not.
    name = monitor_name(connection, text) or text
    if not certificates_of(connection, name):
        raise OperatorError(f"monitor {text!r}: has no certificate")
    done = revoke_monitor(connection, name, now)
    return [f"{name}: certificate {serial} is revoked" for serial in done] or [f"{name}: no certificate was valid"]


def write_crl(engine: Engine, authority: Authority, path: Path) -> str:
    """Write the revocation list, and return a line that describes it.

    Raises:
        OperatorError: the file cannot be written; it is unchanged.
    """
    try:
        number = write_revocation_list(engine, authority, path, datetime.now(UTC))
    except OSError as error:
        raise OperatorError(f"revocation list: {error}") from None
    return f"{path}: {number} revoked; reload the broker to apply it"

"""Define the certificate authority: what it signs, for how long, and the errors with which it refuses.

A monitor's certificate proves that its host holds the key: the key is made on the host and never leaves it, and the CA
takes nothing but the public key from a signing request. The name, the usages and the lifetime are decided here. There
are two implementations, :mod:`auth.ca.files` and :mod:`auth.ca.vault`, with the same properties:

- The SAN contains exactly the name or the hosts given by the caller, never a name of the signing request.
- A certificate is no CA, and is on the curve P-256.
- Revocations come from the ledger, so a revocation list can be made again at any time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from auth.ca.request import SigningRequest

DEFAULT_LIFETIME: Final = timedelta(days=90)
SHORTEST_LIFETIME: Final = timedelta(minutes=2)
LONGEST_LIFETIME: Final = timedelta(days=398)

LIST_LIFETIME: Final = timedelta(days=30)
"""Time until a revocation list ends. A broker with a list that has ended refuses every client, so the list must be made
again long before."""

CLOCK_MARGIN: Final = timedelta(minutes=5)
"""Maximum time by which the clock of a host or broker may be behind ours."""


class CaError(Exception):
    """A certificate or a revocation list cannot be made; the message gives the reason and contains no secret."""


class AuthorityUnavailable(CaError):
    """The CA cannot sign now: it does not exist, has ended, cannot be read, or Vault does not answer as required."""


class NoAuthority(AuthorityUnavailable):
    """This environment has no CA: none has been created."""


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A new certificate.

    ``serial`` is lower-case hexadecimal without leading zeros. ``chain`` is PEM: the certificate, then those between it
    and the roots of :meth:`Authority.bundle`. Times are aware.
    """

    serial: str
    chain: str
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Revocation:
    """A certificate that must no longer be accepted; ``revoked_on`` is aware."""

    serial: str
    revoked_on: datetime


class Authority(Protocol):
    """A certificate authority. Its methods block, for up to some ten seconds with Vault; they may run in any thread."""

    def sign_monitor(self, request: SigningRequest, name: str, lifetime: timedelta) -> IssuedCertificate:
        """Sign a certificate for the monitor with the full name ``name``, for use as a client and as a server.

        Raises:
            InvalidName: ``name`` is not a monitor's name in the CA's environment.
            AuthorityUnavailable: the CA cannot sign now.
        """

    def sign_server(
        self, request: SigningRequest, hosts: Sequence[str], lifetime: timedelta, *, client: bool = False
    ) -> IssuedCertificate:
        """Sign a certificate for a server that is reached by these names and addresses.

        Args:
            client: allow use as a client, too, as by a worker that logs in to a broker.

        Raises:
            InvalidHost: one of ``hosts`` is neither a name nor an address, or there is none.
            AuthorityUnavailable: the CA cannot sign now.
        """

    def bundle(self) -> str:
        """Return the certificates that clients and brokers must trust, as PEM, the current root first.

        Raises:
            AuthorityUnavailable: the CA cannot be read.
        """

    def revocation_list(self, revoked: Sequence[Revocation]) -> str:
        """Return the revocation list, as PEM: one list for each issuer whose certificates may still be in use.

        Args:
            revoked: all revoked certificates that have not ended, from the ledger.

        Raises:
            AuthorityUnavailable: the list cannot be made, or would lack one of ``revoked``.
        """


def backdating(lifetime: timedelta) -> timedelta:
    """Return the time by which a certificate's beginning lies in the past.

    A holder renews at two thirds of the whole time, so for a short lifetime it must be a small part of it.
    """
    return min(CLOCK_MARGIN, lifetime / 10)


def check_lifetime(lifetime: timedelta) -> timedelta:
    """Return ``lifetime``.

    Raises:
        ValueError: it is shorter or longer than allowed.
    """
    if not SHORTEST_LIFETIME <= lifetime <= LONGEST_LIFETIME:
        raise ValueError(
            f"lifetime {lifetime}: must be {SHORTEST_LIFETIME.total_seconds() / 60:g} minutes "
            f"to {LONGEST_LIFETIME.days} days"
        )
    return lifetime

"""Keep what everybody may read of the CA: the roots to trust, and the list of revoked certificates.

Both are made by a periodic job, never by a request: signing a list costs more than asking for it. The job also writes
the list for the broker, which must then be reloaded.
"""

import logging
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from auth.ca.authority import Authority, AuthorityUnavailable, NoAuthority
from auth.certificates import revoked_certificates, write_revocation_list
from runtime.db.engine import reading, to_db
from runtime.log import OngoingWarning
from schema.tables import certificates

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 5.0
"""Seconds between two looks for a revocation."""

MAKE_EVERY: Final = 3600.0
"""Seconds after which the list is made again even if nothing was revoked, since every list has an end."""

_AGAIN_AFTER: Final = 60.0
"""Seconds after which the roots are read again, and after which a failure is tried again."""

State = tuple[int, datetime | None]
"""Number of certificates in the list, and when the last of them was revoked."""


class Published:
    """The public files of the CA.

    Args:
        path: the broker's revocation list; ``None``: it is only served.
    """

    def __init__(
        self, engine: Engine, authority: Authority, path: Path | None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._authority = authority
        self._path = path
        self._monotonic = monotonic
        self._listed: State | None = None
        self._made_at = self._read_at = self._failed_at = -MAKE_EVERY
        self._warning = OngoingWarning(log)
        self.looked = False
        """Whether it is known if there is a CA."""
        self.bundle: str | None = None
        """The roots to trust, PEM; ``None`` if there is no CA, or it has not been reached yet."""
        self.revocations: str | None = None
        """The revocation list, PEM."""

    def refresh(self, now: datetime) -> None:
        """Make what is outdated; a failure is logged, and tried again after a minute. Blocks."""
        at = self._monotonic()
        if at - self._failed_at < _AGAIN_AFTER:
            return
        try:
            self._refresh(at, now)
        except NoAuthority:
            self.bundle = self.revocations = None  # an environment may do without
            self.looked = True
        except (AuthorityUnavailable, OSError) as error:
            self._failed_at = at
            self._warning.warning("revocation list: %s", error)
        else:
            self.looked = True
            self._warning.over()

    def _refresh(self, at: float, now: datetime) -> None:
        if self.bundle is None or at - self._read_at >= _AGAIN_AFTER:
            self.bundle = self._authority.bundle()
            self._read_at = at
        with reading(self._engine) as connection:
            state = revocation_state(connection, now)
        if self.revocations is not None and state == self._listed and at - self._made_at < MAKE_EVERY:
            return
        self.revocations = self._make(now)
        if self._listed is not None and state != self._listed:
            log.info("revocation list: %d certificates%s", state[0], "; reload the broker" if self._path else "")
        self._listed, self._made_at = state, at

    def _make(self, now: datetime) -> str:
        if self._path is not None:
            write_revocation_list(self._engine, self._authority, self._path, now)
            return self._path.read_text(encoding="ascii")
        with reading(self._engine) as connection:
            revoked = revoked_certificates(connection, now)
        return self._authority.revocation_list(revoked)


def revocation_state(connection: Connection, now: datetime) -> State:
    """Return what tells whether the list has changed."""
    c = certificates.c
    query = sa.select(sa.func.count(), sa.func.max(c.revoked_on))
    row = connection.execute(query.where(c.revoked_on.is_not(None), c.not_after > to_db(now))).one()
    return int(row[0]), row[1]

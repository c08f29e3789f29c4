"""Find API keys that are refused because they were hashed under a pepper that the settings do not have.

Each hash has the name of its pepper, which is a one-way fingerprint of it, so nothing else has to be stored, and
nothing to be confirmed after a change on purpose: the warning ends with the last of these keys.
"""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from auth.api_keys import NAMED, Peppers, name_in_hash
from runtime.db.engine import to_db
from schema.tables import api_key_ends, api_keys


@dataclass(frozen=True, slots=True)
class VoidKeys:
    """Keys that are neither replaced nor revoked, but match none of the peppers."""

    count: int
    peppers: tuple[str, ...]
    """Names of the peppers that they need."""

    def __str__(self) -> str:
        of = "1 API key was" if self.count == 1 else f"{self.count} API keys were"
        return (
            f"{of} made under another API_KEY_PEPPER than now, and cannot be used: set API_KEY_PEPPER_FORMER to the "
            "former secret (the key for tokens, if there was none), or, if it was given up on purpose, run "
            "'ntppool-agent setup' on these hosts again and 'ntppool-monitor keys revoke' for what is left"
        )


def find_void_keys(connection: Connection, peppers: Peppers, now: datetime) -> VoidKeys | None:
    """Return the keys that match none of the peppers; None without any."""
    k, ends_on = api_keys.c, api_key_ends.c.ends_on
    query = (
        sa.select(sa.func.substr(k.token_hashed, 1, NAMED))
        .select_from(api_keys.outerjoin(api_key_ends, api_key_ends.c.api_key_id == k.id))
        .where(sa.or_(ends_on.is_(None), ends_on > to_db(now)))
    )
    counts: dict[str, int] = {}
    for start in connection.scalars(query):
        if (name := name_in_hash(start)) is not None:
            counts[name] = counts.get(name, 0) + 1
    for pepper in peppers:
        counts.pop(pepper.name, None)
    return VoidKeys(sum(counts.values()), tuple(sorted(counts))) if counts else None

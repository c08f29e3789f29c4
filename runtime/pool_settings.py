"""What pool operators set in ``system_settings`` while everything runs: read again at most every minute.

A missing value means its default. A broken one means its default too, and is logged: one operator's slip of the pen
must not stop the workers.
"""

import logging
import time
from typing import Annotated, Any, Final, TypeVar

import msgspec
import sqlalchemy as sa
from msgspec import Meta
from sqlalchemy.engine import Engine

from runtime.database import reading
from runtime.log import Repeating
from schema.messages import PairStatus
from schema.tables import system_settings

log = logging.getLogger(__name__)

Seconds = Annotated[float, Meta(gt=0, le=30 * 86_400)]
"""At most 30 days: more is a slip of the pen, and much more is beyond what dates can be reckoned with."""

REREAD: Final = 60.0
"""Seconds for which what was read is used."""


class Intervals(msgspec.Struct, frozen=True, kw_only=True):
    """Key ``monitors``: how often a pair is measured, in seconds, and with how many samples."""

    interval_active: Seconds = 9 * 60.0
    interval_testing: Seconds = 45 * 60.0
    interval_candidate: Seconds = 120 * 60.0
    samples: Annotated[int, Meta(ge=1, le=10)] = 3

    def of(self, status: PairStatus) -> float:
        """Seconds between two probes of a pair; paused pairs are not probed and have none."""
        return {
            "active": self.interval_active,
            "testing": self.interval_testing,
            "candidate": self.interval_candidate,
        }[status]


class Reviews(msgspec.Struct, frozen=True, kw_only=True):
    """Key ``selector``: when a server is reviewed again (seconds), and how many monitors it should have."""

    review_changed: Seconds = 60 * 60.0
    review_unchanged: Seconds = 20 * 60.0
    target_active: Annotated[int, Meta(ge=1, le=50)] = 7
    target_testing: Annotated[int, Meta(ge=1, le=50)] = 5


class Scoring(msgspec.Struct, frozen=True, kw_only=True):
    """Key ``scorer``: how many servers one transaction scores."""

    batch_size: Annotated[int, Meta(ge=1, le=10_000)] = 200


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    monitors: Intervals = Intervals()
    selector: Reviews = Reviews()
    scorer: Scoring = Scoring()


S = TypeVar("S", Intervals, Reviews, Scoring)


class PoolSettingsReader:
    """Reads them from the database, and remembers them for :data:`REREAD` seconds."""

    def __init__(self, engine: Engine, *, reread: float = REREAD) -> None:
        self._engine = engine
        self._reread = reread
        self._read_at: float | None = None
        self._known = PoolSettings()
        self._complaints: dict[str, Repeating] = {}

    def get(self) -> PoolSettings:
        """The settings as of now, or of the last minute. Blocks on the database.

        Raises:
            sqlalchemy.exc.DBAPIError: the database failed; what was known stays known.
        """
        now = time.monotonic()
        if self._read_at is None or now - self._read_at >= self._reread:
            self._known = self._read()
            self._read_at = now
        return self._known

    def _read(self) -> PoolSettings:
        query = sa.select(system_settings.c.key, system_settings.c.value)
        with reading(self._engine) as connection:
            values = {row.key: row.value for row in connection.execute(query)}
        return PoolSettings(
            monitors=self._parse(values, "monitors", Intervals),
            selector=self._parse(values, "selector", Reviews),
            scorer=self._parse(values, "scorer", Scoring),
        )

    def _parse(self, values: dict[str, str], key: str, of: type[S]) -> S:
        if key not in values:
            return of()
        try:
            fields = msgspec.json.decode(values[key], type=dict[str, msgspec.Raw])
        except msgspec.MsgspecError as error:
            self._complain(key, f"system_settings {key!r} is no JSON object ({error}): all its defaults are used")
            return of()
        good: dict[str, Any] = {}
        for field in msgspec.structs.fields(of):
            if field.encode_name in fields:
                try:
                    good[field.name] = msgspec.json.decode(fields[field.encode_name], type=field.type)
                except msgspec.MsgspecError as error:
                    name = f"{key}.{field.name}"
                    self._complain(name, f"system_settings {name}: {error}: its default {field.default} is used")
        return of(**good)

    def _complain(self, key: str, text: str) -> None:
        self._complaints.setdefault(key, Repeating(log)).warning("%s", text)

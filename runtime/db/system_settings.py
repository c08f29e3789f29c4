"""Read the settings that pool operators change at run time in ``system_settings``, again after a minute.

A missing value means its default. An invalid one also means its default, and is logged once, since an operator's typing
error must not stop the workers. A duration is a number of seconds, or text in the form of the pool's programs: ``9m``.

Meaning, bounds and default of each value are defined only here; readers and ``ntppool-monitor settings`` share them.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar, get_args

import msgspec
import sqlalchemy as sa
from msgspec import Meta
from sqlalchemy.engine import Engine

from runtime.db.engine import reading
from runtime.durations import parse_duration
from schema.messages import PairStatus
from schema.tables import system_settings

log = logging.getLogger(__name__)

SHORTEST: Final = 0.1
"""Minimum duration in seconds: with less, monitors would flood servers and workers would be overloaded."""

LONGEST: Final = 30 * 86_400
"""Maximum duration in seconds: more is a typing error, and much more exceeds the range of dates."""

REREAD: Final = 60.0
"""Seconds for which the settings are cached."""


class Intervals(msgspec.Struct, frozen=True, kw_only=True):
    """Key ``monitors``: intervals of measurements in seconds, and samples per probe."""

    interval_active: Annotated[
        float,
        Meta(ge=SHORTEST, le=LONGEST, description="time between two probes of a server by an active monitor"),
    ] = 9 * 60.0
    interval_testing: Annotated[
        float,
        Meta(ge=SHORTEST, le=LONGEST, description="time between two probes of a server by a testing monitor"),
    ] = 45 * 60.0
    interval_candidate: Annotated[
        float,
        Meta(
            ge=SHORTEST,
            le=LONGEST,
            description="time between two probes of a server by a candidate",
            extra={"also": "interval_all"},
        ),
    ] = 120 * 60.0
    samples: Annotated[int, Meta(ge=1, le=10, description="packets of one probe, of which the best counts")] = 3
    batch_size: Annotated[
        int, Meta(ge=1, le=1_000, description="servers that a monitor of the older protocol is handed at a time")
    ] = 10

    def of(self, status: PairStatus) -> float:
        """Return the seconds between two probes of a pair; paused pairs are not probed."""
        return {
            "active": self.interval_active,
            "testing": self.interval_testing,
            "candidate": self.interval_candidate,
        }[status]


class Reviews(msgspec.Struct, frozen=True, kw_only=True):
    """Key ``selector``: seconds until the next review of a server, its targets for monitors, and the preference."""

    review_changed: Annotated[
        float, Meta(ge=SHORTEST, le=LONGEST, description="time from a review that changed something to the next one")
    ] = 60 * 60.0
    review_unchanged: Annotated[
        float, Meta(ge=SHORTEST, le=LONGEST, description="time from a review that changed nothing to the next one")
    ] = 20 * 60.0
    target_active: Annotated[int, Meta(ge=1, le=50, description="active monitors that a server should have")] = 7
    target_testing: Annotated[
        int, Meta(ge=1, le=50, description="testing monitors that a server should have beside its active ones")
    ] = 5
    prefer_healthy: Annotated[
        int,
        Meta(
            ge=0,
            le=1,
            description="1: health labels decide between equally good monitors; 0: ignored",
        ),
    ] = 0


class Scoring(msgspec.Struct, frozen=True, kw_only=True):
    """Key ``scorer``: servers per transaction."""

    batch_size: Annotated[int, Meta(ge=1, le=10_000, description="servers whose scores are written together")] = 200


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings. The name of a field is its key in ``system_settings``."""

    monitors: Intervals = Intervals()
    selector: Reviews = Reviews()
    scorer: Scoring = Scoring()


class BrokenSetting(ValueError):
    """An invalid value; the message gives the reason, without the name."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Definition of one value: its place, type, bounds and default."""

    key: str
    """Key of the row in ``system_settings``."""
    name: str
    """Name in the row's JSON object."""
    type: Any
    default: int | float
    meta: Meta

    def __str__(self) -> str:
        return f"{self.key}.{self.name}"

    @property
    def is_duration(self) -> bool:
        """Return whether it is a duration in seconds; the others are whole numbers."""
        return get_args(self.type)[0] is float

    @property
    def names(self) -> tuple[str, ...]:
        """Return all of its names; the first one that is present counts."""
        also = (self.meta.extra or {}).get("also")
        return (self.name,) if also is None else (self.name, also)

    def parse(self, raw: bytes) -> int | float:
        """Parse the value from JSON.

        Raises:
            BrokenSetting: it has another type, or is out of bounds.
        """
        try:
            value = msgspec.json.decode(raw)
            if self.is_duration and isinstance(value, str):
                value = parse_duration(value)
            found: int | float = msgspec.convert(value, self.type)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise BrokenSetting(str(error)) from None
        return found


def all_settings() -> Iterator[Setting]:
    """Yield the definition of every value that operators can set, by key and in order."""
    for section in msgspec.structs.fields(PoolSettings):
        for field in msgspec.structs.fields(section.type):
            yield Setting(section.name, field.name, field.type, field.default, get_args(field.type)[1])


_BY_KEY: Final[Mapping[str, list[Setting]]] = {
    section.name: [one for one in all_settings() if one.key == section.name]
    for section in msgspec.structs.fields(PoolSettings)
}

S = TypeVar("S", Intervals, Reviews, Scoring)


class PoolSettingsReader:
    """Reader that caches the settings for :data:`REREAD` seconds."""

    def __init__(self, engine: Engine, *, reread: float = REREAD) -> None:
        self._engine = engine
        self._reread = reread
        self._read_at: float | None = None
        self._known = PoolSettings()
        self._logged: frozenset[str] = frozenset()

    def get(self) -> PoolSettings:
        """Return the current or cached settings. Blocks on the database.

        Raises:
            sqlalchemy.exc.DBAPIError: the database failed; the cache is unchanged.
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
        warnings: list[str] = []
        found = parse_settings(values, warnings)
        self._log_new(frozenset(warnings))
        return found

    def _log_new(self, warnings: frozenset[str]) -> None:
        """Log each warning once until its value is corrected, since an invalid value may stay for months."""
        for text in sorted(warnings - self._logged):
            log.warning("%s", text)
        self._logged = warnings


def parse_settings(values: Mapping[str, str], warnings: list[str]) -> PoolSettings:
    """Parse the settings in rows of ``system_settings``; append errors to ``warnings``."""
    return PoolSettings(
        monitors=_parse(values, "monitors", Intervals, warnings),
        selector=_parse(values, "selector", Reviews, warnings),
        scorer=_parse(values, "scorer", Scoring, warnings),
    )


def _parse(values: Mapping[str, str], key: str, of: type[S], warnings: list[str]) -> S:
    if key not in values:
        return of()
    try:
        fields = parse_section(values[key])
    except BrokenSetting as error:
        warnings.append(f"system_settings {key!r} {error}: all its defaults are used")
        return of()
    good: dict[str, Any] = {}
    for setting in _BY_KEY[key]:
        name = next((name for name in setting.names if name in fields), None)
        if name is not None:
            try:
                good[setting.name] = setting.parse(fields[name])
            except BrokenSetting as error:
                text = f"system_settings {key}.{name}: {error}: its default {setting.default} is used"
                warnings.append(text)
    return of(**good)


def parse_section(text: str) -> dict[str, msgspec.Raw]:
    """Return the values of one row by name, each as JSON.

    Raises:
        BrokenSetting: it is not a JSON object.
    """
    try:
        return msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BrokenSetting(f"is not a JSON object ({error})") from None

"""Make the log of the past hours in the database itself: ten million rows in a minute or two.

Every pair of the world was measured at the intervals of the real pool, and was always good; its score is therefore 20,
and another good result does not change it.
"""

from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from bench.world import DEFAULT, STATUSES, analyze
from runtime.db.engine import utc_now
from runtime.db.system_settings import Intervals
from scorer.formula import BEST_SCORE, BEST_STEP

_ATTRIBUTES: Final = '{"leap":0,"stratum":2}'


def add_history(engine: Engine, hours: int, intervals: Intervals = DEFAULT) -> int:
    """Add log rows of the last ``hours`` to an empty log, in the order of their time; return their number."""
    begin = utc_now().replace(microsecond=0) - timedelta(hours=hours)
    # A separate connection, since ours has a time-out of a minute per statement.
    patient = sa.create_engine(engine.url, poolclass=sa.NullPool)
    with patient.connect() as connection:
        # Without these checks, InnoDB bulk-loads an empty table: it sorts the rows and builds each index in one pass.
        connection.exec_driver_sql("SET unique_checks = 0, foreign_key_checks = 0")
        values = {"begin": begin, "attributes": _ATTRIBUTES, "score": BEST_SCORE, "step": BEST_STEP}
        rows = connection.execute(_insert(hours, intervals), values).rowcount
        connection.commit()
        _score(connection, begin + timedelta(hours=hours) - timedelta(seconds=intervals.interval_candidate))
        connection.commit()
    analyze(engine)
    return rows


def _insert(hours: int, intervals: Intervals) -> sa.TextClause:
    moments = " UNION ALL ".join(_moments(status, int(intervals.of(status)), hours) for status in STATUSES)
    return sa.text(f"""
        INSERT INTO `log_scores` (`monitor_id`, `server_id`, `ts`, `score`, `step`, `offset`, `rtt`, `attributes`)
        SELECT `monitor_id`, `server_id`, :begin + INTERVAL `at` SECOND, :score, :step, 0.001, 20000, :attributes
        FROM ({moments}) AS `made` ORDER BY `at`
    """)  # noqa: S608  # built from constants


def _moments(status: str, interval: int, hours: int) -> str:
    """Return the seconds since the beginning at which the pairs of this status were measured."""
    last = hours * 3600 // interval - 1
    if last < 0:
        return "SELECT 0 AS `monitor_id`, 0 AS `server_id`, 0 AS `at` FROM DUAL WHERE FALSE"
    phase = f"MOD(`monitor_id` * 7919 + `server_id` * 104729, {interval})"
    return (
        f"SELECT `monitor_id`, `server_id`, `nth`.`seq` * {interval} + {phase} AS `at` "  # noqa: S608  # from constants
        f"FROM `server_scores` JOIN `seq_0_to_{last}` AS `nth` WHERE `status` = '{status}'"
    )


def _score(connection: sa.Connection, ts: datetime) -> None:
    """Set the scores that follow from these rows. ``ts`` is before the newest row of any pair: a time never goes
    back."""
    for table in ("server_scores", "servers"):
        update = sa.text(f"UPDATE `{table}` SET `score_raw` = :score, `score_ts` = :ts")  # noqa: S608  # constants
        connection.execute(update, {"score": BEST_SCORE, "ts": ts})

"""Count the errors of the database, and the work that is tried again after them, by kind."""

from typing import Final

import sqlalchemy as sa
from opentelemetry.metrics import Meter
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.exc import IntegrityError

from runtime.db.engine import ON_RETRY
from runtime.db.retry import DatabaseUnavailable, Reaction, reaction_to

_KINDS: Final = {Reaction.AGAIN: "conflict", Reaction.RECONNECT: "unavailable", Reaction.DEFECT: "defect"}
KINDS: Final = (*_KINDS.values(), "constraint")


class DatabaseMetrics:
    """Counters of one worker. Thread-safe."""

    def __init__(self, meter: Meter) -> None:
        self._errors = meter.create_counter("ntppool.database.errors", description="errors of the database, by kind")
        self._retries = meter.create_counter(
            "ntppool.database.retries", description="work that was tried again after an error, by kind"
        )
        for kind in KINDS:  # so that the first error is an increase
            self._errors.add(0, {"kind": kind})
            self._retries.add(0, {"kind": kind})

    def attach(self, engine: Engine) -> None:
        """Count what happens on the connections of ``engine``."""
        sa.event.listen(engine, "handle_error", self._on_error)
        engine.update_execution_options(**{ON_RETRY: self.retried})

    def retried(self, error: Exception) -> None:
        """Count work that is tried again after ``error``."""
        self._retries.add(1, {"kind": kind_of(error)})

    def _on_error(self, context: ExceptionContext) -> None:
        self._errors.add(1, {"kind": kind_of(context.sqlalchemy_exception or context.original_exception)})


def kind_of(error: BaseException) -> str:
    """Return the kind of an error.

    ``conflict``: with another transaction; ``constraint``: a duplicate key or a missing row, which other workers may
    cause, too; ``unavailable``: the server, or the connection to it; ``defect``: the statement or its values.
    """
    if isinstance(error, DatabaseUnavailable):
        return "unavailable"
    return "constraint" if isinstance(error, IntegrityError) else _KINDS[reaction_to(error)]

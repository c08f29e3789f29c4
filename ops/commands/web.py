"""Define ``ntppool-monitor web``, which serves the public pages until it is stopped."""

import logging

import typer

from ops.context import globals_of, place_of
from ops.errors import OperatorError, leaf_of

log = logging.getLogger(__name__)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def web(context: typer.Context) -> None:
        """Serve the public pages, and the scores of servers for programs.

        It reads the ledger only, and needs neither broker nor keys. Any number of them may run.
        """
        from sqlalchemy.exc import DBAPIError

        from web.worker import run_web

        settings = globals_of(context).for_a_worker()
        try:
            run_web(settings)
        except ExceptionGroup as group:
            error = leaf_of(group)
            if isinstance(error, DBAPIError):
                raise OperatorError(f"database {place_of(settings.database_url())}: {error.orig}") from None
            # This is a defect of ours: log the traceback for those who fix it.
            log.error("web failed with an unexpected error", exc_info=group)
            raise OperatorError(f"web: failed with an unexpected error: {type(error).__name__}: {error}") from None

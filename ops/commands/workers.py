"""Define ``ntppool-monitor ingest``, ``scorer`` and ``notifier``, which run a worker until it is stopped."""

import logging
from typing import TYPE_CHECKING

import typer

from ops.context import Globals, check_broker_files, globals_of, place_of
from ops.errors import OperatorError, leaf_of

if TYPE_CHECKING:
    from runtime.worker import Start

log = logging.getLogger(__name__)


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""

    @app.command()
    def ingest(context: typer.Context) -> None:
        """Store results and presence in the ledger.

        Any number of them may run; they share the work.
        """
        from ingest.worker import start

        run_service(globals_of(context), "ingest", start)

    @app.command()
    def scorer(context: typer.Context) -> None:
        """Compute the scores of the servers.

        Any number of them may run; they share the work.
        """
        from scorer.worker import start

        run_service(globals_of(context), "scorer", start)

    @app.command()
    def notifier(context: typer.Context) -> None:
        """Tell people what is wrong, and when it is right again.

        Any number of them may run; they share the work. 'alerts' shows what is raised, and sets up who is told.
        """
        from notifier.worker import Starting

        starting = Starting()
        run_service(globals_of(context), "notifier", starting.start, starting.begin)


def run_service(given: Globals, service: str, start: "Start", begin: "Start | None" = None) -> None:
    """Run a worker until SIGTERM or SIGINT; ``begin`` is called before the database is reached.

    Raises:
        ConfigurationError: a setting is invalid, or the database lacks migrations.
        OperatorError: the worker failed.
    """
    from sqlalchemy.exc import DBAPIError

    from auth.settings import signing_key
    from auth.tokens import Role, token_source
    from runtime.worker import run_worker

    settings = given.for_a_worker()
    check_broker_files(settings)
    token = token_source(signing_key(settings), Role.SERVER, service, settings.deployment_mode)
    try:
        run_worker(service, settings, token, start, begin)
    except ExceptionGroup as group:
        error = leaf_of(group)
        if isinstance(error, DBAPIError):
            raise OperatorError(f"database {place_of(settings.database_url())}: {error.orig}") from None
        # This is a defect of ours: log the traceback for those who fix it.
        log.error("%s failed with an unexpected error", service, exc_info=group)
        raise OperatorError(f"{service}: failed with an unexpected error: {type(error).__name__}: {error}") from None

"""``ntppool-monitor ingest`` and ``scorer``: the workers, each until it is told to stop."""

from collections.abc import Callable

import typer

from auth.tokens import Role, token_source
from ops.context import Globals, globals_of, signing_key
from runtime.worker import Start, run_worker


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``."""

    @app.command()
    def ingest(context: typer.Context) -> None:
        """Takes results and presence from the broker into the ledger; any number may run."""
        from ingest.worker import start

        run_service(globals_of(context), "ingest", start)

    @app.command()
    def scorer(context: typer.Context) -> None:
        """Keeps the servers' scores; any number may run."""
        from scorer.worker import start

        run_service(globals_of(context), "scorer", start)


def run_service(given: Globals, service: str, start: Start) -> None:
    """Runs a worker until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: a setting is wrong, or the database lacks migrations.
    """
    settings = given.for_a_worker()
    token: Callable[[], str] = token_source(signing_key(settings), Role.SERVER, service, settings.deployment_mode)
    run_worker(service, settings, token, start)

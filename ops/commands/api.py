"""Define ``ntppool-monitor api``, which serves agents and people over HTTP until it is stopped."""

from typing import TYPE_CHECKING

import typer

from ops.commands.workers import run_service
from ops.context import globals_of
from ops.errors import OperatorError

if TYPE_CHECKING:
    from runtime.settings import WorkerSettings


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def api(context: typer.Context) -> None:
        """Serve the management API: registration, configuration, tokens and certificates of agents.

        Any number of them may run; all state is in the ledger.
        """
        from api.worker import start

        given = globals_of(context)
        check_api_files(given.for_a_worker())
        run_service(given, "api", start)


def check_api_files(settings: "WorkerSettings") -> None:
    """Read the certificate and key of the API now, while the operator is watching.

    Raises:
        OperatorError: they cannot be used. This may be temporary, as between the two files of a renewal.
    """
    from api.worker import server_tls

    try:
        server_tls(settings)
    except OSError as error:
        raise OperatorError(f"API_CERT_FILE, API_KEY_FILE: must be matching PEM files: {error}") from None

"""Run ``ntppool-monitor``, the operators' command line. Every error is one line on stderr.

Exit codes: 0, 1 (error), 2 (wrong argument or setting).
"""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from ops.commands import (
    accounts,
    alerts,
    api,
    ca,
    check,
    control,
    db,
    demo,
    monitors,
    registrations,
    rejected,
    selector,
    servers,
    settings,
    token,
    web,
    workers,
)
from ops.context import Globals
from ops.errors import OperatorError, UsageError, leaf_of
from ops.output import cope_with_any_character, explain, print_error
from runtime.log import LEVEL_NAMES, level_name, set_up_logging, without_secrets
from schema.names import ENVIRONMENTS, InvalidName

log = logging.getLogger(__name__)

app = typer.Typer(
    name="ntppool-monitor",
    help="Run, observe and control the monitoring of an NTP pool.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for module in (
    *(workers, selector, api, web, db, token, accounts, registrations, monitors, servers, settings),
    *(rejected, control, check, alerts, ca, demo),
):
    module.register(app)


@app.callback()
def _globals(
    context: typer.Context,
    env: Annotated[
        str | None,
        typer.Option("-e", "--env", metavar="ENV", help=f"{', '.join(ENVIRONMENTS)} (DEPLOYMENT_MODE)."),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help=f"{', '.join(LEVEL_NAMES)}; default: LOG_LEVEL."),
    ] = None,
) -> None:
    if env is not None and env not in ENVIRONMENTS:
        raise UsageError(f"--env {env!r}: must be one of {', '.join(ENVIRONMENTS)}")
    level = None if log_level is None else str(level_name(log_level))
    if level is not None and level not in LEVEL_NAMES:
        raise UsageError(f"--log-level {log_level!r}: must be one of {', '.join(LEVEL_NAMES)}")
    context.obj = Globals(env, level)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    set_up_logging("warning")
    cope_with_any_character()
    try:
        result = app(args=arguments, prog_name="ntppool-monitor", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has closed the pipe. The interpreter would report an error when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        log.debug("the command failed", exc_info=error)
        return _report(leaf_of(error))
    return result if isinstance(result, int) else 0


def _report(error: BaseException) -> int:
    """Print the error and return its exit code."""
    match error:
        case typer.TyperException():
            return _usage(error)
        case UsageError() | InvalidName():
            return _fail(str(error), 2)
        case OperatorError():
            return _fail(str(error), 1)
        case typer.Abort():
            return _fail("aborted", 1)
    return _report_of_libraries(error)


def _report_of_libraries(error: BaseException) -> int:
    """Report errors whose types are in libraries that some commands do not load."""
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    from runtime.db.retry import DatabaseUnavailable
    from runtime.settings import ConfigurationError

    match error:
        case ConfigurationError():
            # The message has one line per setting, and no text from other parties.
            return _fail_with_lines(str(error), 2)
        case DatabaseUnavailable():
            return _fail(f"database: {error}", 1)
        case DBAPIError():
            return _fail(f"database: {error.orig}", 1)
        case SQLAlchemyError():
            return _fail(f"database: {error}", 1)
        case OSError():
            return _fail(str(error), 1)
    return _fail(f"unexpected {type(error).__name__}: {error} (--log-level debug shows where)", 1)


def _usage(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    text = error.format_message()
    if context is not None and text == context.get_help():
        explain(text)
        return error.exit_code
    hint = "" if context is None else f" (see '{context.command_path} --help')"
    return _fail(text.removesuffix(".") + hint, error.exit_code)


def _fail(text: str, code: int) -> int:
    print_error(without_secrets(text))
    return code


def _fail_with_lines(text: str, code: int) -> int:
    for line in without_secrets(text).split("\n"):
        print_error(line)
    return code


if __name__ == "__main__":
    sys.exit(main())

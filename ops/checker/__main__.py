"""``python -m ops.checker``: holds a ledger, and if they are given its broker and a load's record, to their promises.

The broker and its key are those of the workers' settings (MQTT_HOST, MQTT_PORT, MQTT_CA_FILE, JWT_KEY_FILE, ...). The
system must be at rest: no results on their way, no review under way. Exit code 1 when something differs.
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from auth.tokens import Role, token_source
from ops.checker.assignments import Tree, read_tree
from ops.checker.check import Before, Checked, check
from ops.checker.difference import lines
from ops.checker.load import read_attempts
from ops.context import signing_key
from ops.output import complain, write
from runtime import migrations
from runtime.broker import BrokerSession, Identity, NotConnected
from runtime.database import open_database, reading
from runtime.dsn import InvalidDsn, parse_dsn
from runtime.log import set_up_logging
from runtime.settings import ConfigurationError, WorkerSettings, load_settings
from schema.topics import Topics

_NAME = "checker"
_CONNECT_WITHIN = 15.0


def main() -> int:
    """Runs the comparison and prints each difference."""
    set_up_logging("error")
    given = _arguments()
    try:
        settings = load_settings(deployment_mode=given.env)
        if given.database_url is None and settings.database_dsn is None:
            raise ConfigurationError("--database-url or DATABASE_DSN: must be set to the ledger to check")
        url = parse_dsn(given.database_url) if given.database_url else settings.database_url()
        tree = asyncio.run(_tree(settings)) if given.retained else None
        engine = open_database(url)
        try:
            checked = _check(engine, settings, tree, given)
        finally:
            engine.dispose()
    except (ConfigurationError, InvalidDsn) as error:
        return _complain(str(error), 2)
    except (OSError, NotConnected) as error:
        return _complain(str(error), 1)
    except DBAPIError as error:
        return _complain(f"database: {error.orig}", 1)
    for line in lines(checked.differences):
        write(line)
    write(f"{checked.rows} results, {len(checked.differences)} differences")
    return 0 if checked.good else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ops.checker", description=__doc__)
    parser.add_argument("--database-url", metavar="URL", help="the ledger; default: DATABASE_DSN")
    parser.add_argument("--record", type=Path, metavar="FILE", help="what a load generator wrote down")
    parser.add_argument("--retained", action="store_true", help="compare the broker's retained assignments too")
    parser.add_argument("--env", help="prod, test or devel; default: DEPLOYMENT_MODE")
    parser.add_argument(
        "--old",
        action="store_true",
        help="the first results are gone for their age: take the scores they left as given",
    )
    return parser.parse_args()


def _check(engine: Engine, settings: WorkerSettings, tree: Tree | None, given: argparse.Namespace) -> Checked:
    found, needed = migrations.current(engine), migrations.newest()
    if found != needed:
        raise ConfigurationError(f"database: is at version {found or 'none'}, this program needs {needed}")
    attempts = None
    if given.record is not None:
        with reading(engine) as connection:
            attempts = read_attempts(connection, given.record)
    before = Before(unknown=given.old)
    return check(engine, attempts=attempts, tree=tree, env=settings.deployment_mode, before=before)


async def _tree(settings: WorkerSettings) -> Tree:
    key, env = signing_key(settings), settings.deployment_mode
    identity = Identity(_NAME, f"{_NAME}/{os.getpid()}")
    session = BrokerSession(settings.broker_address(), identity, token_source(key, Role.SERVER, _NAME, env))
    running = asyncio.create_task(session.run())
    try:
        async with asyncio.timeout(_CONNECT_WITHIN):
            await session.wait_ready()
        return await read_tree(session, Topics(env))
    except TimeoutError:
        raise NotConnected(f"no connection to {session.address} within {_CONNECT_WITHIN:g} s") from None
    finally:
        running.cancel()
        await asyncio.wait({running})


def _complain(text: str, code: int) -> int:
    for line in text.split("\n"):
        complain(line, program=_NAME)
    return code


if __name__ == "__main__":
    sys.exit(main())

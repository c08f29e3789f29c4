"""``python -m testbed.checker``: check a ledger, and optionally its broker and the record of a load.

The broker and its key are those of the workers' settings (MQTT_HOST, MQTT_PORT, MQTT_CA_FILE, JWT_KEY_FILE, ...). The
system must be at rest: no results in transit, no review in progress. Exit code 1 if there are differences.
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from auth.settings import signing_key
from auth.tokens import Role, token_source
from runtime.db import migrate
from runtime.db.dsn import InvalidDsn, parse_dsn
from runtime.db.engine import open_database, reading
from runtime.log import set_up_logging
from runtime.mqtt.session import BrokerSession, Identity, NotConnected
from runtime.printable import printable
from runtime.settings import ConfigurationError, WorkerSettings, load_settings
from schema.topics import Topics
from testbed.checker.assignments import Tree, read_tree
from testbed.checker.check import Before, Checked, check
from testbed.checker.difference import lines
from testbed.checker.load import read_attempts

_NAME = "checker"
_CONNECT_WITHIN = 15.0


def main() -> int:
    """Run the comparison and print each difference."""
    set_up_logging("error")
    given = _arguments()
    try:
        settings = load_settings(deployment_mode=given.env)
        if given.database_url is None and settings.database_dsn is None:
            raise ConfigurationError("--database-url or DATABASE_DSN: must name the ledger to check")
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
        print(printable(line))
    print(f"{checked.rows} results, {len(checked.differences)} differences")
    return 0 if checked.good else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m testbed.checker", description=__doc__)
    parser.add_argument("--database-url", metavar="URL", help="the ledger; default: DATABASE_DSN")
    parser.add_argument("--record", type=Path, metavar="FILE", help="record of a load generator")
    parser.add_argument("--retained", action="store_true", help="compare the broker's retained assignments, too")
    parser.add_argument("--env", help="prod, test or devel; default: DEPLOYMENT_MODE")
    parser.add_argument(
        "--old",
        action="store_true",
        help="the oldest results have expired: accept each pair's first remaining score",
    )
    return parser.parse_args()


def _check(engine: Engine, settings: WorkerSettings, tree: Tree | None, given: argparse.Namespace) -> Checked:
    mismatch = migrate.mismatch(engine)
    if mismatch is not None:
        raise ConfigurationError(f"database: {mismatch}")
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
        print(f"{_NAME}: {printable(line)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

"""Fill the ledger of the former release: its code runs this file, since only it knows its tables.

Usage: ``fill_former.py AGENTS SERVERS PORT NAME...``, with ``DATABASE_DSN`` in the environment: the demo's world
without its agents, which register, and monitors of these names for the load.
"""

import os
import sys
from functools import partial

from bench.faults.site import store_all
from runtime.db.dsn import parse_dsn
from runtime.db.engine import open_database, transaction, utc_now
from testbed.world import make_world


def main() -> None:
    """Fill the ledger as the arguments say."""
    agents, servers, port = map(int, sys.argv[1:4])
    world, now = make_world(agents, servers, port), utc_now().replace(microsecond=0)
    engine = open_database(parse_dsn(os.environ["DATABASE_DSN"]))
    try:
        transaction(engine, partial(store_all, world=world, load_names=sys.argv[4:], now=now))
    finally:
        engine.dispose()


if __name__ == "__main__":
    main()

"""``scripts/upgrade``: upgrade a running pool of the former release to this checkout, under load; check the results.

Real processes of both releases share a database and a broker. Agents and workers are upgraded one by one, and agents
also downgraded, while batches wait in their spools. It prints each difference, and a JSON summary as its last line.
Exit code 0: nothing lost, duplicated or unexplained; 1: otherwise; 2: it could not run.
"""

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.stage import end_by_unwinding
from bench.upgrade.report import Summary, print_all, say
from bench.upgrade.run import UpgradeRun
from runtime.log import set_up_logging
from testbed.broker import BrokerParts, BrokerUnavailable, find_parts
from testbed.database import SERVERS, DatabaseServer, temporary_database
from testbed.former_release import FormerRelease, NoFormerRelease, unpack
from testbed.site import free_ntp_port, make_site
from testbed.stack import CannotRun
from testbed.world import ENV, World, make_world

AGENTS: Final = 2
"""The first one is upgraded before the pool, the other one after it."""

NTP_SERVERS: Final = 7
"""Number of the demo's servers; the next ones are excluded for some monitors."""

LOAD_MONITORS: Final = 12


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/upgrade", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database", choices=tuple(SERVERS), default="mariadb", help="default: mariadb")
    given = parser.parse_args(arguments)
    set_up_logging("error")
    end_by_unwinding()
    directory = Path(tempfile.mkdtemp(prefix="ntpupgrade-"))
    good = True
    try:
        with temporary_database(SERVERS[given.database], buffer_pool="128M", redo_log="64M") as database:
            good = _run(directory, database).good
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except (CannotRun, NoFormerRelease, BrokerUnavailable, OSError, RuntimeError) as error:
        good = False
        say(str(error))
        return 2
    finally:
        if good or not (directory / "logs").exists():
            shutil.rmtree(directory, ignore_errors=True)
        else:
            say(f"the logs of all processes are in {directory / 'logs'}")
    return 0 if good else 1


def _run(directory: Path, database: DatabaseServer) -> Summary:
    former = unpack(directory / "former")
    parts = _former_broker(former)
    site = make_site(directory, database.create("upgrade"), registering=True)
    run = UpgradeRun(site, world(AGENTS), former, load_names(LOAD_MONITORS), parts)
    summary = asyncio.run(run.run())
    print_all(summary, run.findings)
    return summary


def world(agents: int) -> World:
    """Return a world with so many agents, or none, whose servers listen on a free port."""
    draft = make_world(1, NTP_SERVERS, 1)
    made = make_world(max(1, agents), NTP_SERVERS, free_ntp_port([spec.address for spec in draft.fleet]))
    return replace(made, monitors=made.monitors[:agents])


def load_names(count: int) -> list[str]:
    """Return the names of the monitors of the load."""
    return [f"load{number}.{ENV}.mon.example" for number in range(1, count + 1)]


def _former_broker(former: FormerRelease) -> BrokerParts:
    """Build the former release's plugin.

    Raises:
        CannotRun: this fails.
    """
    source = former.tree / "broker-config"
    made = subprocess.run(["make", "-C", str(source / "jwt-auth")], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise CannotRun(f"the former release's plugin cannot be built:\n{made.stderr[-2000:]}")
    return replace(find_parts(), plugin=source / "jwt-auth" / "build" / "jwt-auth.so", common=source / "common")


if __name__ == "__main__":
    sys.exit(main())

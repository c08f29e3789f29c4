"""``scripts/faults``: break the whole system under load, and check its promises.

It prints each difference, and a JSON summary as its last line. Exit code 0: nothing lost, duplicated or unexplained; 1:
otherwise; 2: it could not run.
"""

import argparse
import sys
from collections.abc import Sequence

from bench.faults.plan import CLUSTER_NAMES, NAMES
from bench.faults.report import say
from bench.faults.run import Options, run_faults
from bench.stage import end_by_unwinding
from runtime.log import set_up_logging
from testbed.database import SERVERS
from testbed.ports import NO_IPV6, has_ipv6
from testbed.stack import CannotRun

_LONGEST = 24 * 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit code."""
    options = _options(arguments)
    set_up_logging("error")
    end_by_unwinding()
    try:
        return run_faults(options)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except CannotRun as error:
        say(str(error))
        return 2


def _options(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=5.0, metavar="N", help="duration, without the pauses for comparison"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="seed of the plan")
    parser.add_argument("--only", nargs="+", metavar="KIND", help=f"only these faults: {'; '.join(CLUSTER_NAMES)}")
    parser.add_argument("--ipv6", action="store_true", help="connect to broker and database over IPv6, at ::1")
    parser.add_argument("--database", choices=tuple(SERVERS), default="mariadb", help="default: mariadb")
    parser.add_argument(
        "--galera", action="store_true", help="on a Galera cluster of three nodes, with their faults as well"
    )
    given = parser.parse_args(arguments)
    names = CLUSTER_NAMES if given.galera else NAMES
    if not 0.1 <= given.minutes <= _LONGEST:
        parser.error(f"--minutes {given.minutes:g}: must be 0.1 to {_LONGEST:g}")
    for name in given.only or ():
        if name not in names:
            parser.error(f"--only {name!r}: is not a fault of this run; must be one of: {'; '.join(names)}")
    if given.galera and (given.ipv6 or given.database != "mariadb"):
        parser.error("--galera: is of MariaDB, over IPv4")
    if given.ipv6 and not has_ipv6():
        parser.error(f"--ipv6: {NO_IPV6}")
    return Options(
        seconds=given.minutes * 60,
        seed=given.seed,
        kinds=tuple(given.only or names),
        ipv6=given.ipv6,
        database=SERVERS[given.database],
        galera=given.galera,
    )


if __name__ == "__main__":
    sys.exit(main())

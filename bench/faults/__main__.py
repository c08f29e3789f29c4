"""``scripts/faults``: breaks the whole system under load, and holds it to its promises.

Prints each difference, and as its last line a summary in JSON. Exit code 0: nothing lost, nothing twice, nothing
unexplained; 1: something was; 2: it could not run.
"""

import argparse
import sys
from collections.abc import Sequence

from bench.faults.plan import NAMES, ONLY_TLS
from bench.faults.report import say
from bench.faults.run import Options, run_faults
from bench.stage import end_by_unwinding
from runtime.log import set_up_logging
from testbed.database import SERVERS
from testbed.ports import NO_IPV6, has_ipv6
from testbed.stack import CannotRun

_LONGEST = 24 * 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs, and returns the exit code."""
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
    parser.add_argument("--minutes", type=float, default=5.0, metavar="N", help="of faults; rests come on top")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="the same seed makes the same plan")
    parser.add_argument("--only", nargs="+", metavar="KIND", help=f"only these faults: {'; '.join(NAMES)}")
    parser.add_argument("--tls", action="store_true", help="all reach the broker by TLS; its own faults are added")
    parser.add_argument("--ipv6", action="store_true", help="all reach broker and database by IPv6, at ::1")
    parser.add_argument("--database", choices=tuple(SERVERS), default="mariadb", help="default: mariadb")
    given = parser.parse_args(arguments)
    if not 0.1 <= given.minutes <= _LONGEST:
        parser.error(f"--minutes {given.minutes:g}: must be 0.1 to {_LONGEST:g}")
    for name in given.only or ():
        if name not in NAMES:
            parser.error(f"--only {name!r}: is no fault; there are: {'; '.join(NAMES)}")
        if name in ONLY_TLS and not given.tls:
            parser.error(f"--only {name!r}: is a fault of --tls")
    if given.ipv6 and not has_ipv6():
        parser.error(f"--ipv6: {NO_IPV6}")
    kinds = tuple(given.only or (name for name in NAMES if given.tls or name not in ONLY_TLS))
    return Options(
        seconds=given.minutes * 60,
        seed=given.seed,
        kinds=kinds,
        tls=given.tls,
        ipv6=given.ipv6,
        database=SERVERS[given.database],
    )


if __name__ == "__main__":
    sys.exit(main())

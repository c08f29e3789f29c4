"""``python -m testbed.ntp``: run a fleet of simulated NTP servers in one process."""

import argparse
import asyncio
import logging
import resource
import signal
import sys
from pathlib import Path

from runtime.log import set_up_logging
from testbed.ntp.fleet import DEFAULT_BASE, DEFAULT_PORT, standard_fleet
from testbed.ntp.server import Fleet, FleetError
from testbed.ntp.spec import ServerSpec, SpecError, encode_specs, read_specs

_log = logging.getLogger("testbed.ntp")


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Return the exit code: 0, 1 (cannot listen) or 2 (wrong file or argument)."""
    options = _parser().parse_args(arguments)
    set_up_logging("info")
    return _fleet(options.spec) if options.command == "fleet" else _standard(options)


def _fleet(path: Path) -> int:
    try:
        specs = read_specs(path)
    except SpecError as error:
        _log.error("%s", error)
        return 2
    _allow_many_sockets()
    try:
        asyncio.run(_serve(specs, path))
    except FleetError as error:
        _log.error("%s", error)
        return 1
    return 0


def _standard(options: argparse.Namespace) -> int:
    try:
        specs = standard_fleet(options.count, options.base, options.port)
    except ValueError as error:
        _log.error("%s", error)
        return 2
    sys.stdout.write(encode_specs(specs).decode())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m testbed.ntp", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    fleet = commands.add_parser("fleet", help="run the servers of a file until SIGTERM; SIGHUP reloads it")
    fleet.add_argument("spec", type=Path, metavar="SPEC.json")
    standard = commands.add_parser("standard", help="print the specification of a standard fleet")
    standard.add_argument("count", type=int)
    standard.add_argument("--base", default=DEFAULT_BASE, help="address of the first server (%(default)s)")
    standard.add_argument("--port", type=int, default=DEFAULT_PORT, help="port of all servers (%(default)s)")
    return parser


def _allow_many_sockets() -> None:
    """Raise the limit of open files: each server needs a socket, and the usual soft limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(specs: tuple[ServerSpec, ...], path: Path) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Fleet(specs) as fleet:
        loop.add_signal_handler(signal.SIGHUP, _reload, fleet, path)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await stop.wait()


def _reload(fleet: Fleet, path: Path) -> None:
    try:
        fleet.apply(read_specs(path))
    except (SpecError, FleetError) as error:
        _log.error("%s", error)
    else:
        _log.info("%s: reloaded, %d servers", path, len(fleet.specs))


if __name__ == "__main__":
    sys.exit(main())

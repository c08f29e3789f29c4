"""``ntppool-monitor demo``: the whole system on this machine, measuring simulated and real NTP servers."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ops.errors import OperatorError, UsageError


def register(app: typer.Typer) -> None:
    """Adds the command to ``app`` where there is a testbed, which packages do not bring."""
    if find_spec("testbed") is None:
        return

    @app.command()
    def demo(
        seconds: Annotated[
            float | None, typer.Option(metavar="N", help="How long, from the start on; default: until Ctrl-C.")
        ] = None,
        agents: Annotated[int, typer.Option(metavar="N", help="Agents, each a process with an address.")] = 8,
        servers: Annotated[int, typer.Option(metavar="N", help="Simulated NTP servers, some of them wrong.")] = 12,
        ntp: Annotated[
            list[str] | None,
            typer.Option(metavar="HOST[:PORT]", help="A real NTP server on this machine; may be given again."),
        ] = None,
        database_url: Annotated[
            str | None,
            typer.Option(
                metavar="URL",
                envvar="DEMO_DATABASE_URL",
                help="An empty database, such as mysql://user:password@127.0.0.1/demo; default: see --database. "
                "Everybody on this machine sees arguments, so better in DEMO_DATABASE_URL.",
            ),
        ] = None,
        database: Annotated[
            str | None,
            typer.Option(metavar="KIND", help="Its own: sqlite (default), mariadb or mysql."),
        ] = None,
        directory: Annotated[
            Path | None,
            typer.Option("--dir", metavar="DIR", help="Keep all files and logs there; default: a temporary directory."),
        ] = None,
        tls: Annotated[
            bool, typer.Option("--tls", help="Everybody reaches the broker by TLS, not by plain TCP.")
        ] = False,
        ipv6: Annotated[bool, typer.Option("--ipv6", help="Everybody reaches the broker by IPv6, at ::1.")] = False,
        as_json: Annotated[
            bool, typer.Option("--json", help="A summary in JSON on stdout, as when stdout is no terminal.")
        ] = False,
    ) -> int:
        """Runs the whole system on this machine.

        Broker, database, workers and agents, against NTP servers whose faults are known. At its end it says whether all
        went well: every server has results and a score, nothing waits, nothing was lost or counted twice, no process
        died. Exit code 1 if not, and the logs are kept.
        """
        # Here, since the other commands need none of it.
        from runtime.log import set_up_logging
        from testbed.demo.errors import OptionError
        from testbed.demo.options import parse_options
        from testbed.demo.run import run_demo
        from testbed.stack import CannotRun

        set_up_logging("error")  # the table is what there is to see
        try:
            return run_demo(
                parse_options(
                    seconds=seconds,
                    agents=agents,
                    servers=servers,
                    ntp=ntp or [],
                    database_url=database_url,
                    database=database,
                    directory=directory,
                    tls=tls,
                    ipv6=ipv6,
                    as_json=as_json,
                )
            )
        except OptionError as error:
            raise UsageError(str(error)) from None
        except CannotRun as error:
            raise OperatorError(str(error)) from None

"""Define ``ntppool-monitor demo``: the whole system on this machine, measuring simulated and real NTP servers."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ops.errors import OperatorError, UsageError


def register(app: typer.Typer) -> None:
    """Add the command to ``app`` if there is a testbed, which packages do not contain."""
    if find_spec("testbed") is None:
        return

    @app.command()
    def demo(
        seconds: Annotated[
            float | None, typer.Option(metavar="N", help="Duration, once all is running; default: until Ctrl-C.")
        ] = None,
        agents: Annotated[
            int, typer.Option(metavar="N", help="Number of agents, each a process with its own address.")
        ] = 8,
        servers: Annotated[
            int, typer.Option(metavar="N", help="Number of simulated NTP servers, some of them wrong.")
        ] = 12,
        ntp: Annotated[
            list[str] | None,
            typer.Option(metavar="HOST[:PORT]", help="A real NTP server on this machine; repeatable."),
        ] = None,
        database_url: Annotated[
            str | None,
            typer.Option(
                metavar="URL",
                envvar="DEMO_DATABASE_URL",
                help="An empty database, such as mysql://user:password@127.0.0.1/demo; default: see --database. "
                "Other users can see arguments: prefer DEMO_DATABASE_URL.",
            ),
        ] = None,
        database: Annotated[
            str | None,
            typer.Option(metavar="KIND", help="Start a database: sqlite (default), mariadb or mysql."),
        ] = None,
        broker: Annotated[
            str, typer.Option(metavar="KIND", help="The broker: mosquitto, rmqtt, or rmqtt-cluster (3 nodes).")
        ] = "mosquitto",
        directory: Annotated[
            Path | None,
            typer.Option(
                "--dir", metavar="DIR", help="Keep all files and logs in DIR; default: a temporary directory."
            ),
        ] = None,
        tls: Annotated[
            bool, typer.Option("--tls", help="Connect workers to the broker with TLS, too, as the agents.")
        ] = False,
        ipv6: Annotated[bool, typer.Option("--ipv6", help="Connect to the broker over IPv6, at ::1.")] = False,
        as_json: Annotated[
            bool, typer.Option("--json", help="Print a JSON summary, as when stdout is not a terminal.")
        ] = False,
    ) -> int:
        """Run the whole system on this machine.

        The demo runs broker, database, workers and agents against NTP servers with known faults. At the end it reports
        whether the run succeeded: every server has results and a score, nothing is waiting, nothing was lost or counted
        twice, and no process died. Otherwise the exit code is 1, and the logs are kept.
        """
        # Imported here, since the other commands need none of it.
        from runtime.log import set_up_logging
        from testbed.demo.errors import OptionError
        from testbed.demo.options import parse_options
        from testbed.demo.run import run_demo
        from testbed.stack import CannotRun

        set_up_logging("error")  # the table is the output
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
                    broker=broker,
                    tls=tls,
                    ipv6=ipv6,
                    as_json=as_json,
                )
            )
        except OptionError as error:
            raise UsageError(str(error)) from None
        except CannotRun as error:
            raise OperatorError(str(error)) from None

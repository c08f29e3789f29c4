"""Run ``ntppool-agent``, the command line on a monitor host."""

import asyncio
import itertools
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from agent.check import Checked, check_arguments
from agent.check import check as check_servers
from agent.daemon_settings import DaemonSettings, hand_over
from agent.go_state import take_over
from agent.ntp.targets import TargetRefused, TargetRules
from agent.ntp.udp import stamping
from agent.output import Failed, print_crash, print_error, warn, write, write_json
from agent.owner import become_owner, user_name
from agent.place import daemon_base, look
from agent.settings import (
    AgentSettings,
    ConfigurationError,
    configured_api,
    defaults_path,
    for_daemon,
    load_settings,
    wanted_protocols,
)
from agent.state import NotSetUp, StateDirectory, StateError, StateUnavailable
from agent.version import VERSION
from agent.wording import status_lines
from runtime.log import set_up_logging
from runtime.mqtt.tls_files import file_stamp

EXIT_ERROR: Final = 1
EXIT_CONFIGURATION: Final = 2

_CHOOSE: Final = ("-e", "--env", "--deploy-env", "--state-dir")
"""The options that choose the agent. People write them after the command, too."""

app = typer.Typer(
    help="Measure NTP servers for the NTP Pool.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
api_commands = typer.Typer(help="Check the connection with the pool.", no_args_is_help=True)
app.add_typer(api_commands, name="api")


@app.callback()
def _settings(
    context: typer.Context,
    env: Annotated[
        str | None, typer.Option("-e", "--env", "--deploy-env", help="prod, test or devel (DEPLOYMENT_MODE).")
    ] = None,
    state_dir: Annotated[Path | None, typer.Option(help="State directory (MONITOR_STATE_DIR).")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Same as --log-level debug.")] = False,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error (MONITOR_LOG_LEVEL).")] = None,
    ipv4: Annotated[bool | None, typer.Option("--ipv4/--no-ipv4", help="Use IPv4 (MONITOR_IPV4).")] = None,
    ipv6: Annotated[bool | None, typer.Option("--ipv6/--no-ipv6", help="Use IPv6 (MONITOR_IPV6).")] = None,
) -> None:
    given: dict[str, Any] = {
        "env": env,
        "state_dir": state_dir,
        "log_level": "debug" if debug else log_level,
        "ipv4": ipv4,
        "ipv6": ipv6,
    }
    context.obj = load_settings(os.environ, given, warn=warn)


@app.command()
def monitor(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Probe every assigned server once, deliver, and exit.")] = False,
    sanity_only: Annotated[bool, typer.Option("--sanity-only", help="Only check the local clock, and exit.")] = False,
) -> None:
    """Run the agent."""
    if once and sanity_only:
        raise ConfigurationError("--once, --sanity-only: give only one of them")
    settings: AgentSettings = context.obj
    base = daemon_base(settings, os.environ)
    become_owner(base)  # what root leaves there, the service could not read
    directory = StateDirectory(base, settings.env)
    if take_over(directory, configured_api(settings)):
        warn(f"took over the state of the older agent; its file is kept as {directory.go_state_file}")
    try:
        directory.read_state()  # report errors in it before anything starts
    except NotSetUp:
        if once or sanity_only:  # the daemon waits for it
            raise
    defaults = defaults_path(os.environ)
    _become_daemon(for_daemon(settings, base, once=once, sanity_only=sanity_only, defaults=defaults))


@app.command()
def setup(
    context: typer.Context,
    hostname: Annotated[str | None, typer.Option(help="Name of this host to show; default: its own.")] = None,
    account: Annotated[str, typer.Option("-a", "--account", help="Token of the account to preselect.")] = "",
    api: Annotated[str | None, typer.Option(help="URL of the pool's API (MONITOR_API).")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a key is renewed.")] = False,
    qr: Annotated[bool, typer.Option("--qr/--no-qr", help="Show the address as a QR code, too, in a terminal.")] = True,
) -> None:
    """Register this host as a monitor, or add a protocol and renew its key.

    It shows an address to open in a browser, and waits until the monitor is confirmed there.

    It may be interrupted at any time and run again.
    """
    settings: AgentSettings = context.obj
    from agent.setup_command import set_up  # not needed by other commands

    set_up(settings, os.environ, hostname=hostname, account=account, api=api, yes=yes, qr=qr)


@app.command()
def check(
    context: typer.Context,
    servers: Annotated[list[str], typer.Argument(metavar="SERVER...", help="Addresses or host names to measure.")],
    samples: Annotated[int, typer.Option(min=1, max=10, help="Samples per address.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of results.")] = False,
) -> None:
    """Measure servers now and print the results; nothing is sent to the pool.

    All addresses of a host name are measured. Exit code 1 if one has no good answer.
    """
    settings: AgentSettings = context.obj
    set_up_logging(settings.log_level)
    rules, protocols = _rules(settings), wanted_protocols(settings)
    try:
        check_arguments(servers, rules)
    except TargetRefused as error:
        raise ConfigurationError(f"argument SERVER: {error}") from error

    def done(checked: Checked) -> None:
        if not as_json:
            write(checked.line())

    with stamping():
        found = asyncio.run(check_servers(servers, rules, protocols, samples, done))
    if as_json:
        write_json([checked.as_dict() for checked in found])
    raise typer.Exit(0 if all(checked.good for checked in found) else EXIT_ERROR)


@app.command()
def status(context: typer.Context) -> None:
    """Show whether the agent runs, is connected and probes, and if not, why not."""
    settings: AgentSettings = context.obj
    found, now = look(settings, os.environ), datetime.now(UTC)
    for line in status_lines(found, now):
        write(line)
    raise typer.Exit(0 if found.healthy(now) else EXIT_ERROR)


@api_commands.command()
def ok(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of steps.")] = False,
) -> None:
    """Check the way to the pool step by step, and say which step fails and what would help.

    It does not disturb a running agent. Exit code 1 if a step fails.
    """
    settings: AgentSettings = context.obj
    from agent.api_ok import check_api  # not needed by other commands

    set_up_logging("error")
    steps = check_api(settings, os.environ, lambda step: None if as_json else write(step.line()))
    if as_json:
        write_json([step.as_dict() for step in steps])
    raise typer.Exit(EXIT_ERROR if any(step.verdict == "failed" for step in steps) else 0)


@app.command()
def version() -> None:
    """Print the version."""
    write(f"ntppool-agent {VERSION}")


def main() -> NoReturn:
    """Run the command line and exit: 0, 1 after an error, 2 after a configuration error."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # escape what the locale cannot show
    try:
        app(options_first(sys.argv[1:]))
    except (StateUnavailable, Failed) as error:  # not an invalid setting, after which systemd would not restart us
        print_error(str(error))
        sys.exit(EXIT_ERROR)
    except (ConfigurationError, StateError) as error:
        for line in str(error).split("\n"):
            print_error(line)
        sys.exit(EXIT_CONFIGURATION)
    except Exception as error:
        print_crash(error)
        sys.exit(EXIT_ERROR)
    sys.exit(0)


def options_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with those that choose the agent before the command, wherever they were given."""
    first: list[str] = []
    others: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument == "--":
            return [*first, *others, argument, *left]
        if argument in _CHOOSE:
            first += [argument, *itertools.islice(left, 1)]
        elif argument.partition("=")[0] in _CHOOSE:
            first.append(argument)
        else:
            others.append(argument)
    return [*first, *others]


def _become_daemon(settings: DaemonSettings) -> NoReturn:
    """Replace this process with the daemon, which then has none of the command line's modules in memory."""
    # One arena, since an arena per thread would hold back memory; and return free memory to the system early.
    tuned = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "131072"}
    environ = {**tuned, **os.environ}
    # In a checkout, the packages are in the current directory; otherwise it must not be searched.
    isolated = [] if Path(__file__).parents[1] == Path.cwd() else ["-P"]
    command = [sys.executable, *isolated, "-m", "agent.daemon", str(hand_over(settings))]
    try:
        os.execve(sys.executable, command, environ)  # noqa: S606  # our own interpreter and module
    except OSError as error:  # as the owner of the state directory, who may not read where it is installed
        raise Failed(f"{sys.executable}: cannot be run by the user {user_name()}: {error.strerror}") from None


def _rules(settings: AgentSettings) -> TargetRules:
    """Return the rules of the state if there is one; a host that is not set up may still measure public servers."""
    directory = StateDirectory(Path(look(settings, os.environ).path).parent, settings.env)
    if file_stamp(directory.state_file) is None:
        return TargetRules(settings.env)
    return directory.rules(directory.read_state())


if __name__ == "__main__":
    main()

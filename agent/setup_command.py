"""Prepare a run of ``setup``: the state directory and its owner, the API, and the person's consent."""

import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent import qr_code
from agent.api_client import ApiClient, InvalidUrl
from agent.go_state import take_over
from agent.hints import command, complete
from agent.local_addresses import parse_local_addresses
from agent.output import Failed, confirmed, warn, write
from agent.owner import become_owner, user_name
from agent.settings import AgentSettings, ConfigurationError, configured_api, setup_directory, wanted_protocols
from agent.setup import Setup, Wanted
from agent.state import SERVICE_STATE, Lock, StateDirectory, StateError, StateUnavailable, running_process

_MAX_HOSTNAME: Final = 255
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def set_up(
    settings: AgentSettings,
    environ: Mapping[str, str],
    *,
    hostname: str | None,
    account: str,
    api: str | None,
    yes: bool,
    qr: bool = True,
) -> None:
    """Set up this host.

    Args:
        qr: draw the address to open as a QR code where the terminal can show it.

    Raises:
        ConfigurationError, StateError: a setting, an argument or the state directory is unusable.
        Failed: the registration failed, or was interrupted.
    """
    wanted = Wanted(checked_hostname(hostname), checked_account(account), wanted_protocols(settings))
    base = setup_directory(settings, environ)
    directory = StateDirectory(base, settings.env)
    if (advice := advice_for_user(settings, environ, directory)) is not None:
        warn(advice)
    is_root = os.geteuid() == 0
    become_owner(base)
    try:
        directory.prepare()
    except StateUnavailable:
        raise
    except StateError as error:
        if is_root:
            raise
        raise StateError(f"{error}; run this as root, for example with sudo") from error
    with Lock(directory, directory.setup_lock_file, "another run of setup"):
        if take_over(directory, api or configured_api(settings)):
            write(f"took over the state of the older agent; its file is kept as {directory.go_state_file}")
        client = make_client(settings, directory, api)
        try:
            _ask(directory, yes)
            write(f"registering {wanted.hostname or 'this host'} with {client.url}")
            Setup(directory, client, wanted, write, picture=qr_code.draw if qr else None).run()
        except KeyboardInterrupt:
            raise Failed(f"interrupted; to go on, run {command(directory, 'setup')} again") from None
        except Failed as failed:
            raise type(failed)(complete(str(failed), directory)) from None


def advice_for_user(settings: AgentSettings, environ: Mapping[str, str], directory: StateDirectory) -> str | None:
    """Return a warning for a user whose agent the service would not find; ``None`` if there is nothing to warn of.

    There is none if the user has named the directory, or already has an agent that is set up or running.
    """
    named = settings.state_dir is not None or bool(environ.get("STATE_DIRECTORY"))
    base = directory.path.parent
    if os.geteuid() == 0 or named or base == SERVICE_STATE:
        return None
    if running_process(directory) is not None or os.path.lexists(directory.state_file):
        return None
    return (
        f"this sets up an agent of user {user_name()} in {base}, which the service ntppool-agent@{directory.env} "
        "does not find; to set up the service, interrupt this and run it as root, for example with sudo"
    )


def checked_hostname(given: str | None) -> str:
    """Return the name of this host to show: the given one, else the system's; empty if that is not a readable text.

    Raises:
        ConfigurationError: the given one is not.
    """
    name = socket.gethostname() if given is None else given.strip()
    if name.isascii() and name.isprintable() and len(name) <= _MAX_HOSTNAME:
        return name
    if given is None:
        return ""
    raise ConfigurationError(f"--hostname: must be at most {_MAX_HOSTNAME} printable ASCII characters")


def checked_account(given: str) -> str:
    """Return the token of an account to preselect, or an empty text.

    Raises:
        ConfigurationError: it cannot be one.
    """
    if given and not _ACCOUNT.fullmatch(given):
        raise ConfigurationError("--account: must be the token of an account: letters, digits, '.', '_' and '-'")
    return given


def make_client(settings: AgentSettings, directory: StateDirectory, given: str | None = None) -> ApiClient:
    """Return a client for the API: the one that is given, or set, or that this host is registered with, or the pool's.

    Raises:
        ConfigurationError: its URL or CA file is invalid.
        StateError: ``state.json`` is invalid.
    """
    known = directory.read_file().api
    url = given or settings.api or (None if known is None else known.url) or configured_api(settings)
    ca_file = settings.api_ca_file
    if ca_file is None and known is not None and known.ca_file is not None:
        ca_file = Path(known.ca_file)
    if ca_file is not None:
        check_readable("MONITOR_API_CA_FILE", ca_file)
    try:
        return ApiClient(url, ca_file, local=parse_local_addresses(settings.api_bind))
    except InvalidUrl as error:
        raise ConfigurationError(f"--api, MONITOR_API: {error}") from None


def check_readable(setting: str, path: Path) -> None:
    """Check that we, who may be the service's user by now, can read the file that a setting names.

    Raises:
        ConfigurationError: we cannot.
    """
    try:
        with path.open("rb"):
            return
    except PermissionError:
        advice = f"copy it to /etc and run 'chmod 644' on the copy, so that {user_name()} can read it"
        raise ConfigurationError(f"{setting}: {path}: cannot be read by the user {user_name()}: {advice}") from None
    except OSError as error:
        raise ConfigurationError(f"{setting}: {path}: must be a readable file: {error.strerror or error}") from None


def _ask(directory: StateDirectory, yes: bool) -> None:
    file = directory.read_file()
    if yes or (file.name is None and file.api is None):
        return
    known = f"This host is set up as {file.name or 'a monitor that waits for its name'}."
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{known} Going on would renew its key: without a terminal, this needs --yes")
    write(f"{known} Going on adds protocols and renews its key; the former key ends.")
    if not confirmed("Go on?"):
        raise Failed("nothing was changed")

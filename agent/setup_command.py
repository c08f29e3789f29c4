"""Prepare a run of ``setup``: the state directory and its owner, the API, and the person's consent."""

import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent import qr_code
from agent.api_client import ApiClient, InvalidUrl
from agent.go_state import take_over
from agent.local_addresses import parse_local_addresses
from agent.output import Failed, confirmed, write
from agent.owner import become_owner
from agent.settings import AgentSettings, ConfigurationError, configured_api, setup_directory, wanted_protocols
from agent.setup import Setup, Wanted
from agent.state import Lock, StateDirectory

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
    become_owner(base)
    directory = StateDirectory(base, settings.env)
    directory.prepare()
    with Lock(directory, directory.setup_lock_file, "another run of setup"):
        if take_over(directory, api or configured_api(settings)):
            write(f"took over the state of the older agent; its file is kept as {directory.go_state_file}")
        client = make_client(settings, directory, api)
        try:
            _ask(directory, yes)
            write(f"registering {wanted.hostname or 'this host'} with {client.url}")
            Setup(directory, client, wanted, write, picture=qr_code.draw if qr else None).run()
        except KeyboardInterrupt:
            raise Failed("interrupted; run setup again to go on") from None


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
    if ca_file is not None and not ca_file.is_file():
        raise ConfigurationError(f"MONITOR_API_CA_FILE: {ca_file}: must be a readable file")
    try:
        return ApiClient(url, ca_file, local=parse_local_addresses(settings.api_bind))
    except InvalidUrl as error:
        raise ConfigurationError(f"--api, MONITOR_API: {error}") from None


def _ask(directory: StateDirectory, yes: bool) -> None:
    name = directory.read_file().name
    if name is None or yes or not sys.stdin.isatty():
        return
    write(f"This host is set up as {name}. Going on adds protocols and renews its key; the former key ends.")
    if not confirmed("Go on?"):
        raise Failed("nothing was changed")

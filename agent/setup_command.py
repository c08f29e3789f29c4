"""Prepare a run of ``setup``: the state directory and its owner, the API, and the person's consent."""

import sys
from collections.abc import Mapping
from pathlib import Path

from agent.api_client import ApiClient, InvalidUrl
from agent.go_state import take_over
from agent.output import Failed, write
from agent.owner import become_owner
from agent.settings import AgentSettings, ConfigurationError, configured_api, setup_directory, wanted_protocols
from agent.setup import Setup, Wanted, system_hostname
from agent.state import Lock, StateDirectory


def set_up(
    settings: AgentSettings,
    environ: Mapping[str, str],
    *,
    hostname: str | None,
    account: str,
    api: str | None,
    yes: bool,
) -> None:
    """Set up this host.

    Raises:
        ConfigurationError, StateError: a setting, an argument or the state directory is unusable.
        Failed: the registration failed, or was interrupted.
    """
    wanted = Wanted(hostname or system_hostname(), account, wanted_protocols(settings))
    base = setup_directory(settings, environ)
    become_owner(base)
    directory = StateDirectory(base, settings.env)
    directory.prepare()
    with Lock(directory, directory.setup_lock_file, "another run of setup"):
        if take_over(directory, api or configured_api(settings)):
            write(f"took over the state of the older agent; its file is kept as {directory.go_state_file}")
        client = make_client(settings, directory, api)
        _ask(directory, yes)
        write(f"registering {wanted.hostname} with {client.url}")
        try:
            Setup(directory, client, wanted, write).run()
        except KeyboardInterrupt:
            raise Failed("interrupted; run setup again to go on") from None


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
        return ApiClient(url, ca_file)
    except InvalidUrl as error:
        raise ConfigurationError(f"--api, MONITOR_API: {error}") from None


def _ask(directory: StateDirectory, yes: bool) -> None:
    name = directory.read_file().name
    if name is None or yes or not sys.stdin.isatty():
        return
    write(f"This host is set up as {name}. Going on adds protocols and renews its key; the former key ends.")
    sys.stdout.write("Go on? [y/N] ")
    sys.stdout.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failed("nothing was changed")

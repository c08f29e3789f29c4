"""Find the agent that a command is about: the directory in which a daemon runs, else one that is set up."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from agent.hints import command
from agent.inspection import Inspection, inspect
from agent.settings import AgentSettings, base_directory, places_to_look, setup_directory
from agent.state import StateDirectory


def look(settings: AgentSettings, environ: Mapping[str, str]) -> Inspection:
    """Inspect the agent, and compare its API with the settings."""
    found = inspect(places_to_look(settings, environ), settings.env)
    return msgspec.structs.replace(found, settings_differ=_difference(found, settings))


def daemon_base(settings: AgentSettings, environ: Mapping[str, str]) -> Path:
    """Return the parent of the state directories for a daemon: where one runs or is set up, else where ``setup`` will
    set it up.

    Raises:
        StateError: there is none, and this user, who has no home, must name one.
    """
    found = inspect(places_to_look(settings, environ), settings.env)
    if found.process is not None or found.set_up:
        return Path(found.path).parent
    base_directory(settings, environ)
    return setup_directory(settings, environ)


def _difference(found: Inspection, settings: AgentSettings) -> str | None:
    """Return in words which setting ``setup`` would take up."""
    if found.api is None:
        return None
    directory = StateDirectory(Path(found.path).parent, found.env)
    for variable, wanted, used in (
        ("MONITOR_API", settings.api and settings.api.rstrip("/"), found.api),
        ("MONITOR_API_CA_FILE", settings.api_ca_file and str(settings.api_ca_file.absolute()), found.api_ca_file),
    ):
        if wanted and wanted != used:
            advice = f"run {command(directory, 'setup')} to take up the new one"
            return f"{variable} is {wanted}, but setup has used {used or 'none'}, which the agent keeps: {advice}"
    return None

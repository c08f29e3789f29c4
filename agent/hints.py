"""Name commands for people to run, with the options that lead to the same agent."""

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent.state import SERVICE_STATE, StateDirectory, StateError, state_base
from schema.names import DEFAULT_ENVIRONMENT

PROGRAM: Final = "ntppool-agent"

_BARE: Final = re.compile(f"'{PROGRAM} (?!-)")


def command(directory: StateDirectory, words: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the command ``ntppool-agent WORDS`` for the agent of this directory, between quotation marks."""
    return f"'{PROGRAM}{options(directory, environ)} {words}'"


def options(directory: StateDirectory, environ: Mapping[str, str] = os.environ) -> str:
    """Return the options by which the program finds this directory: none for the default environment in a usual place,
    else with a leading space."""
    found = "" if directory.env == DEFAULT_ENVIRONMENT else f" --env {directory.env}"
    base = directory.path.parent
    return found if base in _usual(environ) else f"{found} --state-dir {shlex.quote(str(base))}"


def complete(text: str, directory: StateDirectory) -> str:
    """Add the options to each command in a text that has none, such as one of the API, which does not know them."""
    return _BARE.sub(f"'{PROGRAM}{options(directory)} ".replace("\\", r"\\"), text)


def _usual(environ: Mapping[str, str]) -> tuple[Path, ...]:
    try:
        return SERVICE_STATE, state_base(None, {key: environ[key] for key in ("XDG_CONFIG_HOME",) if key in environ})
    except StateError:
        return (SERVICE_STATE,)

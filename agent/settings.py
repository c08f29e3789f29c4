"""Load the agent's settings: arguments override the environment, which overrides the defaults file
(``/etc/default/ntppool-agent``, on FreeBSD ``/usr/local/etc/ntppool-agent.conf``).

Hosts bring files and habits from the older agent, so its spellings are accepted, and variables that only it used are
reported and ignored.
"""

import difflib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from agent.daemon_settings import DaemonSettings
from agent.local_addresses import parse_local_addresses
from agent.state import SERVICE_STATE, StateError, state_base
from agent.system import SYSTEM
from runtime.log import level_name
from runtime.mqtt.tls_files import file_stamp
from schema.messages import LogLevel
from schema.names import DEFAULT_ENVIRONMENT, Environment, IpVersion

DEFAULTS_FILE: Final = SYSTEM.defaults
_DEFAULTS_FILE_KEY: Final = "MONITOR_DEFAULTS_FILE"

_PREFIX: Final = "MONITOR_"

_LINE: Final = re.compile(r"""([A-Za-z_][A-Za-z0-9_]*)=(?:"([^"]*)"|'([^']*)'|([^"'\s]*))""")


DEFAULT_APIS: Final[Mapping[Environment, str]] = {
    "prod": "https://api.ntppool.dev",
    "test": "https://beta-api.ntppool.dev",
    "devel": "https://dev-api.ntppool.dev",
}
"""The pool's own management APIs."""


def _local_addresses(text: str) -> str:
    parse_local_addresses(text)
    return text


class ConfigurationError(Exception):
    """Settings are invalid; the message names each of them and the accepted values."""


class AgentSettings(BaseSettings):
    """The settings that the agent reads from its environment. The aliases are the names of the variables."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, extra="ignore", populate_by_name=True)

    env: Environment = Field(DEFAULT_ENVIRONMENT, alias="DEPLOYMENT_MODE")
    state_dir: Path | None = Field(None, alias="MONITOR_STATE_DIR")
    log_level: Annotated[LogLevel, BeforeValidator(level_name)] = Field("info", alias="MONITOR_LOG_LEVEL")
    debug: bool = Field(False, alias="MONITOR_DEBUG")
    """The older agent's option for ``debug``."""
    ipv4: bool = Field(True, alias="MONITOR_IPV4")
    ipv6: bool = Field(True, alias="MONITOR_IPV6")
    spool_megabytes: int = Field(64, ge=1, le=4096, alias="MONITOR_SPOOL_MEGABYTES")
    trace_batches: int = Field(1000, ge=0, le=1_000_000, alias="MONITOR_TRACE_BATCHES")
    """One in so many batches is traced; 0: none."""
    api: str | None = Field(None, alias="MONITOR_API")
    api_ca_file: Path | None = Field(None, alias="MONITOR_API_CA_FILE")
    api_bind: Annotated[str, AfterValidator(_local_addresses)] = Field("", alias="MONITOR_API_BIND")
    """Local addresses from which to contact the API, separated by commas, at most one per protocol."""
    api_host: str | None = Field(None, alias="API_HOST")
    """The older agent's variable for ``api``."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use only the values passed in: environment and file are merged earlier, so that tests need neither."""
        return (init_settings,)


KNOWN: Final = frozenset(
    str(field.alias) for field in AgentSettings.model_fields.values() if str(field.alias).startswith("MONITOR_")
) | {_DEFAULTS_FILE_KEY}


def load_settings(
    environ: Mapping[str, str], given: Mapping[str, Any], warn: Callable[[str], object] = lambda text: None
) -> AgentSettings:
    """Load the settings of this process.

    Args:
        given: arguments by field name; ``None`` if not given.
        warn: called for unknown variables. An older agent may know them, so they are not an error.

    Raises:
        ConfigurationError: a setting is invalid in any of the sources.
    """
    path = defaults_path(environ)
    from_file = read_defaults(path, must_exist=bool(environ.get(_DEFAULTS_FILE_KEY)))
    for text in (*_unknown(from_file, str(path)), *_unknown(environ, "environment")):
        warn(text)
    found = _found(given, from_file, str(path), environ)
    try:
        settings = AgentSettings(**{key: value.given for key, value in found.items()})
    except ValidationError as error:
        raise ConfigurationError("\n".join(_setting_error(e, found) for e in error.errors(include_url=False))) from None
    level, debug = found.get("MONITOR_LOG_LEVEL"), found.get("MONITOR_DEBUG")
    if settings.debug and debug is not None and (level is None or level.rank <= debug.rank):
        return settings.model_copy(update={"log_level": "debug"})
    return settings


def defaults_path(environ: Mapping[str, str]) -> Path:
    """Return the path of the defaults file, which need not exist."""
    return Path(environ.get(_DEFAULTS_FILE_KEY) or DEFAULTS_FILE)


@dataclass(frozen=True, slots=True)
class _Value:
    given: Any
    origin: str
    rank: int
    """The rank of the source; a higher one wins."""


def _found(
    given: Mapping[str, Any], from_file: Mapping[str, str], path: str, environ: Mapping[str, str]
) -> dict[str, _Value]:
    """Return the winning value of each setting, by alias."""
    found: dict[str, _Value] = {}
    for name, field in AgentSettings.model_fields.items():
        key = str(field.alias)
        for rank, (origin, source) in enumerate(((path, from_file), ("environment", environ))):
            if source.get(key):
                found[key] = _Value(source[key], f"{key} ({origin})", rank)
        if given.get(name) is not None:
            found[key] = _Value(given[name], f"argument for {key}", 2)
    return found


def base_directory(settings: AgentSettings, environ: Mapping[str, str]) -> Path:
    """Return the parent of the state directories of all environments."""
    return state_base(settings.state_dir, {key: value for key, value in environ.items() if key != "MONITOR_STATE_DIR"})


def places_to_look(settings: AgentSettings, environ: Mapping[str, str]) -> list[Path]:
    """Return the candidate state directories: the one that was named, else the user's own and that of the units."""
    own = {key: value for key, value in environ.items() if key != "MONITOR_STATE_DIR"}
    if settings.state_dir is not None or own.get("STATE_DIRECTORY"):
        return [state_base(settings.state_dir, own)]
    places = [SERVICE_STATE]
    with suppress(StateError):
        places.insert(0, state_base(None, own))
    return places


def setup_directory(settings: AgentSettings, environ: Mapping[str, str]) -> Path:
    """Return the parent of the state directories for ``setup``: the one that was named; else, for root and the
    service's user, that of the units; else the user's own.

    Raises:
        StateError: there is none.
    """
    places = places_to_look(settings, environ)
    if len(places) > 1 and (os.geteuid() == 0 or os.access(SERVICE_STATE, os.W_OK | os.X_OK)):
        return SERVICE_STATE
    return places[0]


def configured_api(settings: AgentSettings) -> str:
    """Return the URL of the API from the settings, else the pool's own."""
    return (settings.api or settings.api_host or DEFAULT_APIS[settings.env]).rstrip("/")


def for_daemon(
    settings: AgentSettings,
    base: Path,
    *,
    once: bool = False,
    sanity_only: bool = False,
    defaults: Path = DEFAULTS_FILE,
) -> DaemonSettings:
    """Return the settings for the daemon.

    Args:
        defaults: the file that was read for them.

    Raises:
        ConfigurationError: neither protocol is enabled.
    """
    protocols = wanted_protocols(settings)
    return DaemonSettings(
        env=settings.env,
        state_base=str(base.absolute()),
        log_level=settings.log_level,
        protocols=protocols,
        spool_bytes=settings.spool_megabytes * 1024 * 1024,
        trace_batches=settings.trace_batches,
        once=once,
        sanity_only=sanity_only,
        api_local=parse_local_addresses(settings.api_bind),
        defaults_file=str(defaults.absolute()),
        defaults_stamp=file_stamp(defaults),
    )


def wanted_protocols(settings: AgentSettings) -> tuple[IpVersion, ...]:
    """Return the enabled protocols.

    Raises:
        ConfigurationError: neither protocol is enabled.
    """
    wanted: dict[IpVersion, bool] = {"v4": settings.ipv4, "v6": settings.ipv6}
    protocols = tuple(ipv for ipv, on in wanted.items() if on)
    if not protocols:
        raise ConfigurationError("MONITOR_IPV4, MONITOR_IPV6: at least one of them must be on")
    return protocols


def read_defaults(path: Path, *, must_exist: bool) -> dict[str, str]:
    """Read the variables from a file of ``KEY=VALUE`` lines; comments begin with ``#``, values may be quoted.

    Raises:
        ConfigurationError: the file cannot be read, or a line is malformed.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        if must_exist:
            raise ConfigurationError(f"{_DEFAULTS_FILE_KEY}={path}: must be an existing file") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise ConfigurationError(f"{path} line {number}: {text[:80]!r} must be KEY=VALUE")
        found[match[1]] = next((value for value in match.groups()[1:] if value is not None), "")
    return found


def _unknown(variables: Mapping[str, str], origin: str) -> list[str]:
    strange = sorted(key for key in variables if key.startswith(_PREFIX) and key not in KNOWN)
    return [f"{key} ({origin}): is not a setting of this agent and is ignored; {_advice(key)}" for key in strange]


def _advice(key: str) -> str:
    # Without the prefix, which makes any two of them similar.
    known = {name.removeprefix(_PREFIX): name for name in KNOWN}
    similar = difflib.get_close_matches(key.removeprefix(_PREFIX), known, n=1)
    return f"did you mean {known[similar[0]]}?" if similar else f"known settings: {', '.join(sorted(KNOWN))}"


def _setting_error(error: Any, found: Mapping[str, _Value]) -> str:
    key = str(error["loc"][0])
    message = str(error["msg"]).removeprefix("Value error, ")
    origin = found[key].origin if key in found else key
    return f"{origin}={error['input']}: {message[:1].lower()}{message[1:]}"

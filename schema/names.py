"""Define names of environments and monitors. A name becomes a topic level and a token's subject, so its form is
strict."""

import re
from typing import Final, Literal, get_args

Environment = Literal["prod", "test", "devel"]
IpVersion = Literal["v4", "v6"]

ENVIRONMENTS: Final[tuple[Environment, ...]] = get_args(Environment)
DEFAULT_ENVIRONMENT: Final[Environment] = "prod"
"""The environment of agents and workers without a setting: that of the pool's hosts, and the one without developers'
permissions."""
IP_VERSIONS: Final[tuple[IpVersion, ...]] = get_args(IpVersion)

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME: Final = re.compile(rf"(?P<short>{_LABEL})\.(?P<env>{'|'.join(ENVIRONMENTS)})(?:\.{_LABEL})+")
_MAX_NAME: Final = 253  # of a domain name, RFC 1035


class InvalidName(ValueError):
    """The name is malformed; the message describes the correct form."""


def parse_environment(text: str) -> Environment:
    """Return the environment called ``text``.

    Raises:
        InvalidName: there is no such environment.
    """
    if text not in ENVIRONMENTS:
        raise InvalidName(f"environment {text!r}: must be one of {', '.join(ENVIRONMENTS)}")
    return text


def check_monitor_name(name: str, env: Environment | None = None) -> str:
    """Check that ``name`` is ``<short>.<env>.<domain>`` in lower case, and return it.

    Raises:
        InvalidName: it is malformed, or belongs to another environment than ``env``.
    """
    match = _NAME.fullmatch(name)
    if match is None or len(name) > _MAX_NAME:
        raise InvalidName(
            f"monitor name {name[:_MAX_NAME]!r}: must be <short>.<env>.<domain>, such as nlams1-x.test.mon.example"
        )
    if env is not None and match["env"] != env:
        raise InvalidName(f"monitor name {name!r}: belongs to {match['env']}, not to {env}")
    return name


def short_name(name: str) -> str:
    """Return the public part of a monitor's name, up to the first dot."""
    return name.partition(".")[0]

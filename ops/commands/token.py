"""Define ``ntppool-monitor token``: print a token for the broker to stdout.

For workers and tests, and for an agent that is not registered, to whose host an operator copies it. A registered agent
fetches its tokens from the API by itself.
"""

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ops.context import Globals, globals_of
from ops.errors import UsageError
from ops.output import write
from schema.names import ENVIRONMENTS

if TYPE_CHECKING:
    from auth.tokens import Role

ROLES: Final = ("monitor", "server", "observer", "admin", "exporter")
"""The names of :class:`auth.tokens.Role`, for the help text."""
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"(\d{1,9})([smhd]?)")


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def token(
        context: typer.Context,
        role: Annotated[str, typer.Argument(metavar="ROLE", help=", ".join(ROLES))],
        name: Annotated[str, typer.Argument(metavar="NAME", help="User name at the broker.")],
        env: Annotated[
            str | None, typer.Option("-e", "--env", metavar="ENV", help="Same as the global option.")
        ] = None,
        lifetime: Annotated[
            str | None,
            typer.Option(
                metavar="TIME", help="Lifetime, such as 90s, 10m, 2h, 7d; maximum and default depend on the role."
            ),
        ] = None,
    ) -> None:
        """Print a token for the broker.

        The token lets NAME log in as a ROLE, for the lifetime of that role: an admin 5 minutes, a monitor 6 hours. It
        is valid for one environment, which must be named.
        """
        from auth.settings import signing_key
        from auth.tokens import check_name, permissions, sign

        given = globals_of(context)
        given = Globals(env or given.env, given.log_level)
        if given.env_named_by is None:
            raise UsageError(
                f"environment: must be named with --env ({', '.join(ENVIRONMENTS)}) or DEPLOYMENT_MODE; "
                "a token is valid for one of them only"
            )
        settings = given.for_a_person()
        wanted = parse_role(role)
        mode = settings.deployment_mode
        check_name(wanted, name, mode)
        longest = permissions(wanted, name, mode).lifetime
        key = signing_key(settings)
        write(sign(key, wanted, name, mode, lifetime=parse_lifetime(lifetime, longest)))


def parse_role(text: str) -> "Role":
    """Return the role called ``text``.

    Raises:
        UsageError: there is no such role.
    """
    from auth.tokens import Role

    try:
        return Role(text)
    except ValueError:
        raise UsageError(f"role {text!r}: must be one of {', '.join(Role)}") from None


def parse_lifetime(text: str | None, longest: timedelta) -> timedelta:
    """Parse a lifetime; return ``longest`` if ``text`` is ``None``.

    Raises:
        UsageError: it is invalid or too long.
    """
    if text is None:
        return longest
    match = _DURATION.fullmatch(text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 1 <= seconds <= longest.total_seconds():
        raise UsageError(
            f"--lifetime {text!r}: must be a time such as 90s, 10m, 2h or 7d, at most {longest} for this role"
        )
    return timedelta(seconds=seconds)

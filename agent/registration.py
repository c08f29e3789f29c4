"""Remember a registration that is not finished, so that ``setup`` may be interrupted and run again."""

import time
from contextlib import suppress
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from agent.delivery.ulid import new_ulid
from agent.files import write_durably
from agent.state import StateDirectory, state_error

LASTS: Final = 24 * 3600.0
"""Seconds after which the API forgets a registration that nobody has confirmed."""

_MAX_FILE: Final = 8192


class Registration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A registration; the content of ``registration.json``."""

    id: Annotated[str, Meta(pattern=r"^[0-9A-HJKMNP-TV-Z]{26}\Z")]
    """The ULID that links the requests of one registration. Secret: whoever knows it gets the API key."""
    url: str
    """The API's URL."""
    hostname: str
    account: str
    started: float
    """Unix time in seconds."""

    def __repr__(self) -> str:
        return f"Registration(url={self.url!r}, ...)"


def begin_or_go_on(directory: StateDirectory, url: str, hostname: str, account: str) -> tuple[Registration, bool]:
    """Return the registration to poll, and whether it was begun by an earlier run with the same arguments.

    A new one is on disk before it is used.

    Raises:
        StateError: it cannot be written.
    """
    now = time.time()
    former = _read(directory)
    # abs: a clock that was wrong when the registration began must not keep it for ever.
    if (
        former is not None
        and abs(now - former.started) < LASTS
        and (former.url, former.hostname, former.account) == (url, hostname, account)
    ):
        return former, True
    made = Registration(id=new_ulid(time.time_ns()), url=url, hostname=hostname, account=account, started=now)
    try:
        write_durably(directory.registration_file, msgspec.json.encode(made))
    except OSError as error:
        raise state_error(f"{directory.registration_file}: cannot be written", error) from error
    return made, False


def end(directory: StateDirectory) -> None:
    """Forget the registration. One that cannot be removed does no harm: the API says that it is over."""
    with suppress(OSError):
        directory.registration_file.unlink(missing_ok=True)


def _read(directory: StateDirectory) -> Registration | None:
    try:
        with directory.registration_file.open("rb") as file:
            return msgspec.json.decode(file.read(_MAX_FILE), type=Registration)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None  # a new registration does no harm

"""Decide whether an operator asks: by the key of an account that ``API_OPERATORS`` names, in the header
``Authorization``.

Programs cannot log in at a provider, so keys count here even where people use one. Cookies never count: another site
could make a browser send them.
"""

import hmac
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final

from fastapi import Depends
from fastapi.security import HTTPBearer

from api.pages.login_limit import WITHIN_SECONDS, LoginLimit
from api.pages.person import read_person
from api.pages.request_checks import network_of_peer
from api.pages.session import KeyLogin
from api.requests import Asked, read_request
from api.services import Services
from auth.api_key_store import authenticate
from auth.api_keys import parse_key
from runtime.db.engine import reading
from runtime.http.answers import Declined
from runtime.settings import operator_entries

OPERATOR_KEY: Final = Depends(
    HTTPBearer(
        auto_error=False,
        scheme_name="operatorKey",
        description="A key of an account that the setting API_OPERATORS names.",
    )
)
"""Only describes the header."""


_MOST_KNOWN: Final = 100


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator, by the key that was shown."""

    key_id: int
    label: str
    """For the log."""


def operator_required(services: Services) -> Callable[[Asked], Operator]:
    """Return a dependency of routes that returns the operator who asks.

    Raises:
        Declined: 401 if no valid key was shown, 403 if it is not that of an operator, 429 if there were too many such
            requests from one network.
    """
    operators = frozenset(operator_entries(services.settings.api_operators))
    limit, known = LoginLimit(), KnownKeys()

    def operator(asked: Annotated[Asked, Depends(read_request)]) -> Operator:
        network, shown = network_of_peer(asked.peer), asked.bearer() or ""
        if not known.has(shown):
            _check_limit(limit, network)
        found = _identify(services, shown, operators, services.now())
        if isinstance(found, Declined):
            known.forget(shown)
            limit.begin(network)
            raise found
        known.remember(shown)
        return found

    return operator


class KnownKeys:
    """Recognise keys that were those of operators before, without holding any. Thread-safe.

    They are looked up again for each request, but failures of others do not lock them out, who may share an address.
    """

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)
        self._seen: dict[bytes, None] = {}
        self._lock = threading.Lock()

    def has(self, key: str) -> bool:
        """Return whether it is known."""
        with self._lock:
            return self._mark(key) in self._seen

    def remember(self, key: str) -> None:
        """Add it; beyond :data:`_MOST_KNOWN`, the one that was added first is forgotten."""
        with self._lock:
            self._seen[self._mark(key)] = None
            if len(self._seen) > _MOST_KNOWN:
                del self._seen[next(iter(self._seen))]

    def forget(self, key: str) -> None:
        """Remove it, since it is valid no more."""
        with self._lock:
            self._seen.pop(self._mark(key), None)

    def _mark(self, key: str) -> bytes:
        return hmac.digest(self._secret, key.encode("utf-8", "replace"), "sha256")


def _check_limit(limit: LoginLimit, network: str) -> None:
    """Refuse a network with too many failures, before anything is looked up.

    Programs send several requests at once, so a request counts only when it has failed.
    """
    if not limit.begin(network):
        raise Declined(
            429,
            "too_many_logins",
            "Too many requests from your network had no valid key; try again later.",
            {"Retry-After": str(int(WITHIN_SECONDS))},
        )
    limit.succeeded(network)


def _identify(services: Services, shown: str, operators: frozenset[str], now: datetime) -> Operator | Declined:
    if parse_key(shown) is None:
        return _unknown()
    found = authenticate(services.engine, services.peppers, shown, now)
    if found is None:
        return _unknown()
    with reading(services.engine) as connection:
        person = read_person(connection, KeyLogin(found.id), operators, now)
    if person is None or not person.operator:
        return Declined(
            403, "operator", "This key is not that of an operator: API_OPERATORS does not name its account."
        )
    return Operator(found.id, person.label)


def _unknown() -> Declined:
    return Declined(
        401,
        "operator_key",
        "This needs the key of an operator's account, as a bearer token in the header Authorization.",
        {"WWW-Authenticate": "Bearer"},
    )

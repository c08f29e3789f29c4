"""Check the addresses of channels, and encrypt them for the ledger.

An address of a chat or webhook contains its secret, so the ledger has it only encrypted, with a key that is derived
from the pepper of API keys, and no log, list or error shows more than :func:`shown`.
"""

import re
import secrets
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from auth.api_keys import Peppers
from auth.sealing import Lock, seal, unseal

MAIL: Final = "mail"
URL: Final = "url"

_EMAIL: Final = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,188}[A-Za-z0-9])")
_PURPOSE: Final = b"ntppool-monitor: address of an alert channel"
_MOST: Final = 2_000

FOR_ACCOUNTS: Final = frozenset(
    {
        *("https", "jsons", "xmls", "forms"),
        *("discord", "gchat", "gotifys", "guilded", "matrixs", "mmosts", "msteams", "ncloud", "ntfys", "opsgenie"),
        *("pagerduty", "pover", "pbul", "revolt", "rockets", "signl4", "slack", "tgram", "twist", "wxteams"),
        *("webex", "workflow", "workflows", "zulip"),
    }
)
"""Schemes of the channels of accounts: chats and webhooks over HTTPS. Others, of Apprise, are for operators, since they
may use the local machine and its network."""

NEVER: Final = frozenset(
    {"mailto", "mailtos", "file", "dbus", "glib", "gnome", "kde", "qt", "macosx", "windows", "syslog"}
)
"""Schemes that nobody may use: mail is sent by our own server, and the others show the message on this host."""


class InvalidAddress(ValueError):
    """The address cannot be used. The message never quotes it, since it may contain a secret."""


class Address(NamedTuple):
    """An address in clear."""

    kind: str
    text: str


def mail_address(text: str) -> Address:
    """Return the address of a person.

    Raises:
        InvalidAddress: it is none.
    """
    if not _EMAIL.fullmatch(text) or ".." in text:
        raise InvalidAddress("must be an e-mail address such as anna@example.org")
    return Address(MAIL, text)


def url_address(text: str, *, for_account: bool) -> Address:
    """Return the address of a chat or webhook.

    Raises:
        InvalidAddress: it is no URL, or its scheme is not permitted.
    """
    if len(text) > _MOST or not text.isprintable() or " " in text or "://" not in text:
        raise InvalidAddress(f"must be a URL in one line, at most {_MOST} characters")
    scheme = text.partition("://")[0].lower()
    if scheme in NEVER or (for_account and scheme not in FOR_ACCOUNTS):
        if for_account:
            raise InvalidAddress(f"must begin with one of these, for an account: {', '.join(sorted(FOR_ACCOUNTS))}")
        raise InvalidAddress(f"must not begin with one of these: {', '.join(sorted(NEVER))}")
    try:
        _ = urlsplit(text).port
    except ValueError:
        raise InvalidAddress("is not a URL") from None
    return Address(URL, text)


def shown(address: Address) -> str:
    """Return what lists may show: an e-mail address; of a URL the scheme, and the host of a webhook."""
    if address.kind == MAIL:
        return address.text
    parts = urlsplit(address.text)
    scheme = parts.scheme.lower()
    # In URLs of chats, the place of the host often has a token.
    return f"{scheme}://{parts.hostname}" if scheme in _WEBHOOKS and parts.hostname else scheme


_WEBHOOKS: Final = frozenset({"http", "https", "json", "jsons", "xml", "xmls", "form", "forms"})


class Sealed(NamedTuple):
    """An encrypted address, as the ledger has it."""

    text: str
    salt: str


def seal_address(address: Address, peppers: Peppers) -> Sealed:
    """Encrypt an address."""
    salt = secrets.token_hex(16)
    return Sealed(seal(address.text, _lock(salt), peppers), salt)


def unseal_address(kind: str, sealed: Sealed, peppers: Peppers) -> Address | None:
    """Return the address in clear; None if its pepper is no longer known."""
    text = unseal(sealed.text, _lock(sealed.salt), peppers)
    return None if text is None else Address(kind, text)


def _lock(salt: str) -> Lock:
    return Lock("", salt, _PURPOSE)

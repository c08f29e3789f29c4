"""Declare the fields that several forms and links have, and read what was chosen in them. Pure."""

from typing import Annotated

from fastapi import Form, Query

from auth.registration.model import Outcome

FormToken = Annotated[str, Form(max_length=200)]
AccountField = Annotated[str, Form(max_length=10)]
Goto = Annotated[str, Query(alias="next", max_length=2_000)]
"""The page that was wanted before the login."""


def account_of(text: str) -> int | None:
    """Return the account's id in a form; ``None`` if there is none."""
    return int(text) if text.isascii() and text.isdigit() else None


def outcome_of(text: str) -> Outcome | None:
    """Return the outcome in a form; ``None`` if there is none."""
    return next((one for one in Outcome if one == text), None)

"""Declare the fields that several forms have, and read what was chosen in them. Pure."""

from typing import Annotated

from fastapi import Form

from auth.registration.model import Outcome

FormToken = Annotated[str, Form(max_length=200)]
AccountField = Annotated[str, Form(max_length=10)]


def account_of(text: str) -> int | None:
    """Return the account's id in a form; ``None`` if there is none."""
    return int(text) if text.isascii() and text.isdigit() else None


def outcome_of(text: str) -> Outcome | None:
    """Return the outcome in a form; ``None`` if there is none."""
    return next((one for one in Outcome if one == text), None)

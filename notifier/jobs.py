"""Define what the worker hands to a sender's process, and what it gets back: one line of JSON each."""

from datetime import datetime
from typing import Literal

import msgspec


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One message for one address."""

    kind: Literal["mail", "url"]
    address: str
    """In clear, so a job appears in no log and in no arguments."""
    for_account: bool
    """Whether it may only connect to public addresses."""
    key: str
    """Identifies the message in every attempt."""
    title: str
    body: str
    composed_on: datetime

    def __repr__(self) -> str:
        return f"Job({self.key})"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a job."""

    failure: str | None = None
    """Why it failed, without its address; None if it was sent."""

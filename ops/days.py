"""Days and times that people type; all in UTC, as the ledger has them."""

import re
from datetime import UTC, date, datetime, timedelta

from ops.errors import UsageError
from runtime.durations import parse_duration


def parse_day(text: str | None) -> date:
    """The day that ``text`` says; today without a text.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--on {text!r}: must be a day such as 2026-12-31") from None


def parse_since(text: str, now: datetime) -> datetime:
    """The moment that ``text`` says: the beginning of a day, or so long before ``now`` (which is UTC without a zone).

    Raises:
        UsageError: it is none.
    """
    try:
        if days := re.fullmatch(r"([0-9]{1,5})d", text):
            return now - timedelta(days=int(days[1]))
        if re.match(r"[0-9]{4}-", text):
            return datetime.combine(date.fromisoformat(text), datetime.min.time())
        return now - timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        raise UsageError(f"--since {text!r}: must be a day such as 2026-11-30, or a time such as 12h or 7d") from None

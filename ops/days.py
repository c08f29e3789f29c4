"""Parse days and times that operators type, in UTC like those of the ledger."""

import re
from datetime import UTC, date, datetime, timedelta

from ops.errors import UsageError
from runtime.durations import parse_duration


def parse_day(text: str | None) -> date:
    """Parse a day; return today if ``text`` is ``None``.

    Raises:
        UsageError: it is invalid.
    """
    if text is None:
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--on {text!r}: must be a day such as 2026-12-31") from None


def parse_since(text: str, now: datetime) -> datetime:
    """Parse a start time: a day, or an age before ``now`` (in UTC, without a zone).

    Raises:
        UsageError: it is invalid.
    """
    try:
        if days := re.fullmatch(r"([0-9]{1,5})d", text):
            return now - timedelta(days=int(days[1]))
        if re.match(r"[0-9]{4}-", text):
            return datetime.combine(date.fromisoformat(text), datetime.min.time())
        return now - timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        raise UsageError(f"--since {text!r}: must be a day such as 2026-11-30, or an age such as 12h or 7d") from None

"""Define constants on which both ends of a connection must agree, each with its reason."""

from datetime import timedelta
from typing import Final

SPOOL_AGE: Final = timedelta(days=3)
"""Time for which an agent keeps an unacknowledged batch, and maximum age of a result on arrival."""

BATCH_MEMORY: Final = SPOOL_AGE + timedelta(days=1)
"""Time for which the ledger remembers a batch: longer than any agent can resend it, or it would count twice."""

CLOCK_AHEAD: Final = timedelta(seconds=60)
"""Maximum time by which a result may lie in the future."""

MAX_BATCH_RESULTS: Final = 1_000
"""Maximum number of results in a batch; an agent never builds a larger one, and ingest refuses it."""

MAX_PAYLOAD_BYTES: Final = 512 * 1024
"""Maximum size of any payload of ours. A batch with the maximum number of results stays below; the broker refuses
larger payloads."""

MAX_REJECTED_PAYLOAD: Final = 64 * 1024
"""Bytes of an undecodable payload that the ledger keeps for diagnosis."""

REJECTED_MEMORY: Final = timedelta(days=7)
"""Time for which undecodable payloads are kept."""

WILL_DELAY: Final = timedelta(seconds=30)
"""A monitor that reconnects within this time is never reported as offline."""

STATUS_REFRESH: Final = timedelta(minutes=5)
"""Interval at which an agent republishes an unchanged status."""

STATUS_EXPIRY: Final = timedelta(hours=24)
"""Time after which the broker deletes a status that is no longer refreshed."""

MONITOR_GONE: Final = timedelta(minutes=15)
"""A monitor without a status, or offline, for this time is gone: it has missed three refreshes."""

MAX_BASE_CHECKS: Final = 16
"""Maximum number of servers against which an agent compares its clock."""

HEALTH_MEMORY: Final = timedelta(days=32)
"""Time for which the ledger has what monitors measured in each hour: longer than the 30 days for which their health is
judged, so that it shows whether a monitor is older than that."""

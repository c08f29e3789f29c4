"""Constants that both ends of a wire must agree on, each with its reason."""

from datetime import timedelta
from typing import Final

SPOOL_AGE: Final = timedelta(days=3)
"""How long an agent keeps an unacknowledged batch, and so how old a result may be when it arrives."""

BATCH_MEMORY: Final = SPOOL_AGE + timedelta(days=1)
"""How long the ledger remembers a batch: longer than any agent can still send it, or it would count twice."""

CLOCK_AHEAD: Final = timedelta(seconds=60)
"""How far in the future a result may lie before its time is called impossible."""

MAX_BATCH_RESULTS: Final = 1_000
"""Results in one batch; an agent splits what is more, ingest refuses what is more."""

MAX_PAYLOAD_BYTES: Final = 512 * 1024
"""Bytes of any payload of ours. A batch of the most results stays below it; the broker refuses what is larger."""

MAX_REJECTED_PAYLOAD: Final = 64 * 1024
"""Bytes of an undecodable payload that the ledger keeps for diagnosis."""

REJECTED_MEMORY: Final = timedelta(days=7)
"""How long undecodable payloads are kept."""

WILL_DELAY: Final = timedelta(seconds=30)
"""A monitor that reconnects within this time is never reported as gone."""

STATUS_REFRESH: Final = timedelta(minutes=5)
"""How often an agent publishes its status although nothing changed."""

STATUS_EXPIRY: Final = timedelta(hours=24)
"""When the broker forgets the status of an agent that no longer refreshes it."""

MONITOR_GONE: Final = timedelta(minutes=15)
"""A monitor without a status, or offline, for this long is gone: three refreshes were missed."""

MAX_BASE_CHECKS: Final = 16
"""Servers with which an agent compares its clock, at most."""

"""Convert the record of a load generator for the checker."""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from sqlalchemy.engine import Connection

from schema.names import IpVersion
from testbed.checker.batches import Attempt
from testbed.checker.ledger import monitor_ids
from testbed.load.record import History, histories, read_lines


def read_attempts(connection: Connection, *records: Path) -> list[Attempt]:
    """Read all batches of these records, with the ledger's ids of their monitors.

    Args:
        records: of consecutive load generators. The broker keeps the sessions of their monitors, so an acknowledgement
            of a repeated batch may reach the next one.
    """
    ids = monitor_ids(connection)
    lines = chain.from_iterable(map(read_lines, records))
    return [_attempt(history, ids) for history in histories(lines).values()]


def _attempt(history: History, ids: Mapping[tuple[str, IpVersion], int]) -> Attempt:
    sent = history.sent
    malformed = sent.kind == "malformed"
    return Attempt(
        # A monitor that is not in the ledger has no data there.
        monitor_id=ids.get((sent.monitor, sent.ipv), 0),
        batch=sent.batch,
        results=None if malformed else sent.results,
        answers=[answered.ack for answered in history.answers],
        expected=None if malformed else sent.expected,
    )

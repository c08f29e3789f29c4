"""Compare every retained assignment with its pair in the ledger."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from runtime.db.system_settings import Intervals
from runtime.mqtt.retained import read_retained
from runtime.mqtt.session import BrokerSession, Incoming
from schema.messages import Assignment, encode
from schema.tables import monitors
from schema.topics import ANY, Topics
from selector.assignments import Terms, assignments_by_topic, read_pairs_of_monitor
from selector.reconcile import decoded, difference
from selector.row_warnings import RowWarnings
from testbed.checker.difference import Difference

Tree = Mapping[str, bytes]
"""Retained payloads by topic."""

_READ_WITHIN: Final = 120.0


async def read_tree(session: BrokerSession, topics: Topics) -> Tree:
    """Read all retained assignments of the environment, including those of unknown monitors.

    Raises:
        NotConnected: the connection was lost, or they did not arrive in time.
    """
    tree: dict[str, bytes] = {}

    def take(message: Incoming) -> None:
        if message.payload:
            tree[message.topic] = message.payload
        else:
            tree.pop(message.topic, None)

    echo = topics.echo(session.identity.client_id)
    await read_retained(session, topics.assignments(ANY), echo, take, timeout=_READ_WITHIN)
    return tree


def compare_assignments(connection: Connection, tree: Tree, topics: Topics, intervals: Intervals) -> list[Difference]:
    """Compare the retained assignments with the ledger."""
    terms = Terms(topics, intervals, datetime.now(UTC).date())
    names = sa.select(monitors.c.tls_name).where(monitors.c.type == "monitor", monitors.c.tls_name.is_not(None))
    wanted: dict[str, Assignment | None] = {}
    for name in connection.scalars(names.distinct()).all():
        wanted |= assignments_by_topic(read_pairs_of_monitor(connection, name), terms, RowWarnings())
    repairs = difference(decoded(dict(tree)), wanted).repairs
    return [
        Difference("assignment", f"{topic} holds {_text(tree.get(topic))}, should be {_wanted(assignment)}")
        for topic, assignment in sorted(repairs.items())
    ]


def _text(payload: bytes | None) -> str:
    return "nothing" if payload is None else payload[:200].decode(errors="replace")


def _wanted(assignment: Assignment | None) -> str:
    return "nothing" if assignment is None else encode(assignment).decode()

"""Test which agents the selector considers online, from the statuses of both kinds of agent."""

from types import SimpleNamespace
from typing import Any, cast

from runtime.mqtt.session import Incoming
from schema.messages import Status, encode
from schema.topics import Topics
from selector.drift import DriftWatch
from selector.row_warnings import RowWarnings

TOPICS = Topics("test")
NAMES = ["nlams1-x.test.mon.example", "uspao1-x.test.mon.example"]


class Marked:
    """Fake reconciler that records whose retained trees are to be compared."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def mark(self, name: str, *, everything: bool = False) -> None:
        self.names.append(name)


def test_online_agents_of_either_kind_are_counted() -> None:
    said = (
        (b'{"Online":true,"Version":{"Version":"v4.1.5"},"UpdatedMQ":"2026-11-29T16:46:35Z"}', b'{"Online":false}'),
        (encode(Status(online=True)), encode(Status(online=False))),
    )
    marked, worker = Marked(), cast(Any, SimpleNamespace(topics=TOPICS))
    watch = DriftWatch(worker, cast(Any, None), cast(Any, marked), RowWarnings(), known=lambda name: True)
    for name, (online, offline) in zip(NAMES, said, strict=True):
        watch.on_status(Incoming(TOPICS.status(name), online))
        assert watch.online == 1
        watch.on_status(Incoming(TOPICS.status(name), offline))
        assert watch.online == 0
    assert marked.names == NAMES

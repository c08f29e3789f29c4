"""Watch the wire with an observer's token, and remember which batches were sent."""

from datetime import timedelta
from typing import Final

import msgspec

from auth.tokens import Role, SigningKey, token_source
from runtime.mqtt.session import BrokerSession, Identity, Incoming, Subscription
from runtime.mqtt.types import BrokerAddress
from schema.messages import Batch, Undecodable, decode
from schema.names import Environment
from schema.topics import ANY, Topics

_NAME: Final = "demo-witness"
_KEEP: Final = timedelta(minutes=10)
"""How long the broker keeps messages while the witness is disconnected."""


class SeenBatch(msgspec.Struct, frozen=True):
    """A batch on the wire: its monitor, its number of results, and the version of the program that made it."""

    monitor: str
    id: str
    results: int
    version: str


class Witness:
    """Record every batch on the wire; run its session with :meth:`run` as a task."""

    def __init__(self, address: BrokerAddress, key: SigningKey, env: Environment) -> None:
        self._topics = Topics(env)
        self._seen: dict[tuple[str, str], SeenBatch] = {}
        self.session = BrokerSession(
            address,
            Identity(_NAME, _NAME),
            token_source(key, Role.OBSERVER, _NAME, env),
            subscriptions=[Subscription(self._topics.results(ANY, ANY), self._take)],
            keep=_KEEP,
        )

    @property
    def seen(self) -> list[SeenBatch]:
        """All batches, each once, even if it was sent several times."""
        return list(self._seen.values())

    def _take(self, message: Incoming) -> None:
        address = self._topics.parse(message.topic)
        try:
            batch = decode(message.payload, Batch)
        except Undecodable:
            return  # the account has ingest's view of it
        if address is not None:
            self._seen[address.name, batch.id] = SeenBatch(address.name, batch.id, len(batch.results), batch.version)

"""Record what a real agent attempted: every batch that entered its spool, and every one that left it, and why.

Each line is written before its event, unbuffered, so that a killed process leaves no gap. Wrappers around the spool and
the sender write the lines; the agent itself is unchanged.
"""

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from schema.messages import Ack, Batch, decode

Why = Literal["acknowledged", "withdrawn", "expired", "put aside"]


class Began(msgspec.Struct, frozen=True, tag="began"):
    """An agent's process began."""

    pid: int


class Storing(msgspec.Struct, frozen=True, tag="storing"):
    """A batch is about to be written into the spool."""

    number: int
    batch: str
    payload: msgspec.Raw


class Stored(msgspec.Struct, frozen=True, tag="stored"):
    """The batch is in the spool: from now on it must not get lost."""

    number: int


class Answered(msgspec.Struct, frozen=True, tag="answered"):
    """Ingest's answer arrived."""

    ack: Ack


class Leaving(msgspec.Struct, frozen=True, tag="leaving"):
    """A batch is about to leave the spool."""

    number: int
    why: Why


Line = Began | Storing | Stored | Answered | Leaving


class Journal:
    """Write the file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._encoder = msgspec.json.Encoder()

    def write(self, line: Line) -> None:
        """Write one line atomically."""
        os.write(self._file, self._encoder.encode(line) + b"\n")


def keep(journal: Journal) -> None:
    """Record this process's batches from now on."""
    from agent.delivery.batcher import Batcher
    from agent.delivery.sender import Sender
    from agent.delivery.spool import Spool

    reason: list[Why] = ["withdrawn"]  # the batcher itself removes only results with a doubtful time

    def because(why: Why, wrapped: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(wrapped)
        def inner(*arguments: Any, **named: Any) -> Any:
            reason.append(why)
            try:
                return wrapped(*arguments, **named)
            finally:
                reason.pop()

        return inner

    store, remove, acknowledge, aside = Spool.store, Spool.remove, Sender.acknowledge, Spool._move_aside

    def storing(self: Any, number: int, batch: Any) -> int:
        journal.write(Storing(number, batch.id, msgspec.Raw(batch.payload)))
        size = store(self, number, batch)
        journal.write(Stored(number))
        return size

    def removing(self: Any, number: int) -> None:
        journal.write(Leaving(number, reason[-1]))
        remove(self, number)

    def putting_aside(self: Any, number: int) -> None:
        journal.write(Leaving(number, "put aside"))
        aside(self, number)

    def answered(self: Any, ack: Ack) -> None:
        journal.write(Answered(ack))
        acknowledge(self, ack)

    journal.write(Began(os.getpid()))
    wrapped: Any = Spool
    wrapped.store, wrapped.remove, wrapped._move_aside = storing, removing, putting_aside
    wrapped.expire = because("expired", Spool.expire)
    wrapped = Sender
    wrapped.acknowledge = because("acknowledged", answered)
    wrapped = Batcher
    wrapped.withdraw = because("withdrawn", Batcher.withdraw)


@dataclass(slots=True)
class Story:
    """The history of one batch, as far as its agent knows."""

    batch: Batch
    process: int
    """The number of the agent's process that made it, from 1."""
    stored: bool = False
    answers: list[Ack] = field(default_factory=list)
    left: Why | None = None


@dataclass(frozen=True, slots=True)
class Tale:
    """A journal's contents: its batches, and how many consecutive processes wrote it."""

    stories: list[Story]
    processes: int

    def kept_by_last_process(self) -> int:
        """Results that the agent's last process put into its spool and did not withdraw."""
        last = (story for story in self.stories if story.process == self.processes)
        return sum(len(story.batch.results) for story in last if story.stored and story.left != "withdrawn")


def read_journal(path: Path) -> Tale:
    """Read a whole journal."""
    return read_lines(_lines(path))


def _lines(path: Path) -> Iterator[Line]:
    decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
    with path.open("rb") as file:
        for line in file:
            yield decoder.decode(line)


def read_lines(lines: Iterable[Line]) -> Tale:
    """Interpret the lines of a journal."""
    stories: dict[str, Story] = {}
    at: dict[int, str] = {}
    process = 0
    for line in lines:
        match line:
            case Began():
                process += 1
            case Storing():
                # A number is reused if a process ended before its batch was complete.
                at[line.number] = line.batch
                stories[line.batch] = Story(decode(bytes(line.payload), Batch), process)
            case Stored():
                stories[at[line.number]].stored = True
            case Answered() if line.ack.batch in stories:
                stories[line.ack.batch].answers.append(line.ack)
            case Leaving() if line.number in at and stories[at[line.number]].left is None:
                # A batch that has left already (acknowledged although its publish seemed to fail) is not counted again.
                stories[at[line.number]].left = line.why
    return Tale(list(stories.values()), process)

"""Record which batches were sent and answered, while it happens, and read the record after the run.

The line is written before a batch is published for the first time, so every batch in the ledger is in the record.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from schema.messages import Ack, Result
from schema.names import IpVersion
from testbed.load.traffic import Kind, Made


class Content(msgspec.Struct, frozen=True):
    """A batch, and its expected outcome."""

    monitor: str
    ipv: IpVersion
    batch: str
    kind: Kind
    results: Sequence[Result]
    expected: Mapping[int, str]


class Sent(Content, frozen=True, tag="sent", kw_only=True):
    """The batch is about to be published for the first time. Times are nanoseconds of Unix time."""

    at: int


class Answered(msgspec.Struct, frozen=True, tag="answered"):
    """An acknowledgement arrived."""

    at: int
    monitor: str
    ipv: IpVersion
    ack: Ack


class AssignmentReceived(msgspec.Struct, frozen=True, tag="assignment"):
    """An assignment arrived; without a status it was removed."""

    at: int
    monitor: str
    ipv: IpVersion
    server_id: int
    status: str | None


Line = Sent | Answered | AssignmentReceived


class Record:
    """Write the file; a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._encoder = msgspec.json.Encoder()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def sent(self, at: int, monitor: str, ipv: IpVersion, made: Made) -> None:
        """Record that ``made`` is about to be published."""
        self.sent_text(at, self.text(monitor, ipv, made))

    def text(self, monitor: str, ipv: IpVersion, made: Made) -> bytes:
        """Return the record's text for ``made``, for batches that are made long before they are sent."""
        return self._encoder.encode(Content(monitor, ipv, made.id, made.kind, made.results, made.expected))

    def sent_text(self, at: int, text: bytes) -> None:
        """Record that a batch is about to be published, from the result of :meth:`text`."""
        # Insert two members at the start of the object.
        self._file.write(b'{"type":"sent","at":%d,%b\n' % (at, text[1:]))

    def answered(self, at: int, monitor: str, ipv: IpVersion, ack: Ack) -> None:
        """Record that ``ack`` arrived."""
        self._write(Answered(at, monitor, ipv, ack))

    def received(self, at: int, monitor: str, ipv: IpVersion, server_id: int, status: str | None) -> None:
        """Record that an assignment arrived."""
        self._write(AssignmentReceived(at, monitor, ipv, server_id, status))

    def _write(self, line: Line) -> None:
        self._file.write(self._encoder.encode(line) + b"\n")


@dataclass(slots=True)
class History:
    """The history of one batch."""

    sent: Sent
    answers: list[Answered] = field(default_factory=list)


def read_lines(path: Path) -> Iterator[Line]:
    """Read the lines of a record; skip a line that is still being written."""
    decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield decoder.decode(line)


def histories(lines: Iterator[Line]) -> dict[tuple[str, IpVersion, str], History]:
    """Return a record's batches by monitor, protocol and ULID, each with its answers."""
    found: dict[tuple[str, IpVersion, str], History] = {}
    for line in lines:
        if isinstance(line, Sent):
            found[line.monitor, line.ipv, line.batch] = History(line)
        elif isinstance(line, Answered):
            found[line.monitor, line.ipv, line.ack.batch].answers.append(line)
    return found

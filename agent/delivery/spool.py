"""Store unacknowledged batches on disk, so that neither a crash nor an unavailable broker loses them.

There is one file per batch, numbered in order of creation, so that a clock step cannot change the order. A file is
complete before it gets its name. It begins with a header and a checksum over the whole content: a file that a failing
disk has corrupted is set aside and counted, never sent. The spool is bounded by age, bytes and number; beyond that the
oldest batches are dropped, and their results counted.

Any disk operation may fail at any time: a file that cannot be read now stays where it is, and one that cannot be
removed is remembered and removed before the next one is written.
"""

import hashlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from agent.files import TEMPORARY, write_atomically, write_durably
from runtime.log import OngoingWarning

log = logging.getLogger(__name__)

MAX_BATCHES: Final = 10_000
"""Maximum number of batches. During a backlog each has more results, so three days of them stay below this."""

MAX_SET_ASIDE: Final = 20
"""Number of refused or corrupted batches that are kept for inspection."""

_NAME: Final = re.compile(r"[0-9]{12}")
_HEADER: Final = re.compile(rb"ntppool-spool 1 ([0-9a-f]{32}) ([0-9A-Z]{26}) ([0-9]{1,6}) ([0-9]{1,12})")
_LONGEST_HEADER: Final = 256


class Batched(msgspec.Struct, frozen=True, kw_only=True):
    """A batch with the metadata that the spool needs."""

    id: str
    """The batch's ULID."""
    results: int
    """Number of results."""
    created: int
    """Time of creation in seconds of Unix time."""
    payload: bytes


class Counters(msgspec.Struct, kw_only=True):
    """Losses since the spool was created, kept in a separate file."""

    dropped_results: int = 0
    set_aside: int = 0
    """Batches that the pool refused."""
    torn: int = 0
    """Batches that were unreadable."""


class Spool:
    """The batches of one monitor and protocol. Not thread-safe, except for :meth:`store`.

    Args:
        directory: created if it is missing; used by this spool only.
        max_bytes: maximum size of all batches together.
        max_age: seconds after which a batch is useless.

    Raises:
        OSError: the directory cannot be created or read.
    """

    def __init__(self, directory: Path, *, max_bytes: int, max_age: float, max_batches: int = MAX_BATCHES) -> None:
        self._directory = directory
        self._aside = directory / "set-aside"
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._max_batches = max_batches
        self._leftover: set[int] = set()
        """Files that do not belong to the spool, and could not be removed yet."""
        self._warning, self._counters_warning = OngoingWarning(log), OngoingWarning(log)
        for one in (directory.parent, directory, self._aside):  # each by itself: parents would be open to others
            one.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sizes = self._scan()
        self._next = max(self._sizes, default=0) + 1
        self.bytes = sum(self._sizes.values())
        """Size of all batches together."""
        self.counters = self._read_counters()

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, number: object) -> bool:
        return number in self._sizes

    def __iter__(self) -> Iterator[int]:
        """Iterate over the numbers of all batches, oldest first."""
        return iter(self._sizes)

    def reserve(self) -> int:
        """Return a number for the next batch."""
        number = self._next
        self._next += 1
        return number

    def store(self, number: int, batch: Batched) -> int:
        """Write a batch under a reserved number and return its size; may run in another thread.

        Raises:
            OSError: it could not be written. Any partial file is removed before the next batch is written, since the
                results will be written again, in a batch with another id.
        """
        header = f"{batch.id} {batch.results} {batch.created}".encode()
        line = b"ntppool-spool 1 %s %s\n" % (_digest(header, batch.payload), header)
        try:
            self._make_room()
            write_durably(self._path(number), line, batch.payload)
        except OSError:
            self._leftover.add(number)
            raise
        return len(line) + len(batch.payload)

    def _make_room(self) -> None:
        """Remove leftovers, and create the directory again if it was removed.

        Parent directories are not created: the file system that holds the state may be unmounted, and come back.
        """
        for number in tuple(self._leftover):
            self._path(number).unlink(missing_ok=True)
            self._leftover.discard(number)
        for directory in (self._directory.parent, self._directory):
            directory.mkdir(mode=0o700, exist_ok=True)

    def admit(self, number: int, size: int, now: float) -> None:
        """Add a stored batch to the spool, and drop batches beyond the limits."""
        self._sizes[number] = size
        self.bytes += size
        self.expire(now)

    def read(self, number: int) -> Batched | None:
        """Return a batch, or ``None`` if it is gone or corrupted.

        Raises:
            OSError: it cannot be read now.
        """
        try:
            content = self._path(number).read_bytes()
        except FileNotFoundError:
            self._missing(number)
            return None
        batch = _parse(content)
        if batch is None:
            log.error("spool: batch %d is corrupted and was set aside", number)
            self._put_aside_torn(number)
        return batch

    def remove(self, number: int) -> None:
        """Remove a batch that was acknowledged or withdrawn."""
        self._forget(number)
        try:
            self._path(number).unlink(missing_ok=True)
        except OSError as error:
            self._leftover.add(number)
            self._warning.warning("spool: a batch cannot be removed: %s", error.strerror or error)

    def set_aside(self, number: int) -> None:
        """Move a refused batch to a place where it can be inspected, and never publish it again."""
        self._move_aside(number)
        self.counters.set_aside += 1
        self._write_counters()

    def drop_results(self, results: int) -> None:
        """Count results that were lost before they became part of a batch."""
        self.counters.dropped_results += results
        self._write_counters()

    def expire(self, now: float) -> None:
        """Drop the oldest batches while there are too many, or they are too old. ``now`` is seconds of Unix time.

        This happens only when a batch is admitted, since only then the clock is known to be good: a clock that is set
        to another year must not empty the spool.
        """
        dropped = batches = 0
        while (oldest := next(iter(self._sizes), None)) is not None:
            too_much = self.bytes > self._max_bytes or len(self._sizes) > self._max_batches
            try:
                if not self._still_there(oldest):
                    continue
                header = self._header(oldest)
            except OSError:
                if not too_much:
                    break  # it may be readable later
                header = None
            if header is None:
                self._put_aside_torn(oldest)
                continue
            if not too_much and now - header.created <= self._max_age:
                break
            self.remove(oldest)
            dropped += header.results
            batches += 1
        if batches:
            log.warning("spool: dropped the %d oldest batches with %d results", batches, dropped)
            self.drop_results(dropped)

    def _scan(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for path in sorted(self._directory.iterdir()):
            if path.name.endswith(TEMPORARY):
                path.unlink(missing_ok=True)  # it was being written when the process ended
            elif _NAME.fullmatch(path.name) and path.is_file():
                found[int(path.name)] = path.stat().st_size
        return found

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:012d}"

    def _forget(self, number: int) -> None:
        self.bytes -= self._sizes.pop(number, 0)

    def _header(self, number: int) -> Batched | None:
        """Return the header of a batch, ``None`` if it is corrupted. Raise :class:`OSError`."""
        with self._path(number).open("rb") as file:
            parsed = _parse_header(file.read(_LONGEST_HEADER).partition(b"\n")[0])
        return None if parsed is None else parsed[1]

    def _still_there(self, number: int) -> bool:
        """Return whether the file of a batch exists. Raise :class:`OSError` if this is unknown now."""
        try:
            self._path(number).stat()
        except FileNotFoundError:
            self._missing(number)
            return False
        return True

    def _missing(self, number: int) -> None:
        """Handle a missing file: the batch has left the spool regularly, or is lost.

        Raises:
            FileNotFoundError: the whole directory is missing, and may come back.
        """
        if number not in self._sizes:
            return
        self._directory.stat()
        log.error("spool: batch %d was removed by another program", number)
        self._forget(number)
        self.counters.torn += 1
        self._write_counters()

    def _put_aside_torn(self, number: int) -> None:
        self._move_aside(number)
        self.counters.torn += 1
        self._write_counters()

    def _move_aside(self, number: int) -> None:
        self._forget(number)
        try:
            self._aside.mkdir(mode=0o700, exist_ok=True)
            self._path(number).replace(self._aside / f"{number:012d}")
            for path in sorted(self._aside.iterdir())[:-MAX_SET_ASIDE]:
                path.unlink(missing_ok=True)
        except OSError as error:
            log.error("spool: batch %d cannot be set aside: %s", number, error.strerror or error)
            self._leftover.add(number)

    def _read_counters(self) -> Counters:
        try:
            return msgspec.json.decode((self._directory / "counters.json").read_bytes(), type=Counters)
        except FileNotFoundError:
            return Counters()
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("spool: counters.json starts again from zero: %s", error)
            return Counters()

    def _write_counters(self) -> None:
        try:
            write_atomically(self._directory / "counters.json", msgspec.json.encode(self.counters))
        except OSError as error:
            self._counters_warning.warning("spool: counters.json: %s", error.strerror or error)
        else:
            self._counters_warning.over()


def _digest(header: bytes, payload: bytes) -> bytes:
    return hashlib.blake2b(header + b"\n" + payload, digest_size=16).hexdigest().encode()


def _parse_header(line: bytes) -> tuple[bytes, Batched] | None:
    """Return the checksum and the header's fields; the payload is left empty."""
    match = _HEADER.fullmatch(line)
    if match is None:
        return None
    digest, batch_id, results, created = match.groups()
    return digest, Batched(id=batch_id.decode(), results=int(results), created=int(created), payload=b"")


def _parse(content: bytes) -> Batched | None:
    line, newline, payload = content.partition(b"\n")
    parsed = _parse_header(line)
    if parsed is None or not newline:
        return None
    digest, header = parsed
    if _digest(f"{header.id} {header.results} {header.created}".encode(), payload) != digest:
        return None
    return msgspec.structs.replace(header, payload=payload)

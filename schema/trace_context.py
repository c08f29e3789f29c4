"""Define the W3C trace context that messages carry in a user property, and that of an agent's batch.

An agent creates no spans: the trace of a batch has the batch's ULID as its id, so a batch that is published again, even
after a restart, belongs to the same trace, and its trace can be found by its id. Ingest records the agent's span.
"""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

USER_PROPERTY: Final = "traceparent"
"""Name of the MQTT user property."""

# W3C Trace Context, 3.2.2: version 00; ids of zeros are invalid.
_FORM: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED: Final = 1
_RANDOM: Final = 2  # level 2: the trace id's lower 56 bits are random, as a ULID's are

_BASE32: Final = {letter: value for value, letter in enumerate("0123456789ABCDEFGHJKMNPQRSTVWXYZ")}
_128_BITS: Final = (1 << 128) - 1
_64_BITS: Final = (1 << 64) - 1
_56_BITS: Final = (1 << 56) - 1


class TraceIds(NamedTuple):
    """The ids of a trace and of a span in it."""

    trace: int
    span: int

    def as_text(self, flags: int) -> str:
        """Return the trace context with these ids."""
        return f"00-{self.trace:032x}-{self.span:016x}-{flags & (_SAMPLED | _RANDOM):02x}"


def ids_of_batch(batch_id: str) -> TraceIds:
    """Return the ids of the trace of a batch and of its agent's span. ``batch_id`` is a ULID."""
    number = 0
    for letter in batch_id:
        number = number << 5 | _BASE32[letter]
    return TraceIds((number & _128_BITS) or 1, (number & _64_BITS) or 1)


def trace_of_batch(batch_id: str, one_in: int) -> str | None:
    """Return the trace context of a batch if it is traced, as one in so many batches is; 0: none."""
    ids = ids_of_batch(batch_id) if one_in else None
    traced = ids is not None and (ids.trace & _56_BITS) % one_in == 0
    return ids.as_text(_SAMPLED | _RANDOM) if ids is not None and traced else None


def find_trace_context(properties: Iterable[tuple[str, str]]) -> str | None:
    """Return the valid trace context among user properties; None if there is none, or more than one."""
    found = [value for name, value in properties if name == USER_PROPERTY]
    return found[0] if len(found) == 1 and _FORM.fullmatch(found[0]) else None


def flags_of(context: str) -> int:
    """Return the flags in a valid trace context."""
    return int(context[-2:], 16)


def is_sampled(context: str) -> bool:
    """Return whether the sender of a valid trace context asks for its trace to be recorded."""
    return bool(flags_of(context) & _SAMPLED)


def ids_of(context: str) -> TraceIds:
    """Return the ids in a valid trace context."""
    return TraceIds(int(context[3:35], 16), int(context[36:52], 16))

"""Decide whether a missing answer means that the server is silent, or that the host's own network is down.

An answer from any server to a request of the same time proves that the network works. (A later request proves less: the
network may have recovered in between.) If no other server was asked, or none answered, the result is held until the
local clock has been checked, which queries the base-check servers: if one of them answers, the server was silent; if
none does, no statement about the server is possible. A check proves nothing about a much earlier time. Pure.
"""

from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Final

import msgspec

from agent.ntp.measurement import Sample
from schema.messages import Result

MAX_HELD: Final = 500
"""Maximum number of held results. Checks are at most half a minute apart, so there are rarely more than a few dozen."""


_ONE_SAMPLE: Final = 3_000_000_000
"""Nanoseconds that a single request covers: the time for which its answer is awaited."""

_REMEMBERED: Final = 512
"""Number of answered requests to remember: more than can occur during one probe."""

NEAR: Final = 5_000_000_000
"""Nanoseconds after a result within which a check proves something about it."""


class _Held(msgspec.Struct, frozen=True, gc=False):
    began: int
    ended: int
    result: Result


class Verdict(Enum):
    """The decision about a result."""

    TRUE = "true"
    """The network works: accept the result."""
    OPEN = "open"
    """The result is held until a check decides."""
    FALSE = "false"
    """No server answers: the result proves nothing about this one."""


class SilenceJudge:
    """Track the answers of one protocol and the held results. Times are Unix time in nanoseconds."""

    def __init__(self) -> None:
        self._answered: deque[int] = deque(maxlen=_REMEMBERED)
        """Send times of requests that were answered."""
        self._deaf = False
        """No base-check server answered the last check, and no server has answered since."""
        self._held: deque[_Held] = deque()

    def __len__(self) -> int:
        return len(self._held)

    def judge(self, result: Result, samples: Sequence[Sample], now: int) -> Verdict:
        """Decide whether a result of ``now`` is valid; an answer is valid and proves that the network works."""
        answered = [sample.sent_at for sample in samples if sample.reply is not None]
        if answered:
            self._record_answers(answered)
            return Verdict.TRUE
        began, last = samples[0].sent_at, samples[-1].sent_at
        if any(began <= at <= max(last, began + _ONE_SAMPLE) for at in self._answered):
            return Verdict.TRUE
        if self._deaf:
            return Verdict.FALSE
        self._held.append(_Held(began, now, result))
        return Verdict.OPEN

    def trim(self) -> int:
        """Drop the oldest results beyond the maximum, and return their number."""
        dropped = max(0, len(self._held) - MAX_HELD)
        for _ in range(dropped):
            self._held.popleft()
        return dropped

    def checked(self, answered_at: int | None) -> tuple[list[Result], int]:
        """Process a check of the base-check servers: return the valid results, and the number of discarded ones.

        Args:
            answered_at: send time of the latest request that one of them answered; ``None`` if none was answered.
        """
        if answered_at is None:
            self._deaf = True
            return [], self.forget()
        self._record_answers([answered_at])
        decided = [held for held in self._held if held.began <= answered_at]
        self._held = deque(held for held in self._held if held.began > answered_at)
        true = [held.result for held in decided if answered_at <= held.ended + NEAR]
        return true, len(decided) - len(true)

    def forget(self) -> int:
        """Drop all held results, and return their number."""
        dropped = len(self._held)
        self._held.clear()
        return dropped

    def start_over(self) -> int:
        """Forget all answers, since the clock was set. Return the number of results dropped."""
        self._answered.clear()
        self._deaf = False
        return self.forget()

    def _record_answers(self, sent_at: Sequence[int]) -> None:
        self._answered.extend(sent_at)
        self._deaf = False

"""A server did not answer: is it the server that is silent, or our own network?

An answer from anybody, to something that was asked while the server was, says that the network works. (What was asked
later says less: the network may have come back just then.) Where nobody else was asked, or nobody answered, the result
is held until the local clock has been checked, which asks the base-check servers: if one of them answers, the server
was silent; if none does, nothing that we could say of it is true. A check says nothing of what was much earlier. Pure.
"""

from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Final

import msgspec

from agent.ntp.measurement import Sample
from schema.messages import Result

MAX_HELD: Final = 500
"""Results held at most. Checks are half a minute apart at most, so there are rarely more than some dozen."""


_ONE_SAMPLE: Final = 3_000_000_000
"""Nanoseconds that a single request stands for: as long as its answer is waited for."""

_REMEMBERED: Final = 512
"""Answered requests remembered: more than there can be during one probe."""

NEAR: Final = 5_000_000_000
"""Nanoseconds within which a check must follow a result to speak for it."""


class _Held(msgspec.Struct, frozen=True, gc=False):
    began: int
    ended: int
    result: Result


class Verdict(Enum):
    """What to do with a result."""

    TRUE = "true"
    """The network works."""
    OPEN = "open"
    """It is held; a check must decide."""
    FALSE = "false"
    """Nobody answers us: it says nothing of the server."""


class SilenceJudge:
    """What one protocol has heard lately, and the results that wait. Times are Unix time in nanoseconds."""

    def __init__(self) -> None:
        self._answered: deque[int] = deque(maxlen=_REMEMBERED)
        """When requests left that were answered."""
        self._deaf = False
        """No base-check server answered the last check, nor has anybody since."""
        self._held: deque[_Held] = deque()

    def __len__(self) -> int:
        return len(self._held)

    def judge(self, result: Result, samples: Sequence[Sample], now: int) -> Verdict:
        """Whether a result counts that is there ``now``; an answer counts and says that the network works."""
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
        """Drops the oldest of too many results, and returns how many."""
        dropped = max(0, len(self._held) - MAX_HELD)
        for _ in range(dropped):
            self._held.popleft()
        return dropped

    def checked(self, heard: int | None) -> tuple[list[Result], int]:
        """The base-check servers were asked: the results that count, and the number of those that never will.

        Args:
            heard: when the latest request left that one of them answered; None: nobody answered any.
        """
        if heard is None:
            self._deaf = True
            return [], self.forget()
        self._record_answers([heard])
        decided = [held for held in self._held if held.began <= heard]
        self._held = deque(held for held in self._held if held.began > heard)
        true = [held.result for held in decided if heard <= held.ended + NEAR]
        return true, len(decided) - len(true)

    def forget(self) -> int:
        """Drops all results that wait, and returns how many."""
        dropped = len(self._held)
        self._held.clear()
        return dropped

    def start_over(self) -> int:
        """The clock was set: what was heard when does not count any longer. Returns the number of results dropped."""
        self._answered.clear()
        self._deaf = False
        return self.forget()

    def _record_answers(self, sent_at: Sequence[int]) -> None:
        self._answered.extend(sent_at)
        self._deaf = False

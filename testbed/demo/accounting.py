"""Check that nothing was lost or counted twice: a pure function of the contents of the ledger.

The ledger is compared with itself and with a witness. Every score must follow from its log rows, applied once each in
the order in which they were stored; every log row must belong to a batch; and every batch that the witness saw on the
wire must be in the ledger, complete.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from testbed.checker.replay import BatchKey, Pair, Replay, same
from testbed.spools import Spooled


@dataclass(frozen=True, slots=True)
class Account:
    """The fate of the results."""

    committed: int
    lost: int
    duplicated: int
    rejected: int
    waiting: int
    """Batches still in a spool."""
    unscored: int
    """Pairs and log rows with a score that does not follow from their results."""
    reasons: tuple[str, ...]
    """The problems, in words; empty if there are none."""

    @property
    def good(self) -> bool:
        """Whether nothing was lost and nothing counted twice."""
        return not self.reasons


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The data for the account of a system at rest."""

    replay: Replay
    batches: Mapping[BatchKey, tuple[int, int]]
    """For each batch in the ledger, how many of its results were stored and rejected."""
    pair_scores: Mapping[Pair, float]
    """Scores of the monitors' pairs in the ledger."""
    witnessed: Mapping[BatchKey, int]
    """For each batch seen on the wire, its number of results."""
    measured: Mapping[int, int] = field(default_factory=dict)
    """Results measured by each monitor whose agent has counted all of them."""
    spooled: Spooled = field(default_factory=Spooled)

    def stored(self) -> Counter[int]:
        """Results in the ledger by monitor, according to its batches."""
        counts: Counter[int] = Counter()
        for (monitor_id, _), (stored, _) in self.batches.items():
            counts[monitor_id] += stored
        return counts

    def known_of(self, monitor_id: int) -> int:
        """Return the number of a monitor's results whose fate is known."""
        in_ledger = sum(sum(sizes) for (of, _), sizes in self.batches.items() if of == monitor_id)
        waiting = sum(results for (of, _), results in self.spooled.waiting.items() if of == monitor_id)
        return in_ledger + waiting + self.spooled.dropped.get(monitor_id, 0)


def settle(evidence: Evidence) -> Account:
    """Settle the account."""
    replay, batches, spooled = evidence.replay, evidence.batches, evidence.spooled
    stored = evidence.stored()
    known = batches.keys() | spooled.waiting.keys()
    unseen = {key: size for key, size in evidence.witnessed.items() if key not in known}
    short = sum(abs(size - sum(batches[key])) for key, size in evidence.witnessed.items() if key in batches)
    balance = {monitor: count - evidence.known_of(monitor) for monitor, count in evidence.measured.items()}
    vanished = sum(max(0, difference) for difference in balance.values())
    invented = sum(max(0, -difference) for difference in balance.values())
    without_row = sum((stored - replay.by_monitor).values())
    without_batch = sum((replay.by_monitor - stored).values())
    rejected = sum(refused for _, refused in batches.values())
    dropped = sum(spooled.dropped.values())
    moved = _moved(evidence)
    findings = {
        f"{sum(unseen.values())} results of {len(unseen)} batches that were sent are not in the ledger": len(unseen),
        f"{short} results are missing from batches in the ledger": short,
        f"{vanished} results that agents measured have disappeared": vanished,
        f"{invented} results exceed what the agents measured": invented,
        f"{without_row} results of committed batches have no log row": without_row,
        f"{without_batch} log rows belong to no batch": without_batch,
        f"{rejected} results were rejected": rejected,
        f"{dropped} results were dropped from a spool": dropped,
        f"{spooled.set_aside} batches were refused or truncated": spooled.set_aside,
        f"{replay.repeated} measurements were stored twice": replay.repeated,
        f"{replay.wrong} log rows have a score that does not follow from the previous one": replay.wrong,
        f"{moved} pairs have a score that differs from their last log row": moved,
    }
    return Account(
        committed=stored.total(),
        # A result that disappeared may have been seen on the wire, but is lost only once. The same holds for
        # duplicates.
        lost=max(sum(unseen.values()) + short, vanished) + without_row + rejected + dropped,
        duplicated=max(without_batch, replay.repeated, invented),
        rejected=rejected,
        waiting=len(spooled.waiting),
        unscored=replay.wrong + moved,
        reasons=tuple(text for text, count in findings.items() if count),
    )


def _moved(evidence: Evidence) -> int:
    """Count the pairs whose score differs from that of their last log row."""
    last = evidence.replay.scores
    return sum(not same(score, last.get(pair, 0.0)) for pair, score in evidence.pair_scores.items())

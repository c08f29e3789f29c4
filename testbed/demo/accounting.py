"""Whether anything was lost or counted twice: a pure account of what the ledger holds.

The ledger is held to itself and to a witness. Every score must be what its log rows, applied once each and in the
order in which they were stored, make of it; every log row must belong to a batch; and every batch that a witness saw on
the wire must be in the ledger, whole.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from testbed.checker.replay import BatchKey, Pair, Replay, same


@dataclass(frozen=True, slots=True)
class Spooled:
    """What the agents' spools say at the end."""

    waiting: Mapping[BatchKey, int] = field(default_factory=dict)
    """Results of the batches that are still in a spool: not lost, only late."""
    dropped: Mapping[int, int] = field(default_factory=dict)
    """Results that an agent dropped, by monitor."""
    set_aside: int = 0
    """Batches that ingest refused, or that could not be read."""


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the results."""

    committed: int
    lost: int
    duplicated: int
    rejected: int
    waiting: int
    """Batches still in a spool."""
    unscored: int
    """Pairs and log rows whose score is not what their results make of it."""
    reasons: tuple[str, ...]
    """What is wrong, in words; nothing when all is well."""

    @property
    def good(self) -> bool:
        """Nothing was lost, nothing counted twice."""
        return not self.reasons


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that the account of a system that has come to rest is made from."""

    replay: Replay
    batches: Mapping[BatchKey, tuple[int, int]]
    """How many results were stored and how many rejected, of each batch in the ledger."""
    pair_scores: Mapping[Pair, float]
    """Of the monitors' pairs in the ledger."""
    witnessed: Mapping[BatchKey, int]
    """How many results each batch had that was seen on the wire."""
    measured: Mapping[int, int] = field(default_factory=dict)
    """How many results a monitor has measured, where its agent knows them all."""
    spooled: Spooled = field(default_factory=Spooled)

    def stored(self) -> Counter[int]:
        """Results in the ledger by monitor, as its batches say."""
        counts: Counter[int] = Counter()
        for (monitor_id, _), (stored, _) in self.batches.items():
            counts[monitor_id] += stored
        return counts

    def known_of(self, monitor_id: int) -> int:
        """Results of a monitor of which anybody knows what became of them."""
        in_ledger = sum(sum(sizes) for (of, _), sizes in self.batches.items() if of == monitor_id)
        waiting = sum(results for (of, _), results in self.spooled.waiting.items() if of == monitor_id)
        return in_ledger + waiting + self.spooled.dropped.get(monitor_id, 0)


def settle(evidence: Evidence) -> Account:
    """The account."""
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
        f"{vanished} results that agents measured are nowhere": vanished,
        f"{invented} results are more than the agents measured": invented,
        f"{without_row} results of committed batches have no log row": without_row,
        f"{without_batch} log rows belong to no batch": without_batch,
        f"{rejected} results were rejected": rejected,
        f"{dropped} results were dropped from a spool": dropped,
        f"{spooled.set_aside} batches were refused or torn": spooled.set_aside,
        f"{replay.repeated} measurements were stored twice": replay.repeated,
        f"{replay.wrong} log rows have a score that does not follow from the one before": replay.wrong,
        f"{moved} pairs have another score than their last log row": moved,
    }
    return Account(
        committed=stored.total(),
        # What vanished may have been seen on the wire: it is lost once. The same with what is there twice.
        lost=max(sum(unseen.values()) + short, vanished) + without_row + rejected + dropped,
        duplicated=max(without_batch, replay.repeated, invented),
        rejected=rejected,
        waiting=len(spooled.waiting),
        unscored=replay.wrong + moved,
        reasons=tuple(text for text, count in findings.items() if count),
    )


def _moved(evidence: Evidence) -> int:
    """Pairs whose score is not that of their last log row."""
    last = evidence.replay.scores
    return sum(not same(score, last.get(pair, 0.0)) for pair, score in evidence.pair_scores.items())

"""Define the checker's findings: one value for each difference."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal[
    "lost",
    "duplicated",
    "invented",
    "contradicted",
    "misjudged",
    "score",
    "aggregate",
    "waiting",
    "assignment",
    "trusted",
]
"""
- ``lost``: acknowledged, or recorded as stored, but missing
- ``duplicated``: present twice
- ``invented``: present, but never sent
- ``contradicted``: two answers, or an answer and the ledger, disagree
- ``misjudged``: a result was rejected that should have been stored, or vice versa
- ``score``, ``aggregate``: wrong score of a pair, of a server
- ``waiting``: not at rest yet
- ``assignment``: the retained message differs from the decision
- ``trusted``: a client logged in to a broker that it must refuse
"""

MOST_SHOWN: Final = 20
"""Maximum number of differences to show of one kind; one defect may cause thousands."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A violated promise."""

    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def lines(differences: Iterable[Difference]) -> Sequence[str]:
    """Return the differences as text, by kind; of many of one kind, only the first and the number of the others."""
    found = list(differences)
    counts = Counter(difference.kind for difference in found)
    shown: list[str] = []
    for kind, count in counts.items():
        of_kind = [str(difference) for difference in found if difference.kind == kind]
        shown += of_kind[:MOST_SHOWN]
        if count > MOST_SHOWN:
            shown.append(f"{kind}: and {count - MOST_SHOWN} more")
    return shown

"""What the checker finds: one value for each thing that is not as it must be."""

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
- ``lost``: acknowledged, or remembered as stored, but not there
- ``duplicated``: there twice
- ``invented``: there, but never sent
- ``contradicted``: two answers, or an answer and the ledger, do not agree
- ``misjudged``: a result was rejected that should have been stored, or the other way round
- ``score``, ``aggregate``: of a pair, of a server
- ``waiting``: not at rest yet
- ``assignment``: what is retained and what was decided differ
- ``trusted``: somebody logged in to a broker that had to be refused
"""

MOST_SHOWN: Final = 20
"""Differences of one kind that are shown; one mistake may make thousands."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not as it must be."""

    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def lines(differences: Iterable[Difference]) -> Sequence[str]:
    """The differences as text, by kind; of many of one kind the first, and how many more there are."""
    found = list(differences)
    counts = Counter(difference.kind for difference in found)
    shown: list[str] = []
    for kind, count in counts.items():
        of_kind = [str(difference) for difference in found if difference.kind == kind]
        shown += of_kind[:MOST_SHOWN]
        if count > MOST_SHOWN:
            shown.append(f"{kind}: and {count - MOST_SHOWN} more")
    return shown

"""Measure how good the final assignments are: the share of random pool-like worlds in which an exchange across a
constraint would still be an improvement.

`python -m testbed.selection.measure WORLDS [FIRST]` reviews each world until nothing changes, and prints one JSON
object. In an exchange across a constraint, a monitor that is ready to be active but excluded by a constraint replaces
the only active monitor in its way, which is clearly worse. Sums are of the priorities of active monitors.
"""

import json
import sys

from testbed.selection import oracle, proof
from testbed.selection.oracle import ACTIVE
from testbed.selection.worlds import Scene, pool_scene


def measure(worlds: int, first: int = 0) -> dict[str, float]:
    """Count over ``worlds`` worlds, from seed ``first`` on."""
    found = {"worlds": 0, "exchange_remains": 0, "not_settled": 0, "starving": 0, "most_reviews": 0}
    active = total = 0.0
    for seed in range(first, first + worlds):
        found["worlds"] += 1
        scene = pool_scene(seed)
        try:
            reviews, end, _ = proof.settle(scene)
        except AssertionError:
            found["not_settled"] += 1
            continue
        found["most_reviews"] = max(found["most_reviews"], reviews)
        found["exchange_remains"] += bool(oracle.exchanges(end, oracle.before(end)))
        found["starving"] += not _feeds(scene)
        best = [oracle.priority(one) for one in end.judged if one.pair_status is ACTIVE and oracle.healthy(one)]
        active, total = active + len(best), total + sum(best)
    share = round(100 * found["exchange_remains"] / worlds, 2)
    return found | {"percent": share, "active": active / worlds, "mean_priority": round(total / max(active, 1), 1)}


def _feeds(scene: Scene) -> bool:
    try:
        proof.selection_does_not_starve(scene)
    except AssertionError:
        return False
    return True


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(*map(int, sys.argv[1:]))) + "\n")

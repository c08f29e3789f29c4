"""Define the rules of a review; `ORDER` is the order in which they are applied.

The numbers in their names are those that the pool's operators use. They are not consecutive and do not give the
order: 1.5 comes after 2, 2.5 after 5, and 6 last.
"""

from selector.rules import (
    exchange,
    leave_at_once,
    leave_gradually,
    paused,
    promotions,
    reserved_places,
    swap_into_active,
    swap_into_testing,
    too_many,
)

ORDER = (
    leave_at_once.RULE,
    exchange.RULE,
    leave_gradually.RULE,
    too_many.TOO_MANY_ACTIVE_RULE,
    promotions.PROMOTE_TO_ACTIVE_RULE,
    swap_into_active.RULE,
    reserved_places.RULE,
    promotions.PROMOTE_TO_TESTING_RULE,
    swap_into_testing.RULE,
    too_many.TOO_MANY_TESTING_RULE,
    paused.RULE,
    promotions.NO_TESTING_RULE,
)

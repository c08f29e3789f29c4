"""The rules of a review, one file each; `ORDER` is the order in which they are applied.

The number after `s` is that order. The metrics in the rules' names are the ones the pool's operators know them
by: they are not consecutive, and 1.5 comes after 2, 2.5 after 5, 6 last.
"""

from selector.rules import (
    s01_rule1_leave_at_once,
    s02_rule3_exchange,
    s03_rule2_out,
    s04_rule1_5_too_many_active,
    s05_rule3_promote,
    s06_rule3_swap,
    s07_rule5_reserve,
    s08_rule5_promote,
    s09_rule5_swap,
    s10_rule2_5_too_many_testing,
    s11_rule7_paused,
    s12_rule6_no_testing,
)

ORDER = (
    s01_rule1_leave_at_once.RULE,
    s02_rule3_exchange.RULE,
    s03_rule2_out.RULE,
    s04_rule1_5_too_many_active.RULE,
    s05_rule3_promote.RULE,
    s06_rule3_swap.RULE,
    s07_rule5_reserve.RULE,
    s08_rule5_promote.RULE,
    s09_rule5_swap.RULE,
    s10_rule2_5_too_many_testing.RULE,
    s11_rule7_paused.RULE,
    s12_rule6_no_testing.RULE,
)

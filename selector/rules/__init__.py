"""The rules of a review, one file each; `ORDER` is the order in which they are applied.

The number after `s` is that order. The numbers in the rules' names are the ones the pool's operators know them
by: they are not consecutive, and 1.5 comes after 2, 2.5 after 5, 6 last.
"""

from selector.rules import (
    s01_rule1_leave_at_once,
    s02_rule2_out,
    s03_rule1_5_too_many_active,
    s04_rule3_promote,
    s05_rule3_swap,
    s06_rule5_reserve,
    s07_rule5_promote,
    s08_rule5_swap,
    s09_rule2_5_too_many_testing,
    s10_rule7_paused,
    s11_rule6_no_testing,
)

ORDER = (
    s01_rule1_leave_at_once.RULE,
    s02_rule2_out.RULE,
    s03_rule1_5_too_many_active.RULE,
    s04_rule3_promote.RULE,
    s05_rule3_swap.RULE,
    s06_rule5_reserve.RULE,
    s07_rule5_promote.RULE,
    s08_rule5_swap.RULE,
    s09_rule2_5_too_many_testing.RULE,
    s10_rule7_paused.RULE,
    s11_rule6_no_testing.RULE,
)

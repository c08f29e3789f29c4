"""Run the whole system under load while a seeded plan breaks it, then compare everything with everything.

``scripts/faults`` is the command. ``docs/reliability.md`` has the promises and the findings.
"""

"""Fault runs: the whole system under load, while a seeded plan breaks it; then everything is compared with everything.

``scripts/faults`` runs them. What is promised, and what was found, is told in ``docs/reliability.md``.
"""

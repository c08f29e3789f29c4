"""Holds a run to its promises: what was sent, what was acknowledged and what the ledger and the broker hold must agree.

Nothing lost, nothing twice, every score the one that its results make, every assignment told as decided. For demo,
tests, benchmarks and fault runs, and by hand with ``python -m testbed.checker``.
"""

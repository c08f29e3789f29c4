"""Check a run against its promises: messages sent and acknowledged, the ledger and the broker must agree.

Nothing is lost or duplicated, every score follows from its results, and every assignment is published as decided. Used
by demo, tests, benchmarks and fault runs, and from the command line: ``python -m testbed.checker``.
"""

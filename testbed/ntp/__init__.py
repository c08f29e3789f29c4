"""Run NTP servers with known faults, and a private chronyd: for demo, tests and benchmarks."""

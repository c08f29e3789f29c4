"""NTP servers with known faults, a TCP fault proxy and a private chronyd: for demo, tests and benchmarks."""

"""The whole system on one machine: real processes, real NTP packets, made-up people."""

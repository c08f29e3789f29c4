"""Run the whole system on one machine: real processes, real NTP packets, invented people."""
